//! Ends of claims that don't wait for the log, or no longer: a child that comes back from one, or
//! polls its future, is told that it is a child.

use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use idemkv::sim::ManualClock;
use idemkv::{
    Begin, Claim, ClaimError, CommitError, CompleteInError, Durability, End, EndError, Engine, Failure,
    ForgetError, Recovery, Scope, Status,
};

use crate::child::{Way, alone, in_child, leave};
use crate::common::{done, fresh, ready, request};
use crate::within::Hears;

const LATER: Durability = Durability::Relaxed(Duration::from_secs(60));

/// A scope whose policy logs no intents.
fn scope(engine: &Engine, durability: Durability) -> Scope {
    let policy = engine.policy().recovery(Recovery::Rerun).durability(durability);
    engine.set_policy("scope", policy).unwrap()
}

fn is_forked(error: &EndError) -> bool {
    matches!(error.reason(), ClaimError::Commit(CommitError::Failed(Failure::Forked)))
}

/// Ends a claim in this way, with an observer that forks as it hears of the end.
#[track_caller]
fn is_told_to_the_parent_alone<T>(
    durability: Durability,
    end: impl FnOnce(&Engine, Claim) -> Result<T, EndError>,
) -> Status {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let hears = Hears::of("ended");
    let options = Engine::options().observer(Arc::clone(&hears));
    let engine = options.open(scratch.path().join("x.idem")).unwrap();
    let scope = scope(&engine, durability);
    let claim = fresh(&scope, "key");
    let ended = end(&engine, claim);
    if hears.is_child() {
        let is_told = ended.is_err_and(|error| is_forked(&error));
        drop((scope, engine));
        leave(i32::from(!is_told));
    }
    hears.join();
    assert!(ended.is_ok(), "the parent's own end");
    engine.flush().unwrap();
    scope.get("key").unwrap()
}

#[test]
fn a_result_that_is_flushed_later_is_told_to_the_parent_alone() {
    let status = is_told_to_the_parent_alone(LATER, |_, claim| claim.complete("reply"));
    assert!(matches!(status, Status::Done(_)));
    let status = is_told_to_the_parent_alone(LATER, |_, claim| claim.fail("reply"));
    assert!(matches!(status, Status::Done(_)));
}

#[test]
fn a_tasks_result_that_is_flushed_later_is_told_to_the_parent_alone() {
    let status = is_told_to_the_parent_alone(LATER, |_, claim| {
        ready(Box::pin(claim.complete_async("reply")).as_mut())
    });
    assert!(matches!(status, Status::Done(_)));
}

#[test]
fn a_release_that_the_log_need_not_know_is_told_to_the_parent_alone() {
    let status = is_told_to_the_parent_alone(Durability::Completions, |_, claim| claim.release());
    assert!(matches!(status, Status::Vacant));
    let status = is_told_to_the_parent_alone(LATER, |_, claim| block_on(claim.release_async()));
    assert!(matches!(status, Status::Vacant));
}

#[test]
fn a_claim_that_is_put_back_unlogged_is_told_to_the_parent_alone() {
    let status = is_told_to_the_parent_alone(Durability::Completions, |_, claim| claim.put_back());
    assert!(matches!(status, Status::Vacant));
    let status = is_told_to_the_parent_alone(LATER, |_, claim| block_on(claim.put_back_async()));
    assert!(matches!(status, Status::Vacant));
}

#[test]
fn a_completion_in_the_file_is_told_to_the_parent_alone() {
    let status = is_told_to_the_parent_alone(Durability::Full, |_, claim| {
        claim.complete_in(|_| Ok::<_, String>("reply")).map_err(|error| match error {
            CompleteInError::End(error) => error,
            other => panic!("{other:?}"),
        })
    });
    assert!(matches!(status, Status::Done(_)));
}

