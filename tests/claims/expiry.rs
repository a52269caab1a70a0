//! Records, interrupted keys and claims at the end of their time.

use std::time::Duration;

use crate::common::{Machine, TTL, UNRESOLVED, default_scope, done, fresh, request};
use idemkv::{Begin, Durability, Status};

#[test]
fn a_record_lives_to_the_last_millisecond_of_its_ttl_and_no_longer() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    machine.clock.advance(TTL.checked_sub(Duration::from_millis(1)).unwrap());
    done(&scope, "key");
    machine.clock.advance(Duration::from_millis(1));
    let claim = fresh(&scope, "key");
    assert_eq!((claim.attempt(), claim.interrupted()), (1, None));
}

#[test]
fn expiry_holds_for_records_on_disk_alone_too() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(0).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(done(&scope, "key").body(), b"reply");
    assert_eq!(engine.stats().loaded, 1);
    machine.clock.advance(Duration::from_millis(1));
    fresh(&scope, "key").complete("second").unwrap();
    assert_eq!(done(&scope, "key").body(), b"second");
}

#[test]
fn a_claim_that_is_out_does_not_expire() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    machine.clock.advance(TTL * 10);
    engine.step();
    assert!(matches!(scope.begin("key", request()), Ok(Begin::InFlight(_))));
    claim.complete("late").unwrap();
    assert_eq!(done(&scope, "key").body(), b"late");
}

#[test]
fn an_interrupted_key_is_remembered_for_its_time_and_its_row_goes_too() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    engine.checkpoint().unwrap();
    machine.clock.advance(UNRESOLVED.checked_sub(Duration::from_millis(1)).unwrap());
    engine.step();
    assert!(matches!(scope.get("key").unwrap(), Status::Interrupted(_)));
    machine.clock.advance(Duration::from_millis(1));
    assert!(matches!(scope.get("key").unwrap(), Status::Vacant));
    machine.clock.advance(TTL);
    engine.step();
    assert_eq!(engine.stats().entries, 0);
    drop(scope);
    engine.close().unwrap();
    assert_eq!(machine.open().entries().count(), 0);
}

#[test]
fn the_sweeper_removes_what_expired_and_nothing_else() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    for n in 0..300 {
        fresh(&scope, &format!("old {n}")).complete("reply").unwrap();
    }
    machine.clock.advance(TTL / 2);
    for n in 0..200 {
        fresh(&scope, &format!("new {n}")).complete("reply").unwrap();
    }
    machine.clock.advance(TTL / 2);
    assert_eq!(engine.stats().entries, 500);
    engine.step();
    assert_eq!(engine.stats().entries, 200);
    assert_eq!(engine.entries().count(), 200);
    assert_eq!(engine.stats().expired, 300);
    machine.clock.advance(TTL);
    engine.step();
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().entries, 0);
}

/// The index keeps expiry in whole seconds, the record in milliseconds; with no room in the cache
/// the two meet at every begin.
#[test]
fn a_record_that_expired_within_the_second_is_found_so_without_a_cache() {
    let machine = Machine::default();
    let ttl = Duration::from_millis(1_500);
    let engine = machine.options().cache_bytes(0).shards(1).ttl(ttl).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("one").unwrap();
    engine.checkpoint().unwrap();
    machine.clock.advance(ttl);
    assert_eq!(fresh(&scope, "key").attempt(), 1);
}

#[test]
fn one_step_sweeps_however_many_keys_one_shard_has() {
    const KEYS: usize = 5_000;
    let machine = Machine::rerun();
    let options = machine.options().shards(1).reserve_bytes(0).durability(Durability::Completions);
    let engine = options.open("x.idem").unwrap();
    for first in (0..KEYS).step_by(100) {
        let requests: Vec<_> = (first..first + 100).map(|n| (n.to_string(), request())).collect();
        let claims = engine.default_scope().begin_many(&requests).into_iter().map(|begun| match begun {
            Ok(Begin::Fresh(claim)) => (claim, ""),
            other => panic!("{other:?}"),
        });
        assert!(engine.complete_many(claims.collect()).iter().all(Result::is_ok));
    }
    assert_eq!(engine.step().swept, 0);
    machine.clock.advance(TTL);
    let swept = engine.step().swept;
    assert!(swept > KEYS - 10, "{swept}");
    // A key that a removal moved to where the pass had been comes next time.
    machine.clock.advance(TTL);
    assert_eq!(swept + engine.step().swept, KEYS);
    assert_eq!(engine.stats().entries, 0);
}
