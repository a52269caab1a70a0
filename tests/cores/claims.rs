//! A key's life: granted, ended in each way, replayed, found again by the next process.

use idemkv::{
    Begin, BeginError, Completion, Engine, Fence, Fingerprint, Interruption, Outcome, ResolveError, Scope,
    Status, Timestamp,
};

use crate::world::{MS, START_MS, TTL, World, begin, done, fresh, lose, pending, request};

over_every_core!(
    a_completed_key_is_replayed_with_everything_that_was_stored,
    a_failure_is_replayed_as_faithfully_as_a_success,
    a_released_key_is_vacant_also_in_the_next_process,
    a_dropped_claim_leaves_an_interrupted_key_that_the_next_claim_tells_of,
    a_release_does_not_speak_for_an_earlier_attempt,
    a_panic_leaves_the_key_interrupted,
    the_claims_of_a_killed_process_are_interrupted_at_once_and_attempts_count_on,
    fences_grow_over_processes,
    another_fingerprint_is_refused_in_every_state,
    a_completion_says_what_is_kept_and_for_how_long,
    a_record_is_replayed_until_its_time_is_over,
    a_tombstone_remembers_that_the_operation_ran,
    a_forgotten_key_is_vacant_and_a_key_in_flight_is_not_forgotten,
    a_record_that_came_since_is_not_forgotten,
    what_was_lost_since_an_operator_looked_is_not_resolved,
    a_claim_that_is_put_back_leaves_its_key_as_it_was,
    a_steps_key_is_the_same_in_every_attempt_and_in_no_other_operation,
    progress_outlives_every_end_but_an_outcome,
    keys_of_two_scopes_are_two_operations,
    a_begin_for_a_task_that_is_dropped_claims_nothing,
    an_end_for_a_task_happens_even_if_its_future_is_dropped,
    an_end_for_a_task_is_stored_by_a_close_that_comes_at_once,
    a_closed_engine_says_so_and_how_many_claims_were_left,
    every_claim_has_one_end_in_the_figures,
);

fn a_completed_key_is_replayed_with_everything_that_was_stored(world: &dyn World) {
    let engine = world.open();
    let scope = engine.scope("POST /v1/charges");
    let claim = fresh(&scope, "key");
    assert_eq!((claim.key(), claim.scope(), claim.attempt()), (&b"key"[..], &b"POST /v1/charges"[..], 1));
    assert_eq!((claim.started(), claim.lease_until()), (Timestamp::from_millis(START_MS), None));
    assert!(matches!(scope.get("key").unwrap(), Status::InFlight(info) if info.fence() == claim.fence()));
    world.advance(250 * MS);
    let stored = claim.complete("reply").unwrap();
    assert!(stored.is_durable());
    let engine = world.kill(engine, Vec::new());
    for record in [stored, done(&engine.scope("POST /v1/charges"), "key")] {
        assert_eq!((record.outcome(), record.body()), (Outcome::Success, &b"reply"[..]));
        assert_eq!((record.scope(), record.key()), (&b"POST /v1/charges"[..], &b"key"[..]));
        assert_eq!((record.attempt(), record.fingerprint()), (1, &request()));
        assert_eq!(record.started(), Timestamp::from_millis(START_MS));
        assert_eq!(record.completed(), Timestamp::from_millis(START_MS + 250));
        assert_eq!(record.expires(), record.completed().saturating_add(TTL));
    }
}

fn a_failure_is_replayed_as_faithfully_as_a_success(world: &dyn World) {
    let engine = world.open();
    fresh(engine.default_scope(), "key").fail("card declined").unwrap();
    let engine = world.kill(engine, Vec::new());
    let record = done(engine.default_scope(), "key");
    assert_eq!((record.outcome(), record.body()), (Outcome::Failure, &b"card declined"[..]));
}

fn a_released_key_is_vacant_also_in_the_next_process(world: &dyn World) {
    let engine = world.open();
    fresh(engine.default_scope(), "key").release().unwrap();
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::Vacant)));
    let engine = world.kill(engine, Vec::new());
    let claim = fresh(engine.default_scope(), "key");
    assert_eq!((claim.attempt(), claim.interrupted()), (1, None));
}

