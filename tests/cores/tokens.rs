//! Claims that are handed over as tokens.

use idemkv::{ClaimError, ClaimToken, Status, TokenError, Waited};

use crate::world::{LEASE, MS, World, done, fresh, lose, pending};

over_every_core!(
    a_claim_crosses_a_restart_as_a_token,
    a_token_is_good_for_one_holder_in_its_scope_and_until_its_lease_is_over,
    a_claim_without_a_lease_is_not_handed_over,
    a_resumed_claim_that_is_dropped_leaves_its_key_interrupted,
);

fn a_claim_crosses_a_restart_as_a_token(world: &dyn World) {
    let engine = world.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let mut claim = fresh(&jobs, "key");
    claim.save_progress("half").unwrap();
    let (fence, step) = (claim.fence(), claim.step_key("charge"));
    world.advance(LEASE / 2);
    let token = claim.into_token().unwrap();
    let token = ClaimToken::from_bytes(token.as_bytes());
    drop(jobs);
    let engine = world.kill(engine, Vec::new());
    let jobs = engine.scope("jobs");
    // The lease has started again with the hand-over.
    world.advance(LEASE - MS);
    let waiting = pending(&jobs, "key");
    let resumed = jobs.resume(&token).unwrap();
    assert_eq!((resumed.fence(), resumed.attempt(), resumed.step_key("charge")), (fence, 1, step));
    assert_eq!(resumed.last_progress().unwrap()[..], *b"half");
    assert_eq!(resumed.lease_until(), Some(resumed.started().saturating_add(LEASE / 2 + LEASE)));
    resumed.complete("reply").unwrap();
    assert!(matches!(waiting.wait(), Ok(Waited::Done(record)) if record.fence() == fence));
    let late = jobs.resume(&token);
    assert!(
        matches!(&late, Err(TokenError::Superseded(now)) if matches!(**now, Status::Done(_))),
        "{late:?}"
    );
}

fn a_token_is_good_for_one_holder_in_its_scope_and_until_its_lease_is_over(world: &dyn World) {
    let engine = world.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let token = fresh(&jobs, "key").into_token().unwrap();
    assert!(matches!(engine.scope("other").resume(&token), Err(TokenError::OtherScope)));
    let mut bytes = token.as_bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    assert!(matches!(jobs.resume(&ClaimToken::from_bytes(bytes)), Err(TokenError::Malformed)));
    assert!(matches!(jobs.resume(&ClaimToken::from_bytes("x")), Err(TokenError::Malformed)));
    let held = jobs.resume(&token).unwrap();
    assert!(matches!(jobs.resume(&token), Err(TokenError::Held)));
    let token = held.into_token().unwrap();
    world.advance(LEASE);
    let late = jobs.resume(&token);
    assert!(
        matches!(&late, Err(TokenError::Superseded(now)) if matches!(**now, Status::Interrupted(_))),
        "{late:?}"
    );
    let next = fresh(&jobs, "key");
    assert_eq!(next.attempt(), 2);
    assert!(matches!(jobs.resume(&token), Err(TokenError::Superseded(_))));
    next.complete("reply").unwrap();
    assert_eq!(done(&jobs, "key").body(), b"reply");
}

fn a_claim_without_a_lease_is_not_handed_over(world: &dyn World) {
    let engine = world.open();
    let error = fresh(engine.default_scope(), "key").into_token().unwrap_err();
    assert!(matches!(error.reason(), ClaimError::NoLease), "{error}");
    error.into_claim().unwrap().complete("reply").unwrap();
}

fn a_resumed_claim_that_is_dropped_leaves_its_key_interrupted(world: &dyn World) {
    let engine = world.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let token = fresh(&jobs, "key").into_token().unwrap();
    lose(&jobs, jobs.resume(&token).unwrap());
    assert!(matches!(jobs.resume(&token), Err(TokenError::Superseded(_))));
    assert_eq!(fresh(&jobs, "key").attempt(), 2);
}
