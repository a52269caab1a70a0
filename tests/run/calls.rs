//! Operations that run on the thread of their caller.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{Machine, TTL, done, fresh, request};
use crate::helpers::{Declined, Receipt, Tasks, interrupted, poll, ready, receipt, replayed, run, run_task};
use idemkv::{
    BeginError, ClaimError, Completion, Engine, Fault, Outcome, RunError, Status, StoreError, Waited,
};

#[test]
fn a_result_is_stored_and_replayed_also_after_a_kill() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("charges");
    let (ran, has_run) = run(&scope, Ok(receipt()));
    assert_eq!((ran.unwrap(), has_run), (Ok(receipt()), true));
    assert_eq!(replayed(&scope), Ok(receipt()));
    assert_eq!(done(&scope, "key").body(), br#"{"cents":1000,"note":"dinner"}"#);
    machine.kill((engine, scope));
    assert_eq!(replayed(&machine.open().scope("charges")), Ok(receipt()));
}

#[test]
fn a_final_fault_is_stored_and_replayed_as_faithfully_as_a_success() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("charges");
    let declined = Declined::NoFunds { short_by: 7 };
    let (ran, _) = run(&scope, Err(Fault::Final(declined.clone())));
    assert_eq!(ran.unwrap(), Err(declined.clone()));
    assert_eq!(replayed(&scope), Err(declined.clone()));
    assert_eq!(done(&scope, "key").outcome(), Outcome::Failure);
    drop(scope);
    engine.close().unwrap();
    assert_eq!(replayed(&machine.open().scope("charges")), Err(declined));
}

#[test]
fn a_fault_that_did_nothing_releases_the_key() {
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    let (ran, _) = run(&scope, Err(Fault::Retry(Declined::Stolen)));
    let error = ran.unwrap_err();
    assert!(error.is_retryable());
    assert!(matches!(error, RunError::Retry(Declined::Stolen)));
    assert!(matches!(scope.get("key"), Ok(Status::Vacant)));
    let (ran, has_run) = run(&scope, Ok(receipt()));
    assert_eq!((ran.unwrap(), has_run), (Ok(receipt()), true));
    assert_eq!(done(&scope, "key").attempt(), 1);
}

#[test]
fn a_fault_that_did_nothing_leaves_an_earlier_interruption_standing() {
    let machine = Machine::rerun();
    let scope = machine.open().scope("charges");
    drop(fresh(&scope, "key"));
    let (ran, _) = run(&scope, Err(Fault::Retry(Declined::Stolen)));
    assert!(matches!(ran, Err(RunError::Retry(Declined::Stolen))));
    assert_eq!(interrupted(&scope), 1);
}

#[test]
fn an_unknown_outcome_leaves_the_key_interrupted_and_the_next_attempt_is_told() {
    let machine = Machine::rerun();
    let scope = machine.open().scope("charges");
    let first = scope.run("key", request(), |claim| {
        assert_eq!((claim.attempt(), claim.interrupted()), (1, None));
        claim.save_progress("charged").unwrap();
        Err::<Receipt, _>(Fault::Unknown(Declined::Stolen))
    });
    let error = first.unwrap_err();
    assert!(!error.is_retryable() && matches!(error, RunError::Unknown(Declined::Stolen)));
    assert_eq!(interrupted(&scope), 1);
    let second = scope.run("key", request(), |claim| {
        assert_eq!(claim.attempt(), 2);
        assert_eq!(claim.interrupted().map(|earlier| earlier.attempt()), Some(1));
        assert_eq!(claim.last_progress().as_deref(), Some(&b"charged"[..]));
        Ok::<_, Fault<Declined>>(receipt())
    });
    assert_eq!(second.unwrap(), Ok(receipt()));
    assert_eq!(replayed(&scope), Ok(receipt()));
}

#[test]
fn a_panic_leaves_the_key_interrupted_and_goes_on() {
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        scope.run("key", request(), |_claim| -> Result<Receipt, Fault<Declined>> {
            std::panic::resume_unwind(Box::new("a bug"))
        })
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"a bug"));
    assert_eq!(interrupted(&scope), 1);
}

#[test]
fn a_twin_waits_and_gets_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    let scope = Engine::open(dir.path().join("x.idem")).unwrap().scope("charges");
    let ran = AtomicUsize::new(0);
    let charge = || {
        scope.run("key", request(), |_claim| {
            ran.fetch_add(1, Ordering::SeqCst);
            // The others find the key in flight, or done if they are late; either way they get the
            // same.
            std::thread::yield_now();
            Ok::<_, Fault<Declined>>(receipt())
        })
    };
    std::thread::scope(|threads| {
        let twins: Vec<_> = (0..8).map(|_| threads.spawn(charge)).collect();
        for twin in twins {
            assert_eq!(twin.join().unwrap().unwrap(), Ok(receipt()));
        }
    });
    assert_eq!(ran.into_inner(), 1);
}

