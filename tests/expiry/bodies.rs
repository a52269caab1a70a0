//! How long a body stays once its TTL is over.

use std::time::Duration;

use crate::common::{Machine, fresh};
use idemkv::{Engine, Policy, Scope, Status};

const HOUR: Duration = Duration::from_secs(3_600);
/// What the documents promise beyond the TTL: ten minutes for the file, a minute for memory.
const LATE: Duration = Duration::from_secs(660);
const BODY: usize = 4_000;

fn open(machine: &Machine, policy: Policy) -> Engine {
    machine.options().policy(policy).open("x.idem").unwrap()
}

/// Lets the worker work for so long, a step a second.
fn pass(machine: &Machine, engine: &Engine, time: Duration) {
    for _ in 0..time.as_secs() {
        machine.clock.advance(Duration::from_secs(1));
        engine.step();
    }
}

#[test]
fn on_a_quiet_service_no_body_stays_in_memory_for_much_longer_than_its_ttl() {
    for tombstone in [None, Some(30 * 24 * HOUR)] {
        let machine = Machine::default();
        let policy = Policy::default().ttl(HOUR);
        let policy = tombstone.map_or(policy, |ttl| policy.tombstone_ttl(ttl));
        let engine = open(&machine, policy);
        // One completion an hour: the log never fills.
        for n in 0..24 {
            fresh(&engine.scope(""), &n.to_string()).complete(vec![n; BODY]).unwrap();
            pass(&machine, &engine, HOUR);
            let bytes = engine.stats().cached_bytes;
            assert!(bytes < 2 * BODY + 24 * 300, "{bytes} bytes after {n} hours");
        }
        pass(&machine, &engine, LATE);
        let bytes = engine.stats().cached_bytes;
        assert!(bytes < BODY, "{bytes} bytes when all have expired");
        for n in 0..24 {
            let status = engine.default_scope().get(n.to_string()).unwrap();
            assert!(matches!(status, Status::Expired(_)) == tombstone.is_some(), "{status}");
        }
    }
}

#[test]
fn bodies_that_expire_one_after_the_other_cost_a_commit_of_the_store_every_ten_minutes_at_most() {
    let machine = Machine::default();
    let engine = open(&machine, Policy::default().ttl(24 * HOUR));
    for n in 0..200 {
        fresh(&engine.scope(""), &n.to_string()).complete([7; 100]).unwrap();
        // A block of its own for each.
        engine.checkpoint().unwrap();
        pass(&machine, &engine, Duration::from_secs(60));
    }
    pass(&machine, &engine, 20 * HOUR);
    let before = engine.stats().checkpoints;
    pass(&machine, &engine, 4 * HOUR);
    let checkpoints = engine.stats().checkpoints - before;
    assert!((2..=24).contains(&checkpoints), "{checkpoints} checkpoints in four hours");
}

/// A day's policy, so that blocks go every ten minutes, and a scope of an hour whose keys are
/// remembered for much longer.
fn open_with_tombstones(machine: &Machine) -> (Engine, Scope) {
    let engine = open(machine, Policy::default().ttl(24 * HOUR));
    let scope = engine.set_policy("hour", Policy::default().ttl(HOUR).tombstone_ttl(100 * HOUR)).unwrap();
    (engine, scope)
}

#[test]
fn the_sweeper_takes_an_expired_body_out_of_memory_long_before_its_block_goes() {
    let machine = Machine::default();
    let (engine, scope) = open_with_tombstones(&machine);
    let minute = Duration::from_secs(60);
    for key in ["first", "second"] {
        fresh(&scope, key).complete(vec![b'x'; BODY]).unwrap();
        // A block for each.
        engine.checkpoint().unwrap();
        machine.clock.advance(minute);
    }
    machine.clock.advance(HOUR - 2 * minute);
    engine.step();
    assert_eq!(engine.stats().reclaimed_blocks, 1, "the next one goes in ten minutes");
    pass(&machine, &engine, 2 * minute);
    let bytes = engine.stats().cached_bytes;
    assert_eq!(engine.stats().reclaimed_blocks, 1);
    assert!(bytes < BODY, "{bytes} bytes");
    assert!(matches!(scope.get("second").unwrap(), Status::Expired(_)));
}

#[test]
fn a_late_retry_does_not_bring_an_expired_body_back_into_memory() {
    let machine = Machine::default();
    let (engine, scope) = open_with_tombstones(&machine);
    fresh(&scope, "key").complete(vec![b'x'; BODY]).unwrap();
    drop(scope);
    engine.close().unwrap();
    let (engine, scope) = open_with_tombstones(&machine);
    machine.clock.advance(HOUR);
    for _ in 0..2 {
        assert!(matches!(scope.get("key").unwrap(), Status::Expired(_)));
        let bytes = engine.stats().cached_bytes;
        assert!(0 < bytes && bytes < BODY, "{bytes} bytes");
    }
}
