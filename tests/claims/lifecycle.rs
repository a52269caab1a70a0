//! A key's life: granted, ended in each way, replayed, found again after a restart.

use std::time::Duration;

use crate::common::{Machine, START_MS, TTL, default_scope, done, fresh, request};
use idemkv::{Begin, BeginError, Durability, Fingerprint, Outcome, Status, Timestamp, Waited};

#[test]
fn a_completed_key_is_replayed_with_everything_that_was_stored() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("POST /v1/charges");
    let claim = fresh(&scope, "key");
    machine.clock.advance(Duration::from_millis(250));
    claim.complete("reply").unwrap();
    let record = done(&scope, "key");
    assert_eq!((record.outcome(), record.body()), (Outcome::Success, &b"reply"[..]));
    assert_eq!((record.scope(), record.key()), (&b"POST /v1/charges"[..], &b"key"[..]));
    assert_eq!((record.attempt(), record.fingerprint()), (1, &request()));
    assert_eq!(record.started(), Timestamp::from_millis(START_MS));
    assert_eq!(record.completed(), Timestamp::from_millis(START_MS + 250));
    assert_eq!(record.expires(), record.completed().saturating_add(TTL));
}

#[test]
fn a_failure_is_replayed_as_faithfully_as_a_success() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").fail("card declined").unwrap();
    machine.kill(engine);
    let record = done(&default_scope(&machine.open()), "key");
    assert_eq!((record.outcome(), record.body()), (Outcome::Failure, &b"card declined"[..]));
}

#[test]
fn a_released_key_is_vacant_also_after_a_kill() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").release().unwrap();
    machine.kill(engine);
    let claim = fresh(&default_scope(&machine.open()), "key");
    assert_eq!((claim.attempt(), claim.interrupted()), (1, None));
}

#[test]
fn a_dropped_claim_leaves_an_interrupted_key_that_the_next_claim_tells_of() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let first = fresh(&scope, "key");
    let fence = first.fence();
    drop(first);
    let second = fresh(&scope, "key");
    let earlier = second.interrupted().unwrap();
    assert_eq!((earlier.attempt(), earlier.fence()), (1, fence));
    assert_eq!(earlier.started(), Timestamp::from_millis(START_MS));
    assert!(second.fence() > fence);
    let record = second.complete("reply").unwrap();
    assert_eq!(record.attempt(), 2);
}

#[test]
fn a_release_does_not_speak_for_an_earlier_attempt_that_was_interrupted() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    for attempt in 2..5 {
        let claim = fresh(&scope, "key");
        assert_eq!(claim.attempt(), attempt);
        assert_eq!(claim.interrupted().map(|earlier| earlier.attempt()), Some(1));
        claim.release().unwrap();
    }
    machine.kill((engine, scope));
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    assert_eq!((claim.attempt(), claim.interrupted().map(|earlier| earlier.attempt())), (5, Some(1)));
    claim.release().unwrap();
    assert!(engine.default_scope().forget("key").unwrap());
    assert_eq!(fresh(&default_scope(&engine), "key").attempt(), 1);
}

