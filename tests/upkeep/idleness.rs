//! When an engine is idle, and what it does then.

use std::time::Duration;

use crate::common::{Machine, fresh};
use idemkv::{Engine, Options, Policy};

const SECOND: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_secs(1_000);
const LONG: Duration = Duration::from_secs(100 * 24 * 3_600);

fn options(machine: &Machine) -> Options {
    machine.options().policy(Policy::default().ttl(SHORT)).cache_bytes(1 << 20)
}

/// Fills the file with results, most of which are short-lived, and lets those expire.
fn let_most_expire(machine: &Machine, engine: &Engine) {
    let long = engine.set_policy("long", Policy::default().ttl(LONG)).unwrap();
    for n in 0..8 * 256 {
        let scope = if n % 100 < 20 { long.clone() } else { engine.scope("") };
        fresh(&scope, &n.to_string()).complete([7; 3_900]).unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(SHORT);
}

fn step(machine: &Machine, engine: &Engine, seconds: u64) {
    for _ in 0..seconds {
        machine.clock.advance(SECOND);
        engine.step();
    }
}

#[test]
fn an_engine_that_was_just_opened_is_busy_for_as_long_as_any_other_before_it_compacts() {
    let machine = Machine::default();
    let engine = options(&machine).open("x.idem").unwrap();
    let_most_expire(&machine, &engine);
    // Drops what has expired. Closing comes before the engine is idle.
    engine.checkpoint().unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();

    let engine = options(&machine).open("x.idem").unwrap();
    let before = engine.stats().file_bytes;
    engine.step();
    step(&machine, &engine, 9);
    assert_eq!(engine.stats().file_bytes, before, "it has been open for nine seconds");
    step(&machine, &engine, 2);
    assert!(engine.stats().file_bytes < before, "{before} bytes still");
}

#[test]
fn an_engine_that_notes_the_time_often_is_idle_all_the_same() {
    for jump in [0, 30, 3_600] {
        let machine = Machine::default();
        let engine = options(&machine).max_clock_jump(jump * SECOND).open("x.idem").unwrap();
        let_most_expire(&machine, &engine);
        let before = engine.stats().file_bytes;
        step(&machine, &engine, 900);
        let after = engine.stats().file_bytes;
        assert!(after < before / 2, "max_clock_jump {jump} s: {before} bytes, then {after}");
    }
}

#[test]
fn an_idle_hour_costs_less_than_a_mebibyte_however_short_the_clock_jump_is() {
    for jump in [0, 1, 30] {
        let machine = Machine::default();
        let engine = machine.options().max_clock_jump(jump * SECOND).open("x.idem").unwrap();
        engine.step();
        let before = machine.disk.written();
        step(&machine, &engine, 3_600);
        let bytes = machine.disk.written() - before;
        assert!(bytes < 1 << 20, "max_clock_jump {jump} s: {bytes} bytes");
    }
}
