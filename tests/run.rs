//! Running an operation for its caller: every way in which it can end, and who gets what.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{Machine, TTL, done, fresh, request};
use futures_executor::block_on;
use idemkv::{
    Begin, BeginError, Claim, ClaimError, Completion, Engine, Fault, Outcome, ReplayError, RunError, Running,
    Scope, Status, StoreError, Waited,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    cents: u64,
    note: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Declined {
    NoFunds { short_by: u64 },
    Stolen,
}

type Ran = Result<Result<Receipt, Declined>, RunError<Receipt, Declined>>;

fn receipt() -> Receipt {
    Receipt { cents: 1000, note: Some("dinner".to_owned()) }
}

/// Runs an operation that gives this, and says whether it ran.
fn run(scope: &Scope, given: Result<Receipt, Fault<Declined>>) -> (Ran, bool) {
    let mut has_run = false;
    let ran = scope.run("key", request(), |_claim| {
        has_run = true;
        given
    });
    (ran, has_run)
}

#[track_caller]
fn replayed(scope: &Scope) -> Result<Receipt, Declined> {
    let (ran, has_run) = run(scope, Err(Fault::Unknown(Declined::Stolen)));
    assert!(!has_run, "should be replayed");
    ran.unwrap()
}

#[track_caller]
fn interrupted(scope: &Scope) -> u32 {
    match scope.get("key") {
        Ok(Status::Interrupted(attempt)) => attempt.attempt(),
        other => panic!("should be interrupted, is {other:?}"),
    }
}

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
            // The others find the key in flight, or done if they are late; either way they get the same.
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
fn a_record_that_is_no_result_of_the_type_comes_with_the_error() {
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    let bodies =
        [("text", "not JSON"), ("empty", ""), ("other", r#"{"dollars": 3}"#), ("more", "{\"cents\":3}}")];
    for (key, body) in bodies {
        fresh(&scope, key).complete(body).unwrap();
        let ran = scope.run(key, request(), |_| -> Result<Receipt, Fault<Declined>> { panic!("ran") });
        let error = ran.unwrap_err();
        assert!(!error.is_retryable() && error.source().is_some());
        let RunError::NotReplayed { record, reason: ReplayError::Json(_) } = error else { panic!("{error}") };
        assert_eq!(record.body(), body.as_bytes());
    }
    // A success is not a failure, though the bytes would do.
    fresh(&scope, "failed").fail(r#"{"cents": 3}"#).unwrap();
    let ran = scope.run("failed", request(), |_| -> Result<Receipt, Fault<Declined>> { panic!("ran") });
    assert!(matches!(ran, Err(RunError::NotReplayed { .. })));
}

#[test]
fn a_record_whose_body_was_not_kept_comes_with_the_error() {
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    fresh(&scope, "key").complete_with("null", Completion::new().discard_body()).unwrap();
    // Not even where nothing would be a result.
    let ran = scope.run("key", request(), |_| -> Result<Option<u8>, Fault<()>> { panic!("ran") });
    let error = ran.unwrap_err();
    assert!(error.to_string().contains("not kept"), "{error}");
    let RunError::NotReplayed { record, reason: ReplayError::NotKept } = error else { panic!("{error}") };
    assert!(!record.is_body_kept());
}

#[test]
fn a_type_may_gain_a_field_while_its_records_are_kept() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Newer {
        cents: u64,
        #[serde(default)]
        currency: String,
    }
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    assert_eq!(run(&scope, Ok(receipt())).0.unwrap(), Ok(receipt()));
    let ran = scope.run("key", request(), |_| -> Result<Newer, Fault<Declined>> { panic!("ran") });
    assert_eq!(ran.unwrap(), Ok(Newer { cents: 1000, currency: String::new() }));
}

/// Runs an operation with this result, which must come back unstored, with a claim that can still be completed.
#[track_caller]
fn not_stored<T, E>(given: Result<T, Fault<E>>) -> Result<T, E>
where
    T: Serialize + DeserializeOwned + Debug,
    E: Serialize + DeserializeOwned + Debug,
{
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    let error = scope.run("key", request(), |_claim| given).unwrap_err();
    assert!(!error.is_retryable() && error.source().is_some());
    let text = error.to_string();
    let RunError::NotStored { result, claim, reason: StoreError::Json(_) } = error else { panic!("{text}") };
    assert!(matches!(scope.get("key"), Ok(Status::InFlight(_))));
    claim.expect("nothing was written").complete("by hand").unwrap();
    assert_eq!(done(&scope, "key").body(), b"by hand");
    result
}

#[test]
fn what_json_can_not_carry_is_not_stored_and_given_back() {
    assert!(not_stored(Ok::<_, Fault<()>>(f64::NAN)).unwrap().is_nan());
    assert_eq!(not_stored(Ok::<_, Fault<()>>(vec![Some(f32::INFINITY)])), Ok(vec![Some(f32::INFINITY)]));
    assert_eq!(not_stored(Ok::<_, Fault<()>>(Some(None::<u8>))), Ok(Some(None)));
    assert_eq!(not_stored(Ok::<_, Fault<()>>(Some(()))), Ok(Some(())));
    let by_place = BTreeMap::from([((1, 2), 3)]);
    assert_eq!(not_stored(Ok::<_, Fault<()>>(by_place.clone())), Ok(by_place));
    // The same for what is to be replayed as a failure.
    assert!(not_stored(Err::<(), _>(Fault::Final(f64::NAN))).unwrap_err().is_nan());
}

#[test]
fn what_would_not_be_read_again_is_not_stored_and_given_back() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct OneWay {
        #[serde(rename(serialize = "written", deserialize = "read"))]
        field: u8,
    }
    assert_eq!(not_stored(Ok::<_, Fault<()>>(OneWay { field: 7 })), Ok(OneWay { field: 7 }));
}

#[test]
fn whoever_ran_it_gets_what_the_others_will_get() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Partly {
        kept: u8,
        #[serde(skip)]
        lost: u8,
    }
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    for _ in 0..2 {
        let ran = scope.run("key", request(), |_| Ok::<_, Fault<()>>(Partly { kept: 1, lost: 2 }));
        assert_eq!(ran.unwrap(), Ok(Partly { kept: 1, lost: 0 }));
    }
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

/// An executor: a list of tasks, and nobody who runs them until they are run.
#[derive(Default)]
struct Tasks(RefCell<Vec<Task>>);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Tasks {
    fn spawn(&self, task: Task) {
        self.0.borrow_mut().push(task);
    }

    fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Polls every task once, and keeps those that are not ready.
    fn poll_all(&self) {
        self.0.borrow_mut().retain_mut(|task| poll(task.as_mut()).is_pending());
    }

    /// Runs all tasks to their ends.
    fn run_all(&self, engine: &Engine) {
        for _ in 0..10 {
            self.poll_all();
            engine.step();
        }
        assert!(self.is_empty(), "a task has not ended");
    }

    fn drop_all(&self) {
        self.0.borrow_mut().clear();
    }
}

/// Runs an operation as a task, which gives this after it was polled twice.
fn run_task<'a>(
    scope: &'a Scope,
    tasks: &'a Tasks,
    given: Result<Receipt, Fault<Declined>>,
) -> Pin<Box<dyn Future<Output = Ran> + 'a>> {
    let spawn = |task| tasks.spawn(task);
    Box::pin(scope.run_async("key", request(), spawn, move |_claim| {
        Box::pin(async move {
            yield_once().await;
            given
        })
    }))
}

