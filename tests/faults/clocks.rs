//! Wall clocks that jump, and time that goes by while the file is closed.

use std::time::Duration;

use crate::common::{Machine, START_MS, TTL, default_scope, done, fresh};
use idemkv::Status;

const YEAR_MS: u64 = 365 * 24 * 3_600_000;

#[test]
fn a_wall_clock_that_jumps_while_the_file_is_open_changes_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    for wall in [0, u64::MAX, START_MS + 100 * YEAR_MS, START_MS] {
        machine.clock.jump_wall_to_millis(wall);
        engine.step();
        done(&scope, "key");
    }
    machine.clock.advance(TTL);
    drop(fresh(&scope, "key"));
}

#[test]
fn a_wall_clock_that_jumps_between_two_openings_expires_nothing_at_once() {
    for wall in [0, START_MS - YEAR_MS, START_MS + YEAR_MS, START_MS + 200 * YEAR_MS, u64::MAX] {
        for (clean, boots) in [(true, true), (false, true), (true, false), (false, false)] {
            let machine = Machine::default();
            let options = || machine.options().ttl(TTL * 24).max_clock_jump(TTL);
            let engine = options().open("x.idem").unwrap();
            let scope = default_scope(&engine);
            fresh(&scope, "key").complete("reply").unwrap();
            drop(scope);
            if clean {
                engine.close().unwrap();
            } else {
                machine.kill(engine);
            }
            if boots {
                machine.clock.reboot();
            }
            machine.clock.jump_wall_to_millis(wall);
            let engine = options().open("x.idem").unwrap();
            assert_eq!(done(&default_scope(&engine), "key").body(), b"reply", "wall clock at {wall}");
            machine.clock.advance(TTL * 22);
            done(&default_scope(&engine), "key");
            machine.clock.advance(TTL * 2);
            drop(fresh(&default_scope(&engine), "key"));
        }
    }
}

/// At the last moment that a number of milliseconds can tell, a lease would be over as soon as it
/// began.
#[test]
fn a_file_made_under_a_wall_clock_beyond_all_reason_works_like_any_other() {
    for wall in [u64::MAX, u64::MAX - YEAR_MS, i64::MAX.cast_unsigned()] {
        let machine = Machine::default();
        machine.clock.jump_wall_to_millis(wall);
        let engine = machine.open();
        let leased = engine.set_policy("leased", engine.policy().lease(TTL)).unwrap();
        fresh(&leased, "key").complete("reply").unwrap();
        drop((leased, engine));
        let engine = machine.open();
        assert_eq!(done(&engine.scope("leased"), "key").body(), b"reply");
        machine.clock.advance(TTL);
        drop(fresh(&engine.scope("leased"), "key"));
    }
}

#[test]
fn time_that_went_by_while_the_file_was_closed_counts_and_over_a_reboot_up_to_the_limit() {
    for (boots, limit, is_over) in
        [(true, TTL * 2, true), (true, TTL / 2, false), (false, TTL / 2, true), (false, Duration::ZERO, true)]
    {
        let machine = Machine::default();
        let options = || machine.options().ttl(TTL).max_clock_jump(limit);
        let engine = options().open("x.idem").unwrap();
        fresh(&default_scope(&engine), "key").complete("reply").unwrap();
        engine.close().unwrap();
        if boots {
            machine.clock.reboot();
        }
        machine.clock.advance(TTL);
        let engine = options().open("x.idem").unwrap();
        assert_eq!(
            matches!(engine.default_scope().get("key").unwrap(), Status::Vacant),
            is_over,
            "{boots}, {limit:?}"
        );
    }
}

#[test]
fn an_idle_engine_remembers_the_time_over_a_kill() {
    let machine = Machine::default();
    let options = || machine.options().ttl(TTL * 100).max_clock_jump(Duration::from_secs(60));
    let engine = options().open("x.idem").unwrap();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    for _ in 0..120 {
        machine.clock.advance(Duration::from_secs(30));
        engine.step();
    }
    assert!(engine.stats().commits > 2, "the time is written without anybody asking");
    let before = engine.now();
    machine.kill(engine);
    // With a wall clock that says nothing.
    machine.clock.reboot();
    machine.clock.jump_wall_to_millis(0);
    let engine = options().open("x.idem").unwrap();
    assert_eq!(engine.now(), before);
}

#[test]
fn time_does_not_go_back_behind_a_clean_close() {
    let machine = Machine::default();
    let engine = machine.open();
    machine.clock.advance(TTL / 2);
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    let before = engine.now();
    engine.close().unwrap();
    machine.clock.jump_wall_to_millis(START_MS);
    assert!(machine.open().now() >= before);
}