/// The body of a completion in the file is dropped last, and is code of others.
#[test]
fn a_completion_in_the_file_whose_body_forks_as_it_is_dropped_is_told_to_the_parent_alone() {
    use std::cell::Cell;

    /// Gets the child's number, 0 in the child itself.
    struct Body<'a>(&'a Cell<Option<libc::pid_t>>);

    impl AsRef<[u8]> for Body<'_> {
        fn as_ref(&self) -> &[u8] {
            b"reply"
        }
    }

    impl Drop for Body<'_> {
        fn drop(&mut self) {
            self.0.set(Some(crate::child::split().unwrap_or(0)));
        }
    }

    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
    let (scope, child) = (scope(&engine, Durability::Full), Cell::new(None));
    let completed = fresh(&scope, "key").complete_in(|_| Ok::<_, String>(Body(&child)));
    let child = child.get().expect("the body was dropped");
    if child == 0 {
        let is_told = matches!(completed, Err(CompleteInError::End(error)) if is_forked(&error));
        drop((scope, engine));
        leave(i32::from(!is_told));
    }
    crate::child::join(child);
    completed.unwrap();
    assert_eq!(done(&scope, "key").body(), b"reply");
}

/// Of a batch each end is told once all are over.
#[test]
fn a_batch_of_ends_is_told_to_the_parent_alone() {
    for is_task in [false, true] {
        let _alone = alone();
        let scratch = tempfile::tempdir().unwrap();
        let hears = Hears::of("ended");
        let options = Engine::options().observer(Arc::clone(&hears));
        let engine = options.open(scratch.path().join("x.idem")).unwrap();
        let scope = scope(&engine, LATER);
        let ends = vec![
            (fresh(&scope, "released"), End::release()),
            (fresh(&scope, "completed"), End::complete("reply")),
        ];
        let ended = if is_task { block_on(engine.end_many_async(ends)) } else { engine.end_many(ends) };
        if hears.is_child() {
            let is_told = ended.iter().all(|ended| ended.as_ref().is_err_and(is_forked));
            drop((scope, engine));
            leave(i32::from(!is_told));
        }
        hears.join();
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
        assert!(matches!(scope.begin("released", request()), Ok(Begin::Fresh(_))));
    }
}

/// A call that finds a lease over interrupts its claim first, and tells of that.
#[test]
fn that_there_was_nothing_to_forget_is_told_to_the_parent_alone() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let (hears, clock) = (Hears::of("interrupted"), ManualClock::at_millis(1_000));
    let options = Engine::options().observer(Arc::clone(&hears)).clock(&clock).stepped();
    let engine = options.open(scratch.path().join("x.idem")).unwrap();
    let lease = Duration::from_secs(10);
    let jobs = engine.set_policy("jobs", engine.policy().lease(lease)).unwrap();
    let (other, claim) = (fresh(&jobs, "other"), fresh(&jobs, "key"));
    clock.advance(lease);
    let forgotten = jobs.forget_if("key", idemkv::Seen::Interruption(other.fence()));
    if hears.is_child() {
        let is_told = matches!(forgotten, Err(ForgetError::Commit(CommitError::Failed(Failure::Forked))));
        drop((other, claim, jobs, engine));
        leave(i32::from(!is_told));
    }
    hears.join();
    assert!(!forgotten.unwrap());
    assert!(matches!(jobs.get("key"), Ok(Status::Interrupted(_))));
    drop((other, claim));
}

/// A child of a plain fork polls what its parent queued.
#[test]
fn futures_of_ends_that_wait_for_nothing_are_refused_in_a_child() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
    let scope = scope(&engine, LATER);
    let mut completed = Box::pin(fresh(&scope, "completed").complete_async("reply"));
    let mut released = Box::pin(fresh(&scope, "released").release_async());
    let mut put_back = Box::pin(fresh(&scope, "put back").put_back_async());
    let ends = vec![
        (fresh(&scope, "one of many"), End::complete("reply")),
        (fresh(&scope, "another"), End::release()),
    ];
    let mut many = Box::pin(engine.end_many_async(ends));
    in_child(Way::Fork, || {
        assert!(ready(completed.as_mut()).is_err_and(|error| is_forked(&error)));
        assert!(ready(released.as_mut()).is_err_and(|error| is_forked(&error)));
        assert!(ready(put_back.as_mut()).is_err_and(|error| is_forked(&error)));
        let ended = ready(many.as_mut());
        assert!(ended.iter().all(|ended| ended.as_ref().is_err_and(is_forked)), "{ended:?}");
    });
    block_on(completed).unwrap();
    block_on(released).unwrap();
    block_on(put_back).unwrap();
    assert!(block_on(many).iter().all(Result::is_ok));
    engine.flush().unwrap();
    assert_eq!(done(&scope, "completed").body(), b"reply");
    assert!(matches!(scope.get("released"), Ok(Status::Vacant)));
}