/// Is ready when it is polled for the second time.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(
        |_context| {
            if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
        },
    )
    .await;
}

fn charged(_claim: &mut Claim) -> Running<'_, Receipt, Declined> {
    Box::pin(async { Ok(receipt()) })
}

fn not_a_number(_claim: &mut Claim) -> Running<'_, f64, ()> {
    Box::pin(async { Ok(f64::NAN) })
}

fn panics(_claim: &mut Claim) -> Running<'_, Receipt, Declined> {
    Box::pin(async { std::panic::resume_unwind(Box::new("a bug")) })
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
fn ready<F: Future + ?Sized>(future: Pin<&mut F>) -> F::Output {
    match poll(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("should be ready"),
    }
}

#[test]
fn a_task_runs_once_and_is_replayed() {
    let machine = Machine::default();
    let engine = machine.open();
    let (scope, tasks) = (engine.scope("charges"), Tasks::default());
    let mut first = run_task(&scope, &tasks, Ok(receipt()));
    assert!(poll(first.as_mut()).is_pending());
    assert!(tasks.is_empty(), "not before the grant is durable");
    engine.step();
    assert!(poll(first.as_mut()).is_pending());
    let mut twin = run_task(&scope, &tasks, Err(Fault::Unknown(Declined::Stolen)));
    assert!(poll(twin.as_mut()).is_pending());
    tasks.run_all(&engine);
    assert_eq!(ready(first.as_mut()).unwrap(), Ok(receipt()));
    assert_eq!(ready(twin.as_mut()).unwrap(), Ok(receipt()));
    assert_eq!(
        ready(run_task(&scope, &tasks, Err(Fault::Retry(Declined::Stolen))).as_mut()).unwrap(),
        Ok(receipt())
    );
}

