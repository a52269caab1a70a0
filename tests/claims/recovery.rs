//! Interrupted keys: attempts, and who resolves what.

use crate::common::{Machine, TTL, UNRESOLVED, done, fresh, poll, request, run};
use crate::helpers::{Fences, GAPS, LEASE, MS, jobs, pass, pending, rerun, with};
use idemkv::{BeginError, Durability, Fingerprint, Recovery, ResolveError, Scope, Status};

#[track_caller]
fn unresolved(scope: &Scope, key: &str) -> u32 {
    match scope.begin(key, request()) {
        Err(BeginError::Unresolved(attempt)) => attempt.attempt(),
        other => panic!("{key} should be unresolved, is {other:?}"),
    }
}

#[test]
fn a_scope_that_refuses_wants_its_interrupted_keys_resolved_however_they_came_about() {
    for gap in GAPS {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = with(&engine, "scope", engine.policy().recovery(Recovery::Refuse).lease(LEASE));
        drop(fresh(&scope, "dropped"));
        let lapsed = fresh(&scope, "lapsed");
        machine.clock.advance(LEASE);
        assert_eq!((unresolved(&scope, "dropped"), unresolved(&scope, "lapsed")), (1, 1));
        drop((lapsed, scope));
        let engine = pass(&machine, engine, gap);
        let scope = engine.scope("scope");
        for key in ["dropped", "lapsed"] {
            assert_eq!(unresolved(&scope, key), 1, "{gap:?}");
            let reused = scope.begin(key, Fingerprint::of("another"));
            assert!(matches!(reused, Err(BeginError::KeyReused)));
            let claim = scope.resolve(key).unwrap();
            assert_eq!((claim.attempt(), claim.interrupted().unwrap().attempt()), (2, 1));
            assert_eq!(claim.fingerprint(), &request());
            claim.complete("charged").unwrap();
            assert_eq!(done(&scope, key).body(), b"charged");
        }
    }
}

#[test]
fn attempts_are_granted_up_to_their_limit_and_the_policy_of_the_moment_decides() {
    let machine = Machine::rerun();
    let mut engine = machine.open();
    let policy = rerun(&engine).max_attempts(3).unresolved_forever();
    for attempt in 1..=3 {
        let scope = with(&engine, "scope", policy);
        let claim = fresh(&scope, "key");
        assert_eq!(claim.attempt(), attempt);
        machine.kill((engine, scope, claim));
        engine = machine.open();
    }
    let scope = engine.scope("scope");
    assert_eq!(unresolved(&scope, "key"), 3);
    let many = scope.begin_many(&[("key", request())]);
    assert!(matches!(many.as_slice(), [Err(BeginError::Unresolved(_))]));
    with(&engine, "scope", policy.max_attempts(4));
    drop(fresh(&scope, "key"));
    assert_eq!(unresolved(&scope, "key"), 4);
    machine.clock.advance(100 * TTL);
    engine.step();
    assert_eq!(
        unresolved(&scope, "key"),
        4,
        "what may not run again by itself stays until somebody resolves it"
    );
    scope.resolve("key").unwrap().release().unwrap();
    assert_eq!(fresh(&scope, "key").attempt(), 1);
}

#[test]
fn only_an_interrupted_key_is_resolved() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let status = |key: &str| match scope.resolve(key) {
        Err(ResolveError::NotInterrupted(status)) => *status,
        other => panic!("{key}: {other:?}"),
    };
    assert!(matches!(status("vacant"), Status::Vacant));
    let out = fresh(&scope, "out");
    assert!(matches!(status("out"), Status::InFlight(_)));
    fresh(&scope, "done").complete("reply").unwrap();
    assert!(matches!(status("done"), Status::Done(_)));
    drop(fresh(&scope, "expired"));
    machine.clock.advance(LEASE);
    let claim = scope.resolve("out").unwrap();
    assert!(claim.fence() > out.fence());
    assert!(matches!(status("out"), Status::InFlight(info) if info.attempt() == 2));
    machine.clock.advance(UNRESOLVED);
    assert!(matches!(status("expired"), Status::Vacant));
    assert!(matches!(scope.resolve(""), Err(ResolveError::Begin(BeginError::Key(_)))));
}

