//! The sweeper's work follows what falls due, not how many keys there are.

use std::time::Duration;

use crate::common::{Machine, fresh};
use idemkv::{Engine, Policy};

/// Keys that stay for a week, beside a default policy of half a second.
const LONG: usize = 20_000;
const SHORT_TTL: Duration = Duration::from_millis(500);

/// An engine, and how many cells it passes to find out what it has.
fn with_long_lived_keys(machine: &Machine) -> (Engine, usize) {
    let options = machine.options().policy(Policy::default().ttl(SHORT_TTL)).cache_bytes(1 << 20).shards(4);
    let engine = options.log_bytes(16 << 20).open("x.idem").unwrap();
    let week = Policy::default().ttl(Duration::from_secs(7 * 24 * 3_600));
    let long = engine.set_policy("long", week).unwrap();
    for key in 0..LONG {
        fresh(&long, &key.to_string()).complete([]).unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(Duration::from_secs(60));
    (engine.clone(), engine.step().passed)
}

#[test]
fn an_idle_engine_does_not_pass_all_keys_again_and_again() {
    let machine = Machine::default();
    let (engine, cells) = with_long_lived_keys(&machine);
    assert!(cells >= LONG);
    let mut passed = 0;
    // Ten minutes, in steps of a worker's.
    for _ in 0..12_000 {
        machine.clock.advance(Duration::from_millis(50));
        passed += engine.step().passed;
    }
    assert!(passed <= 10 * cells, "{passed} cells in ten minutes, of {cells}");
}

#[test]
fn keys_with_a_short_life_leave_memory_at_a_cost_for_each_and_soon() {
    let machine = Machine::default();
    let (engine, cells) = with_long_lived_keys(&machine);
    let (mut passed, mut most) = (0, 0);
    let rounds = 200;
    for round in 0..rounds {
        for key in 0..100 {
            fresh(&engine.scope(""), &format!("{round} {key}")).complete([]).unwrap();
        }
        machine.clock.advance(Duration::from_millis(100));
        passed += engine.step().passed;
        most = most.max(engine.stats().entries);
    }
    let short = rounds * 100;
    assert!(passed <= 20 * short, "{passed} cells for {short} keys");
    // Those of the last half second, and a sixteenth of the cells.
    assert!(most <= LONG + 600 + cells / 8, "{most} keys");
    machine.clock.advance(Duration::from_secs(600));
    engine.step();
    assert_eq!(engine.stats().entries, LONG);
}

#[test]
fn interrupted_keys_leave_memory_once_their_time_is_over_after_a_kill_too() {
    let lost = 50;
    for is_killed in [false, true] {
        let machine = Machine::default();
        let (mut engine, cells) = with_long_lived_keys(&machine);
        let policy = engine.policy().unresolved_ttl(Duration::from_secs(1));
        let scope = engine.set_policy("lost", policy).unwrap();
        (0..lost).for_each(|key| drop(fresh(&scope, &key.to_string())));
        assert_eq!(engine.stats().interrupted, lost);
        if is_killed {
            machine.kill((engine, scope));
            engine =
                machine.options().cache_bytes(1 << 20).shards(4).log_bytes(16 << 20).open("x.idem").unwrap();
        }
        let mut passed = 0;
        for _ in 0..600 {
            machine.clock.advance(Duration::from_secs(1));
            passed += engine.step().passed;
        }
        assert_eq!((engine.stats().interrupted, engine.stats().entries), (0, LONG), "killed: {is_killed}");
        assert!(passed <= 10 * cells, "{passed} cells in ten minutes, of {cells}");
    }
}