#[test]
fn each_kind_of_fault_ends_a_task_as_it_ends_a_call() {
    type Is = fn(&Ran, &Status) -> bool;
    let cases: [(Fault<Declined>, Is); 3] = [
        (Fault::Final(Declined::Stolen), |ran, status| {
            matches!((ran, status), (Ok(Err(Declined::Stolen)), Status::Done(_)))
        }),
        (Fault::Retry(Declined::Stolen), |ran, status| {
            matches!((ran, status), (Err(RunError::Retry(Declined::Stolen)), Status::Vacant))
        }),
        (Fault::Unknown(Declined::Stolen), |ran, status| {
            matches!((ran, status), (Err(RunError::Unknown(Declined::Stolen)), Status::Interrupted(_)))
        }),
    ];
    for (fault, is) in cases {
        let machine = Machine::default();
        let engine = machine.open();
        let (scope, tasks) = (engine.scope("charges"), Tasks::default());
        let mut running = run_task(&scope, &tasks, Err(fault.clone()));
        assert!(poll(running.as_mut()).is_pending());
        engine.step();
        assert!(poll(running.as_mut()).is_pending());
        tasks.run_all(&engine);
        let ran = ready(running.as_mut());
        let status = scope.get("key").unwrap();
        assert!(is(&ran, &status), "{fault:?} gave {ran:?}, and the key is {status:?}");
    }
}

/// The future is polled `polls` times and then dropped, as where a client hangs up.
fn drop_after(polls: usize) -> (Machine, Engine, bool) {
    let machine = Machine::default();
    let engine = machine.open();
    let (scope, tasks) = (engine.scope("charges"), Tasks::default());
    let mut running = run_task(&scope, &tasks, Ok(receipt()));
    for _ in 0..polls {
        if poll(running.as_mut()).is_ready() {
            break;
        }
        tasks.poll_all();
        engine.step();
    }
    drop(running);
    engine.step();
    let was_spawned = !tasks.is_empty() || matches!(scope.get("key"), Ok(Status::Done(_)));
    tasks.run_all(&engine);
    drop(scope);
    (machine, engine, was_spawned)
}

#[test]
fn a_future_dropped_at_any_point_has_claimed_nothing_or_loses_no_result() {
    let mut spawned = Vec::new();
    for polls in 0..8 {
        let (machine, engine, was_spawned) = drop_after(polls);
        let scope = engine.scope("charges");
        spawned.push(was_spawned);
        if was_spawned {
            assert_eq!(replayed(&scope), Ok(receipt()), "dropped after {polls} polls");
            machine.kill((engine, scope));
            assert_eq!(replayed(&machine.open().scope("charges")), Ok(receipt()));
        } else {
            assert!(matches!(scope.get("key"), Ok(Status::Vacant)), "dropped after {polls} polls");
        }
    }
    assert_eq!(spawned, [false, false, true, true, true, true, true, true]);
}

#[test]
fn whoever_waits_for_a_task_that_its_executor_dropped_is_told() {
    // Before it was polled, in the middle of the operation, and while its result is on its way.
    for polls in 0..3 {
        let machine = Machine::default();
        let engine = machine.open();
        let (scope, tasks) = (engine.scope("charges"), Tasks::default());
        let mut running = run_task(&scope, &tasks, Ok(receipt()));
        assert!(poll(running.as_mut()).is_pending());
        engine.step();
        assert!(poll(running.as_mut()).is_pending());
        for _ in 0..polls {
            tasks.poll_all();
        }
        assert!(!tasks.is_empty());
        tasks.drop_all();
        let error = ready(running.as_mut()).unwrap_err();
        assert!(matches!(error, RunError::TaskLost) && !error.is_retryable());
        if polls < 2 {
            assert_eq!(interrupted(&scope), 1);
        } else {
            engine.step();
            assert_eq!(replayed(&scope), Ok(receipt()), "the log had it already");
        }
    }
}