#[test]
fn the_release_of_a_resolver_speaks_for_all_attempts() {
    for durability in [Durability::Full, Durability::Completions] {
        for gap in GAPS {
            let machine = Machine::rerun();
            let engine = machine.open();
            let scope = with(&engine, "scope", engine.policy().recovery(Recovery::Refuse));
            drop(fresh(&scope, "key"));
            drop(scope.resolve("key").unwrap());
            with(&engine, "scope", rerun(&engine).durability(durability));
            let claim = scope.resolve("key").unwrap();
            assert_eq!(claim.attempt(), 3);
            claim.release().unwrap();
            drop(scope);
            let engine = pass(&machine, engine, gap);
            let claim = fresh(&engine.scope("scope"), "key");
            assert_eq!((claim.attempt(), claim.interrupted()), (1, None), "{durability:?} {gap:?}");
        }
    }
}

#[test]
fn a_resolve_dropped_on_its_way_says_nothing_of_the_attempts_before_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = with(&engine, "scope", engine.policy().recovery(Recovery::Refuse));
    drop(fresh(&scope, "key"));
    {
        let mut resolve = Box::pin(scope.resolve_async("key"));
        assert!(poll(resolve.as_mut()).is_pending());
    }
    engine.step();
    assert_eq!(unresolved(&scope, "key"), 1);
    assert_eq!(engine.stats().in_flight, 0);
    machine.kill((engine, scope));
    assert_eq!(unresolved(&machine.open().scope("scope"), "key"), 1);
}

#[test]
fn a_resolver_that_is_lost_leaves_the_key_interrupted() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = with(&engine, "scope", engine.policy().recovery(Recovery::Refuse));
    drop(fresh(&scope, "key"));
    let claim = run(&engine, scope.resolve_async("key")).unwrap();
    drop(claim);
    assert_eq!(unresolved(&scope, "key"), 2);
    let claim = scope.resolve("key").unwrap();
    machine.kill((engine, scope, claim));
    assert_eq!(unresolved(&machine.open().scope("scope"), "key"), 3);
}

#[test]
fn a_lease_ends_on_its_millisecond_and_the_next_claim_tells_of_it() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let first = fresh(&scope, "key");
    assert_eq!(first.lease_until(), Some(engine.now().saturating_add(LEASE)));
    machine.clock.advance(LEASE - MS);
    assert!(matches!(scope.get("key").unwrap(), Status::InFlight(_)));
    drop(pending(&scope, "key"));
    machine.clock.advance(MS);
    assert!(matches!(scope.get("key").unwrap(), Status::Interrupted(attempt) if attempt.attempt() == 1));
    let second = fresh(&scope, "key");
    assert_eq!((second.attempt(), second.interrupted().unwrap().fence()), (2, first.fence()));
    assert!(second.fence() > first.fence());
}

#[test]
fn fences_grow_through_leases_tokens_resolving_and_restarts() {
    let machine = Machine::rerun();
    let mut fences = Fences::default();
    let mut engine = machine.open();
    jobs(&engine);
    for gap in GAPS.into_iter().cycle().take(12) {
        let scope = engine.scope("jobs");
        let late = fences.saw(fresh(&scope, "key"));
        machine.clock.advance(LEASE);
        drop(fences.saw(fresh(&scope, "key")));
        let token = fences.saw(scope.resolve("key").unwrap()).into_token().unwrap();
        assert!(late.complete("late").is_err());
        drop(scope);
        engine = pass(&machine, engine, gap);
        let scope = engine.scope("jobs");
        drop(scope.resume(&token).unwrap());
        drop(fences.saw(fresh(&scope, "other")));
        fences.saw(scope.resolve("key").unwrap()).release().unwrap();
        drop(scope);
        engine = pass(&machine, engine, gap);
    }
}