fn a_dropped_claim_leaves_an_interrupted_key_that_the_next_claim_tells_of(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    let first = fresh(scope, "key");
    let fence = first.fence();
    lose(scope, first);
    assert!(matches!(scope.get("key").unwrap(), Status::Interrupted(lost) if lost.fence() == fence));
    let second = fresh(scope, "key");
    let earlier = second.interrupted().unwrap();
    assert_eq!((earlier.attempt(), earlier.fence()), (1, fence));
    assert_eq!(earlier.started(), Timestamp::from_millis(START_MS));
    assert!(second.fence() > fence);
    assert_eq!(second.complete("reply").unwrap().attempt(), 2);
}

fn a_release_does_not_speak_for_an_earlier_attempt(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    drop(fresh(scope, "key"));
    for attempt in 2..5 {
        let claim = fresh(scope, "key");
        assert_eq!(claim.attempt(), attempt);
        assert_eq!(claim.interrupted().map(|earlier| earlier.attempt()), Some(1));
        claim.release().unwrap();
    }
    let engine = world.kill(engine, Vec::new());
    let claim = fresh(engine.default_scope(), "key");
    assert_eq!((claim.attempt(), claim.interrupted().map(|earlier| earlier.attempt())), (5, Some(1)));
    claim.release().unwrap();
    // One that resolves it does.
    let resolving = engine.default_scope().resolve("key").unwrap();
    assert_eq!(resolving.interrupted().map(|earlier| earlier.attempt()), Some(1));
    resolving.release().unwrap();
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::Vacant)));
    assert_eq!(fresh(engine.default_scope(), "key").attempt(), 1);
}

