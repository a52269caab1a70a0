//! Leases: a claim is good until then, by the store's clock.

use idemkv::{BeginError, ClaimError, Status, Waited};

use crate::world::{LEASE, MS, World, done, fresh, pending};

over_every_core!(
    a_lease_that_is_over_leaves_an_interrupted_key_and_a_late_end_changes_nothing,
    a_renewed_lease_starts_again,
    a_waiter_learns_of_a_lease_that_is_over,
    an_interrupted_key_is_forgotten_after_its_time,
);

fn a_lease_that_is_over_leaves_an_interrupted_key_and_a_late_end_changes_nothing(world: &dyn World) {
    let engine = world.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let late = fresh(&jobs, "key");
    assert_eq!(late.lease_until(), Some(late.started().saturating_add(LEASE)));
    world.advance(LEASE - MS);
    assert!(matches!(jobs.get("key"), Ok(Status::InFlight(_))));
    world.advance(MS);
    let Ok(Status::Interrupted(lost)) = jobs.get("key") else { panic!() };
    assert_eq!((lost.fence(), lost.interrupted_at()), (late.fence(), late.started().saturating_add(LEASE)));
    let next = fresh(&jobs, "key");
    assert_eq!((next.attempt(), next.interrupted().unwrap().fence()), (2, late.fence()));
    let error = late.complete("late").unwrap_err();
    assert!(
        matches!(error.reason(), ClaimError::Superseded(now) if matches!(**now, Status::InFlight(info) if info.fence() == next.fence())),
        "{error}"
    );
    assert!(error.into_claim().is_none());
    next.complete("reply").unwrap();
    assert_eq!(done(&jobs, "key").body(), b"reply");
}

fn a_renewed_lease_starts_again(world: &dyn World) {
    let engine = world.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let mut claim = fresh(&jobs, "key");
    world.advance(LEASE - MS);
    claim.renew().unwrap();
    assert_eq!(claim.lease_until(), Some(claim.started().saturating_add(LEASE * 2 - MS)));
    world.advance(LEASE - MS);
    claim.save_progress("half").unwrap();
    world.advance(MS);
    assert!(matches!(claim.renew(), Err(ClaimError::Superseded(_))));
    assert!(matches!(claim.save_progress("more"), Err(ClaimError::Superseded(_))));
    assert!(matches!(jobs.get("key"), Ok(Status::Interrupted(_))));
    // Without a lease there is nothing to renew.
    fresh(engine.default_scope(), "key").renew().unwrap();
}

fn a_waiter_learns_of_a_lease_that_is_over(world: &dyn World) {
    let engine = world.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let claim = fresh(&jobs, "key");
    let pending = pending(&jobs, "key");
    let waiting = std::thread::spawn(move || pending.wait().unwrap());
    world.advance(LEASE);
    assert!(matches!(waiting.join().unwrap(), Waited::Interrupted));
    drop(claim);
}

fn an_interrupted_key_is_forgotten_after_its_time(world: &dyn World) {
    let engine = world.open();
    let policy = engine.policy().recovery(idemkv::Recovery::Refuse).unresolved_ttl(LEASE);
    let strict = engine.set_policy("strict", policy).unwrap();
    crate::world::lose(&strict, fresh(&strict, "key"));
    world.advance(LEASE - MS);
    assert!(matches!(crate::world::begin(&strict, "key"), Err(BeginError::Unresolved(_))));
    world.advance(MS);
    assert_eq!(fresh(&strict, "key").attempt(), 1);
}