#[test]
fn a_twin_runs_the_operation_where_the_first_did_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("charges");
    let claim = fresh(&scope, "key");
    let tasks = Tasks::default();
    let mut twin = pin!(run_task(&scope, &tasks, Ok(receipt())));
    assert!(poll(twin.as_mut()).is_pending());
    assert!(tasks.is_empty());
    claim.release().unwrap();
    assert!(poll(twin.as_mut()).is_pending());
    engine.step();
    assert!(poll(twin.as_mut()).is_pending());
    tasks.run_all(&engine);
    assert_eq!(ready(twin.as_mut()).unwrap(), Ok(receipt()));
}

#[test]
fn whoever_waits_for_a_time_learns_that_it_is_up() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("charges");
    let claim = fresh(&scope, "key");
    let ran = scope.run_within(Duration::ZERO, "key", request(), |_| Ok::<_, Fault<Declined>>(receipt()));
    let error = ran.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("attempt 1"), "{error}");
    let RunError::InFlight(pending) = error else { panic!("{error}") };
    claim.complete(r#"{"cents": 3}"#).unwrap();
    assert!(matches!(pending.wait(), Ok(Waited::Done(_))));
    let ran = scope.run_within(Duration::ZERO, "key", request(), |_| Ok::<_, Fault<Declined>>(receipt()));
    assert_eq!(ran.unwrap(), Ok(Receipt { cents: 3, note: None }));
}

#[test]
fn a_time_limit_is_no_limit_of_the_operation() {
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    let ran = scope.run_within(Duration::ZERO, "key", request(), |_| {
        machine.clock.advance(TTL * 2);
        Ok::<_, Fault<Declined>>(receipt())
    });
    assert_eq!(ran.unwrap(), Ok(receipt()));
}

#[test]
fn what_begin_refuses_runs_nothing() {
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    let ran = scope.run("", request(), |_| -> Result<Receipt, Fault<Declined>> { panic!("ran") });
    let error = ran.unwrap_err();
    assert!(error.source().is_some());
    assert!(matches!(error, RunError::Begin(BeginError::Key(_))));
}

#[test]
fn a_result_that_is_too_long_is_given_back_with_the_claim() {
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    let error = scope.run("key", request(), |_| Ok::<_, Fault<()>>("x".repeat(5_000))).unwrap_err();
    let RunError::NotStored { result, claim, reason } = error else { panic!("{error}") };
    assert!(matches!(reason, StoreError::End(ClaimError::BodyTooLarge { .. })), "{reason}");
    assert_eq!(result.unwrap().len(), 5_000);
    claim.unwrap().complete_with("", Completion::new().discard_body()).unwrap();
    assert!(!done(&scope, "key").is_body_kept());
}

#[test]
fn a_result_is_given_back_where_its_commit_failed() {
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    let ran = scope.run("key", request(), |_| {
        machine.disk.fail_syncs(Some("-wal"));
        Ok::<_, Fault<Declined>>(receipt())
    });
    let error = ran.unwrap_err();
    let RunError::NotStored { result, claim, reason } = error else { panic!("{error}") };
    assert!(matches!(reason, StoreError::End(ClaimError::Commit(_))), "{reason}");
    assert_eq!(result, Ok(receipt()));
    assert!(claim.is_none(), "whether it is on disk is unknown");
}

#[test]
fn a_result_is_given_back_where_the_lease_ran_out() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let lease = Duration::from_secs(30);
    let scope = engine.set_policy("charges", engine.policy().lease(lease)).unwrap();
    let ran = scope.run("key", request(), |_| {
        machine.clock.advance(lease);
        fresh(&scope, "key").complete("the other's").unwrap();
        Ok::<_, Fault<Declined>>(receipt())
    });
    let error = ran.unwrap_err();
    let RunError::NotStored { result, claim, reason } = error else { panic!("{error}") };
    assert!(matches!(reason, StoreError::End(ClaimError::Superseded(_))), "{reason}");
    assert_eq!((result, claim.is_none()), (Ok(receipt()), true));
    assert_eq!(done(&scope, "key").body(), b"the other's");
}

#[test]
fn a_claim_that_can_not_be_released_comes_back_with_the_fault() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("charges");
    let ran = scope.run("key", request(), |_| {
        engine.clone().close().unwrap();
        Err::<Receipt, _>(Fault::Retry(Declined::Stolen))
    });
    let error = ran.unwrap_err();
    assert!(error.source().is_some() && !error.is_retryable());
    assert!(matches!(error, RunError::NotReleased { error: Declined::Stolen, .. }), "{error}");
}