fn a_panic_leaves_the_key_interrupted(world: &dyn World) {
    let engine = world.open();
    let claim = fresh(engine.default_scope(), "key");
    let panicked = std::thread::spawn(move || {
        let _claim = claim;
        std::panic::panic_any("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(fresh(engine.default_scope(), "key").attempt(), 2);
}

fn the_claims_of_a_killed_process_are_interrupted_at_once_and_attempts_count_on(world: &dyn World) {
    let mut engine = world.open();
    for attempt in 1..=3 {
        let claim = fresh(engine.default_scope(), "key");
        assert_eq!(claim.attempt(), attempt);
        assert_eq!(claim.interrupted().map_or(0, |earlier| earlier.attempt()), attempt - 1);
        engine = world.kill(engine, vec![claim]);
        assert!(matches!(engine.default_scope().get("key"), Ok(Status::Interrupted(_))));
    }
}

fn fences_grow_over_processes(world: &dyn World) {
    let mut last = None;
    let mut engine = world.open();
    for round in 0..6 {
        let claim = fresh(engine.default_scope(), &format!("key {round}"));
        assert!(Some(claim.fence()) > last);
        last = Some(claim.fence());
        claim.complete("").unwrap();
        engine = if round % 2 == 0 {
            engine.close().unwrap();
            world.open()
        } else {
            world.kill(engine, Vec::new())
        };
    }
}

fn another_fingerprint_is_refused_in_every_state(world: &dyn World) {
    let engine = world.open();
    let other = Fingerprint::of("another request");
    let refused = |engine: &Engine, state: &str| {
        let answer = engine.default_scope().begin("key", other);
        assert!(matches!(answer, Err(BeginError::KeyReused)), "{state}: {answer:?}");
    };
    let claim = fresh(engine.default_scope(), "key");
    refused(&engine, "in flight");
    lose(engine.default_scope(), claim);
    refused(&engine, "interrupted");
    fresh(engine.default_scope(), "key").complete("reply").unwrap();
    refused(&engine, "done");
    assert_eq!(engine.stats().reused, 3);
    let engine = world.kill(engine, Vec::new());
    refused(&engine, "done, to another process");
    world.advance(TTL);
    let answer = engine.default_scope().begin("key", other);
    assert!(matches!(answer, Ok(Begin::Fresh(_))), "an expired key is nobody's: {answer:?}");
}

fn a_completion_says_what_is_kept_and_for_how_long(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    let minute = std::time::Duration::from_secs(60);
    let short = Completion::new().ttl(minute);
    let record = fresh(scope, "short").fail_with("overloaded", short).unwrap();
    assert_eq!(record.expires().saturating_since(record.completed()), minute);
    fresh(scope, "bodiless").complete_with("a video", Completion::new().discard_body()).unwrap();
    let record = done(scope, "bodiless");
    assert_eq!((record.is_body_kept(), record.body()), (false, &b""[..]));
    world.advance(minute);
    assert!(matches!(scope.get("short"), Ok(Status::Vacant)));
    let refused = fresh(scope, "never").complete_with("", Completion::new().ttl(std::time::Duration::ZERO));
    refused.unwrap_err().into_claim().unwrap().complete("at last").unwrap();
    assert_eq!(done(scope, "never").body(), b"at last");
}

fn a_record_is_replayed_until_its_time_is_over(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    fresh(scope, "key").complete("reply").unwrap();
    world.advance(TTL - MS);
    assert_eq!(done(scope, "key").body(), b"reply");
    world.advance(MS);
    assert!(matches!(scope.get("key"), Ok(Status::Vacant)));
    assert_eq!(fresh(scope, "key").attempt(), 1);
}

fn a_tombstone_remembers_that_the_operation_ran(world: &dyn World) {
    let engine = world.open();
    let scope = engine.set_policy("late", engine.policy().tombstone_ttl(2 * TTL)).unwrap();
    let fence = fresh(&scope, "key").complete("reply").unwrap().fence();
    world.advance(TTL);
    let answer = begin(&scope, "key");
    assert!(matches!(&answer, Err(BeginError::Expired(of)) if of.fence() == fence), "{answer:?}");
    assert!(matches!(scope.get("key"), Ok(Status::Expired(_))));
    assert_eq!(engine.stats().too_late, 1);
    world.advance(TTL);
    assert_eq!(fresh(&scope, "key").attempt(), 1);
}

fn a_forgotten_key_is_vacant_and_a_key_in_flight_is_not_forgotten(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    assert!(!scope.forget("key").unwrap());
    let claim = fresh(scope, "key");
    assert!(matches!(scope.forget("key"), Err(idemkv::ForgetError::InFlight)));
    claim.complete("reply").unwrap();
    assert!(scope.forget("key").unwrap());
    assert!(!scope.forget("key").unwrap());
    let claim = fresh(scope, "key");
    assert_eq!(claim.attempt(), 1);
    lose(scope, claim);
    assert!(scope.forget("key").unwrap());
    assert_eq!((fresh(scope, "key").attempt(), engine.stats().forgotten), (1, 2));
}

fn a_record_that_came_since_is_not_forgotten(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    lose(scope, fresh(scope, "key"));
    let Status::Interrupted(seen) = scope.get("key").unwrap() else { panic!() };
    let record = scope.resolve("key").unwrap().complete("charged").unwrap();
    assert!(!scope.forget_if("key", &seen).unwrap());
    assert!(scope.forget_if("key", &record).unwrap());
    assert!(matches!(scope.get("key"), Ok(Status::Vacant)));
}

#[track_caller]
fn interrupted(scope: &Scope, key: &str) -> Interruption {
    match scope.get(key) {
        Ok(Status::Interrupted(lost)) => lost,
        other => panic!("{key} should be interrupted, is {other:?}"),
    }
}

fn what_was_lost_since_an_operator_looked_is_not_resolved(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    lose(scope, fresh(scope, "key"));
    let seen = interrupted(scope, "key");
    lose(scope, fresh(scope, "key"));
    let late = scope.resolve_if("key", seen.fence());
    assert!(matches!(&late, Err(ResolveError::AnotherAttempt(now)) if now.attempt() == 2), "{late:?}");
    let now = interrupted(scope, "key");
    assert_eq!(now.attempt(), 2, "the refusal changed nothing");
    // A retry that came to nothing leaves it the same interruption.
    fresh(scope, "key").release().unwrap();
    scope.resolve_if("key", now.fence()).unwrap().complete("charged").unwrap();
    let late = scope.resolve_if("key", now.fence());
    assert!(matches!(late, Err(ResolveError::NotInterrupted(is)) if matches!(*is, Status::Done(_))));
}

/// What an operator is shown of an interruption.
fn shown(of: &Interruption) -> (u32, Fence, Timestamp, Timestamp) {
    (of.attempt(), of.fence(), of.started(), of.interrupted_at())
}

fn a_claim_that_is_put_back_leaves_its_key_as_it_was(world: &dyn World) {
    let engine = world.open();
    let policy = engine.policy().max_attempts(2).unresolved_ttl(TTL);
    let scope = engine.set_policy("twice", policy).unwrap();
    lose(&scope, fresh(&scope, "key"));
    let before = interrupted(&scope, "key");
    for _ in 0..3 {
        world.advance(TTL / 8);
        scope.resolve_if("key", before.fence()).unwrap().put_back().unwrap();
        assert_eq!(shown(&interrupted(&scope, "key")), shown(&before));
    }
    fresh(&scope, "new").put_back().unwrap();
    assert!(matches!(scope.get("new"), Ok(Status::Vacant)));
    // A token may have had other holders: their attempt counts.
    let handed = engine.set_policy("handed", engine.policy().lease(TTL).max_attempts(2)).unwrap();
    lose(&handed, fresh(&handed, "key"));
    let token = fresh(&handed, "key").into_token().unwrap();
    handed.resume(&token).unwrap().put_back().unwrap();
    assert!(matches!(begin(&handed, "key"), Err(BeginError::Unresolved(_))));
    let engine = world.kill(engine, Vec::new());
    let scope = engine.scope("twice");
    assert_eq!(shown(&interrupted(&scope, "key")), shown(&before));
    // It was no attempt, of those that may run.
    let second = fresh(&scope, "key");
    assert_eq!((second.attempt(), second.interrupted().map(|lost| lost.fence())), (2, Some(before.fence())));
    second.put_back().unwrap();
    assert_eq!(shown(&interrupted(&scope, "key")), shown(&before));
    world.advance(TTL / 2);
    assert!(matches!(scope.get("key"), Ok(Status::Interrupted(_))));
    world.advance(TTL / 8);
    assert_eq!(fresh(&scope, "key").attempt(), 1, "it is remembered for as long as before, and no longer");
}

fn a_steps_key_is_the_same_in_every_attempt_and_in_no_other_operation(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    let first = fresh(scope, "key");
    let charge = first.step_key("charge");
    let others = [
        first.step_key("receipt"),
        fresh(scope, "other").step_key("charge"),
        fresh(&engine.scope("other"), "key").step_key("charge"),
    ];
    assert!(others.iter().all(|other| *other != charge));
    let engine = world.kill(engine, vec![first]);
    let again = fresh(engine.default_scope(), "key");
    assert_eq!((again.attempt(), again.step_key("charge")), (2, charge));
}

fn progress_outlives_every_end_but_an_outcome(world: &dyn World) {
    let engine = world.open();
    let mut first = fresh(engine.default_scope(), "key");
    assert!(first.last_progress().is_none());
    first.save_progress("one").unwrap();
    first.save_progress("two").unwrap();
    assert_eq!(first.last_progress().unwrap()[..], *b"two");
    let engine = world.kill(engine, vec![first]);
    let scope = engine.default_scope();
    let second = fresh(scope, "key");
    assert_eq!(second.last_progress().unwrap()[..], *b"two");
    lose(scope, second);
    let Status::Interrupted(lost) = scope.get("key").unwrap() else { panic!() };
    assert_eq!(lost.last_progress().unwrap()[..], *b"two");
    fresh(scope, "key").complete("reply").unwrap();
    world.advance(TTL);
    assert!(fresh(scope, "key").last_progress().is_none());
}

fn keys_of_two_scopes_are_two_operations(world: &dyn World) {
    let engine = world.open();
    let (charges, refunds) = (engine.scope("charges"), engine.scope("refunds"));
    let charge = fresh(&charges, "key");
    fresh(&refunds, "key").complete("refunded").unwrap();
    charge.complete("charged").unwrap();
    assert_eq!(
        (done(&charges, "key").body(), done(&refunds, "key").body()),
        (&b"charged"[..], &b"refunded"[..])
    );
}

fn a_begin_for_a_task_that_is_dropped_claims_nothing(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    for round in 0..10 {
        let key = format!("key {round}");
        {
            let mut begin = std::pin::pin!(scope.begin_async(&key, request()));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            drop(begin.as_mut().poll(&mut context));
        }
        let claim = fresh(scope, &key);
        assert!(claim.attempt() <= 2, "a claim that was ready is dropped with it");
        claim.complete("").unwrap();
    }
}

fn an_end_for_a_task_happens_even_if_its_future_is_dropped(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    drop(fresh(scope, "done").complete_async("reply"));
    drop(fresh(scope, "failed").fail_async("declined"));
    drop(fresh(scope, "released").release_async());
    assert_eq!(done(scope, "done").body(), b"reply");
    assert_eq!(done(scope, "failed").outcome(), Outcome::Failure);
    let claim = fresh(scope, "released");
    assert_eq!((claim.attempt(), claim.interrupted()), (1, None));
}

fn a_closed_engine_says_so_and_how_many_claims_were_left(world: &dyn World) {
    let engine = world.open();
    let scope = engine.scope("");
    let (left, ended) = (fresh(&scope, "left"), fresh(&scope, "ended"));
    ended.complete("reply").unwrap();
    let waiting = pending(&scope, "left");
    assert_eq!(engine.clone().close().unwrap().claims_left, 1);
    assert_eq!(engine.clone().close().unwrap().claims_left, 1);
    assert!(matches!(scope.begin("key", request()), Err(BeginError::Closed)));
    assert!(matches!(scope.get("key"), Err(idemkv::ReadError::Closed)));
    assert!(matches!(waiting.wait(), Err(BeginError::Closed)));
    let error = left.complete("late").unwrap_err();
    let is_closed = matches!(error.reason(), idemkv::ClaimError::Commit(idemkv::CommitError::Closed));
    assert!(is_closed, "{error}");
    drop((engine, scope, waiting, error));
    let engine = world.open();
    assert_eq!(done(engine.default_scope(), "ended").body(), b"reply");
    assert_eq!(fresh(engine.default_scope(), "left").attempt(), 2);
}

fn every_claim_has_one_end_in_the_figures(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    fresh(scope, "done").complete("").unwrap();
    fresh(scope, "failed").fail("").unwrap();
    fresh(scope, "released").release().unwrap();
    lose(scope, fresh(scope, "dropped"));
    let held = fresh(scope, "held");
    drop(done(scope, "done"));
    drop(pending(scope, "held"));
    scope.resolve("dropped").unwrap().complete("").unwrap();
    let stats = engine.stats();
    assert_eq!((stats.fresh, stats.resolved, stats.replayed, stats.waited), (5, 1, 1, 2));
    assert_eq!((stats.completed, stats.failed, stats.released, stats.dropped), (2, 1, 1, 1));
    assert_eq!((stats.in_flight, stats.begins()), (1, 8));
    drop(held);
}

fn an_end_for_a_task_is_stored_by_a_close_that_comes_at_once(world: &dyn World) {
    let mut engine = world.open();
    for round in 0..5 {
        let key = format!("key {round}");
        let claims: Vec<_> =
            (0..20).map(|part| fresh(engine.default_scope(), &format!("{key} {part}"))).collect();
        let ends: Vec<_> = claims.into_iter().map(|claim| claim.complete_async("reply")).collect();
        assert_eq!(engine.close().unwrap().claims_left, 0);
        drop(ends);
        engine = world.open();
        for part in 0..20 {
            assert_eq!(done(engine.default_scope(), &format!("{key} {part}")).body(), b"reply");
        }
    }
}
