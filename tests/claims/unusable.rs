//! Claims of an engine that is closed or has failed: none of their calls answers as if they were
//! good, for the file may be open elsewhere and their keys granted there.

use crate::common::{Machine, default_scope, fresh, request, run};
use crate::helpers::{jobs, rerun, with};
use idemkv::{Claim, ClaimError, CommitError, Durability, Failure, Status};

type Call = fn(&mut Claim) -> Result<(), ClaimError>;

const CALLS: [(&str, Call); 2] =
    [("renew", |claim| claim.renew()), ("save_progress", |claim| claim.save_progress("note"))];

#[test]
fn a_claim_of_a_closed_engine_is_not_renewed_once_another_opening_has_its_key() {
    for (name, call) in CALLS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        let mut old = fresh(&scope, "key");
        engine.close().unwrap();
        let next = machine.open();
        assert_eq!(fresh(&jobs(&next), "key").attempt(), 2);
        for _ in 0..2 {
            let refused = call(&mut old);
            assert!(matches!(refused, Err(ClaimError::Commit(CommitError::Closed))), "{name}: {refused:?}");
        }
        drop(scope);
    }
}

#[test]
fn a_task_is_told_of_a_closed_engine_as_well() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let claim = fresh(&jobs(&engine), "key");
    engine.clone().close().unwrap();
    let refused = run(&engine, claim.renew_async());
    assert!(matches!(refused, Err(ClaimError::Commit(CommitError::Closed))), "{refused:?}");
}

#[test]
fn a_claim_is_not_renewed_after_a_failed_commit() {
    for (name, call) in CALLS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let mut claim = fresh(&jobs(&engine), "key");
        machine.disk.fail_syncs(Some("-wal"));
        assert!(engine.scope("other").begin("key", request()).is_err());
        let refused = call(&mut claim);
        let is_right = matches!(refused, Err(ClaimError::Commit(CommitError::Failed(Failure::Io(_)))));
        assert!(is_right, "{name}: {refused:?}");
    }
}

#[test]
fn a_claim_that_is_out_goes_on_after_a_failed_checkpoint() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let mut claim = fresh(&jobs(&engine), "key");
    machine.disk.fail_syncs(Some(".idem"));
    assert!(engine.checkpoint().is_err());
    for (name, call) in CALLS {
        let used = call(&mut claim);
        assert!(used.is_ok(), "{name}: {used:?}");
    }
    claim.complete("reply").unwrap();
}

/// Only its completion is in the log. Its release needs none, but a close has counted it among
/// those that are left.
#[test]
fn a_claim_that_a_close_left_out_is_not_released_after_it() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = with(&engine, "scope", rerun(&engine).durability(Durability::Completions));
    let claims = ["a", "b"].map(|key| fresh(&scope, key));
    let closed = engine.clone().close().unwrap();
    assert_eq!(closed.claims_left, 2, "{closed:?}");
    for claim in claims {
        let refused = claim.release().unwrap_err();
        assert!(matches!(refused.reason(), ClaimError::Commit(CommitError::Closed)), "{refused}");
        assert!(refused.into_claim().is_some(), "it was not ended");
    }
    assert_eq!(engine.stats().released, 0);
}

#[test]
fn a_claim_that_the_log_does_not_know_is_not_released_after_a_failed_commit() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = with(&engine, "scope", rerun(&engine).durability(Durability::Completions));
    let claim = fresh(&scope, "key");
    machine.disk.fail_syncs(Some("-wal"));
    assert!(default_scope(&engine).begin("key", request()).is_err());
    let refused = claim.release().unwrap_err();
    assert!(matches!(refused.reason(), ClaimError::Commit(CommitError::Failed(_))), "{refused}");
    assert!(refused.into_claim().is_none());
    assert!(matches!(scope.get("key"), Ok(Status::InFlight(_))), "{:?}", scope.get("key"));
    assert_eq!(engine.stats().released, 0);
}