#[test]
fn a_panic_leaves_the_key_interrupted() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    let panicked = std::thread::spawn(move || {
        let _claim = claim;
        std::panic::panic_any("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(fresh(&scope, "key").attempt(), 2);
}

#[test]
fn a_kill_leaves_the_key_interrupted_at_once_and_attempts_count_on() {
    let machine = Machine::rerun();
    for attempt in 1..=3 {
        let engine = machine.open();
        let claim = fresh(&default_scope(&engine), "key");
        assert_eq!(claim.attempt(), attempt);
        assert_eq!(claim.interrupted().map_or(0, |earlier| earlier.attempt()), attempt - 1);
        machine.kill((engine, claim));
    }
}

#[test]
fn fences_grow_over_restarts_clean_or_not() {
    let machine = Machine::default();
    let mut last = None;
    for round in 0..6 {
        let engine = machine.open();
        let claim = fresh(&default_scope(&engine), &format!("key {round}"));
        assert!(Some(claim.fence()) > last);
        last = Some(claim.fence());
        claim.complete("").unwrap();
        if round % 2 == 0 {
            engine.close().unwrap();
        } else {
            machine.kill(engine);
        }
    }
}

#[test]
fn another_fingerprint_is_refused_in_every_state() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let other = Fingerprint::of("another request");
    let refused = |state: &str| {
        let answer = scope.begin("key", other);
        assert!(matches!(answer, Err(BeginError::KeyReused)), "{state}: {answer:?}");
    };
    let claim = fresh(&scope, "key");
    refused("in flight");
    drop(claim);
    refused("interrupted");
    fresh(&scope, "key").complete("reply").unwrap();
    refused("done, in memory");
    engine.checkpoint().unwrap();
    drop(scope);
    engine.close().unwrap();
    let engine = machine.open();
    let answer = engine.default_scope().begin("key", other);
    assert!(matches!(answer, Err(BeginError::KeyReused)), "done, on disk: {answer:?}");
    assert_eq!(engine.stats().reused, 1);
    machine.clock.advance(TTL);
    assert!(
        matches!(engine.default_scope().begin("key", other), Ok(Begin::Fresh(_))),
        "an expired key is nobody's"
    );
}

#[test]
fn memory_only_intents_cost_no_commit_and_are_gone_after_a_kill() {
    let machine = Machine::rerun();
    let engine = machine.options().durability(Durability::Completions).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let out = fresh(&scope, "out");
    fresh(&scope, "released").release().unwrap();
    assert_eq!(engine.stats().commits, 0);
    fresh(&scope, "done").complete("reply").unwrap();
    assert_eq!(engine.stats().commits, 1);
    machine.kill((engine, scope, out));
    let engine = machine.open();
    assert!(matches!(engine.default_scope().get("out").unwrap(), Status::Vacant));
    assert_eq!(done(&default_scope(&engine), "done").body(), b"reply");
}

#[test]
fn those_who_wait_learn_how_it_ended() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let pending = |key: &str| match scope.begin(key, request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("{key} should be in flight: {other:?}"),
    };
    let (a, b, c, d) = (fresh(&scope, "a"), fresh(&scope, "b"), fresh(&scope, "c"), fresh(&scope, "d"));
    let waits: Vec<_> = ["a", "b", "c", "d"]
        .map(pending)
        .into_iter()
        .map(|pending| std::thread::spawn(move || pending.wait().unwrap()))
        .collect();
    a.complete("reply").unwrap();
    b.fail("refused").unwrap();
    c.release().unwrap();
    drop(d);
    let ends: Vec<_> = waits.into_iter().map(|wait| wait.join().unwrap()).collect();
    assert!(matches!(&ends[0], Waited::Done(record) if record.outcome() == Outcome::Success));
    assert!(matches!(&ends[1], Waited::Done(record) if record.outcome() == Outcome::Failure));
    assert!(matches!(ends[2], Waited::Vacant));
    assert!(matches!(ends[3], Waited::Interrupted));
}

#[test]
fn whoever_waits_can_tell_since_when_the_other_has_run() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    machine.clock.advance(Duration::from_secs(7));
    let Ok(Begin::InFlight(pending)) = scope.begin("key", request()) else { panic!("it is out") };
    assert_eq!((pending.started(), pending.attempt()), (claim.started(), 1));
    assert_eq!(engine.now().saturating_since(pending.started()), Duration::from_secs(7));
}

#[test]
fn a_steps_key_is_the_same_in_every_attempt_and_in_no_other_operation() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let first = fresh(&scope, "key");
    let charge = first.step_key("charge");
    let others = [
        first.step_key("receipt"),
        fresh(&scope, "other").step_key("charge"),
        fresh(&engine.scope("other"), "key").step_key("charge"),
    ];
    assert!(others.iter().all(|other| *other != charge));
    drop(scope);
    machine.kill((engine, first));
    let engine = machine.open();
    let again = fresh(&default_scope(&engine), "key");
    assert_eq!((again.attempt(), again.step_key("charge")), (2, charge));
    let elsewhere = Machine::rerun().options().seed(2).open("x.idem").unwrap();
    assert_ne!(fresh(&default_scope(&elsewhere), "key").step_key("charge"), charge);
}
