//! Typed runs.

use std::time::Duration;

use idemkv::{BeginError, Fault, Recovery, RunError, Scope, Status};

use crate::world::{World, fresh, request};

over_every_core!(
    a_run_runs_once_and_its_result_is_replayed,
    a_run_of_a_task_runs_once_even_if_its_caller_goes_away,
    an_operation_that_asks_for_its_own_key_is_told_so,
    a_run_that_does_not_come_in_time_gives_the_other_claim,
);

type Run = Result<Result<u32, String>, RunError<u32, String>>;

fn run(scope: &Scope, key: &str, given: Result<u32, Fault<String>>) -> Run {
    scope.run(key, request(), |_claim| given)
}

fn a_run_runs_once_and_its_result_is_replayed(world: &dyn World) {
    let engine = world.open();
    let scope = engine.set_policy("strict", engine.policy().recovery(Recovery::Refuse)).unwrap();
    for given in [Ok(7), Ok(8)] {
        assert_eq!(run(&scope, "done", given).unwrap(), Ok(7));
    }
    for given in ["declined", "something else"] {
        let ran = run(&scope, "failed", Err(Fault::Final(given.to_owned())));
        assert_eq!(ran.unwrap(), Err("declined".to_owned()));
    }
    assert!(matches!(run(&scope, "again", Err(Fault::Retry("busy".to_owned()))), Err(RunError::Retry(_))));
    assert_eq!(run(&scope, "again", Ok(9)).unwrap(), Ok(9));
    assert!(matches!(
        run(&scope, "unknown", Err(Fault::Unknown("lost".to_owned()))),
        Err(RunError::Unknown(_))
    ));
    while matches!(scope.get("unknown"), Ok(Status::InFlight(_))) {}
    assert!(matches!(run(&scope, "unknown", Ok(1)), Err(RunError::Begin(BeginError::Unresolved(_)))));
}

fn a_run_of_a_task_runs_once_even_if_its_caller_goes_away(world: &dyn World) {
    let engine = world.open();
    let scope = engine.scope("jobs");
    let spawn = |task| drop(std::thread::spawn(move || futures_executor::block_on(task)));
    let ran: Run = futures_executor::block_on(scope.run_async("key", request(), spawn, |claim| {
        assert_eq!(claim.attempt(), 1);
        Box::pin(async move {
            claim.save_progress_async("half").await.unwrap();
            Ok(7)
        })
    }));
    assert_eq!(ran.unwrap(), Ok(7));
    let ran: Run = futures_executor::block_on(
        scope.run_async("key", request(), spawn, |_claim| Box::pin(async { panic!("it has run") })),
    );
    assert_eq!(ran.unwrap(), Ok(7));
}

fn an_operation_that_asks_for_its_own_key_is_told_so(world: &dyn World) {
    let engine = world.open();
    let scope = engine.scope("jobs");
    let ran: Run = scope.run("key", request(), |_claim| {
        let own: Run = run(&scope, "key", Ok(1));
        assert!(matches!(own, Err(RunError::Begin(BeginError::OwnKey))), "{own:?}");
        Ok(7)
    });
    assert_eq!(ran.unwrap(), Ok(7));
}

fn a_run_that_does_not_come_in_time_gives_the_other_claim(world: &dyn World) {
    let engine = world.open();
    let scope = engine.scope("jobs");
    let held = fresh(&scope, "key");
    let ran: Run = scope.run_within(Duration::from_millis(20), "key", request(), |_claim| Ok(1));
    assert!(matches!(ran, Err(RunError::InFlight(pending)) if pending.attempt() == held.attempt()));
}
