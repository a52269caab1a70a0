//! Operations that run as tasks of an executor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{Machine, fresh, request};
use crate::helpers::{
    Declined, Ran, Receipt, Tasks, charged, interrupted, poll, ready, receipt, replayed, run_task,
};
use futures_executor::block_on;
use idemkv::{Begin, Claim, Engine, Fault, RunError, Running, Status, StoreError};

fn not_a_number(_claim: &mut Claim) -> Running<'_, f64, ()> {
    Box::pin(async { Ok(f64::NAN) })
}

fn panics(_claim: &mut Claim) -> Running<'_, Receipt, Declined> {
    Box::pin(async { std::panic::resume_unwind(Box::new("a bug")) })
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
        engine.step();
        match polls {
            0 => assert!(matches!(scope.get("key"), Ok(Status::Vacant)), "it certainly did nothing"),
            1 => assert_eq!(interrupted(&scope), 1),
            _ => assert_eq!(replayed(&scope), Ok(receipt()), "the log had it already"),
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
    engine.step();
    assert!(matches!(scope.get("key"), Ok(Status::Vacant)), "it certainly did nothing");
}

/// As `tokio::spawn` outside of a runtime does.
#[test]
fn a_spawn_that_panics_leaves_the_key_as_it_was() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = engine.scope("charges");
    drop(fresh(&scope, "key"));
    let Ok(Status::Interrupted(before)) = scope.get("key") else { panic!("it is interrupted") };
    let spawn = |_task| std::panic::resume_unwind(Box::new("no runtime"));
    let mut running = pin!(scope.run_async("key", request(), spawn, charged));
    assert!(poll(running.as_mut()).is_pending());
    engine.step();
    assert!(catch_unwind(AssertUnwindSafe(|| poll(running.as_mut()))).is_err());
    engine.step();
    let Ok(Status::Interrupted(now)) = scope.get("key") else { panic!("it is interrupted") };
    assert_eq!((now.attempt(), now.fence()), (1, before.fence()), "no attempt of the operation was made");
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