#[test]
fn an_executor_that_drops_the_task_at_once_is_told_of_too() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("charges");
    let mut running = pin!(scope.run_async("key", request(), drop, charged));
    assert!(poll(running.as_mut()).is_pending());
    engine.step();
    assert!(matches!(ready(running.as_mut()), Err(RunError::TaskLost)));
    assert_eq!(interrupted(&scope), 1);
}

#[test]
fn a_panic_in_a_task_is_its_executors_and_whoever_waits_is_told() {
    let machine = Machine::default();
    let engine = machine.open();
    let (scope, tasks) = (engine.scope("charges"), Tasks::default());
    let spawn = |task| tasks.spawn(task);
    let mut running = pin!(scope.run_async("key", request(), spawn, panics));
    assert!(poll(running.as_mut()).is_pending());
    engine.step();
    assert!(poll(running.as_mut()).is_pending());
    assert!(catch_unwind(AssertUnwindSafe(|| tasks.poll_all())).is_err());
    assert_eq!(interrupted(&scope), 1, "once it has panicked, not once the executor lets go of it");
    assert!(matches!(ready(running.as_mut()), Err(RunError::TaskLost)));
}

#[test]
fn a_task_that_can_not_store_its_result_gives_it_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let (scope, tasks) = (engine.scope("charges"), Tasks::default());
    let spawn = |task| tasks.spawn(task);
    let mut running = pin!(scope.run_async("key", request(), spawn, not_a_number));
    assert!(poll(running.as_mut()).is_pending());
    engine.step();
    assert!(poll(running.as_mut()).is_pending());
    tasks.run_all(&engine);
    let error = ready(running.as_mut()).unwrap_err();
    let RunError::NotStored { result, claim, reason: StoreError::Json(_) } = error else { panic!("{error}") };
    assert!(result.unwrap().is_nan());
    claim.unwrap().complete("null").unwrap();
}

#[test]
fn a_result_that_nobody_waits_for_and_that_can_not_be_stored_leaves_the_key_interrupted() {
    let machine = Machine::default();
    let engine = machine.open();
    let (scope, tasks) = (engine.scope("charges"), Tasks::default());
    let mut running = Box::pin(scope.run_async("key", request(), |task| tasks.spawn(task), not_a_number));
    assert!(poll(running.as_mut()).is_pending());
    engine.step();
    assert!(poll(running.as_mut()).is_pending());
    drop(running);
    tasks.run_all(&engine);
    assert_eq!(interrupted(&scope), 1);
}

#[test]
fn a_task_waits_for_a_time_and_no_longer() {
    let machine = Machine::default();
    let engine = machine.open();
    let (scope, tasks) = (engine.scope("charges"), Tasks::default());
    let _claim = fresh(&scope, "key");
    let spawn = |task| tasks.spawn(task);
    let mut running = pin!(scope.run_within_async(Duration::ZERO, "key", request(), spawn, charged));
    assert!(matches!(ready(running.as_mut()), Err(RunError::InFlight(_))));
}

#[test]
fn futures_can_go_from_thread_to_thread() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let dir = tempfile::tempdir().unwrap();
    let scope = Engine::open(dir.path().join("x.idem")).unwrap().scope("charges");
    let ran = Arc::new(AtomicUsize::new(0));
    let run = || {
        let (scope, ran) = (scope.clone(), Arc::clone(&ran));
        is_send(async move {
            let spawn = |task| drop(std::thread::spawn(|| block_on(task)));
            scope
                .run_async(String::from("key"), request(), spawn, move |claim| {
                    Box::pin(async move {
                        claim.save_progress_async("running").await.unwrap();
                        ran.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, Fault<Declined>>(receipt())
                    })
                })
                .await
        })
    };
    for ran in block_on(futures_util::future::join_all((0..8).map(|_| run()))) {
        assert_eq!(ran.unwrap(), Ok(receipt()));
    }
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    assert!(matches!(scope.begin("key", request()), Ok(Begin::Done(record)) if record.attempt() == 1));
}
