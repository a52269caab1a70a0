//! Policies of scopes.

use idemkv::{BeginError, Recovery, ResolveError, SetPolicyError, Status};

use crate::world::{World, begin, done, fresh, lose};

over_every_core!(
    an_interrupted_key_is_refused_until_it_is_resolved_where_the_policy_says_so,
    so_many_attempts_are_granted_and_no_more,
    the_store_remembers_the_policies_of_its_scopes,
    the_policy_of_now_decides_on_keys_of_before,
    a_policy_out_of_range_is_refused_and_changes_nothing,
);

fn an_interrupted_key_is_refused_until_it_is_resolved_where_the_policy_says_so(world: &dyn World) {
    let engine = world.open();
    let strict = engine.set_policy("strict", engine.policy().recovery(Recovery::Refuse)).unwrap();
    let claim = fresh(&strict, "key");
    assert!(
        matches!(strict.resolve("key"), Err(ResolveError::NotInterrupted(now)) if matches!(*now, Status::InFlight(_)))
    );
    let fence = claim.fence();
    lose(&strict, claim);
    for _ in 0..2 {
        let answer = begin(&strict, "key");
        assert!(matches!(&answer, Err(BeginError::Unresolved(lost)) if lost.fence() == fence), "{answer:?}");
    }
    assert_eq!(engine.stats().unresolved, 2);
    let resolving = strict.resolve("key").unwrap();
    assert_eq!((resolving.attempt(), resolving.interrupted().unwrap().fence()), (2, fence));
    resolving.complete("it was charged").unwrap();
    assert_eq!(done(&strict, "key").body(), b"it was charged");
    assert!(matches!(strict.resolve("key"), Err(ResolveError::NotInterrupted(_))));
    assert!(
        matches!(strict.resolve("other"), Err(ResolveError::NotInterrupted(now)) if matches!(*now, Status::Vacant))
    );
}

fn so_many_attempts_are_granted_and_no_more(world: &dyn World) {
    let engine = world.open();
    let twice = engine.set_policy("twice", engine.policy().max_attempts(2)).unwrap();
    for attempt in 1..=2 {
        let claim = fresh(&twice, "key");
        assert_eq!(claim.attempt(), attempt);
        lose(&twice, claim);
    }
    assert!(matches!(begin(&twice, "key"), Err(BeginError::Unresolved(lost)) if lost.attempt() == 2));
}

fn the_store_remembers_the_policies_of_its_scopes(world: &dyn World) {
    let engine = world.open();
    let policy = engine.policy().recovery(Recovery::Refuse).lease(crate::world::LEASE);
    assert_eq!(engine.set_policy("jobs", policy).unwrap().policy(), policy);
    let engine = world.kill(engine, Vec::new());
    assert_eq!(engine.scope("jobs").policy(), policy);
    assert_eq!(engine.scope("others").policy(), engine.policy());
    assert_eq!(engine.policies(), [(b"jobs".as_slice().into(), policy)]);
}

fn the_policy_of_now_decides_on_keys_of_before(world: &dyn World) {
    let engine = world.open();
    let scope = engine.scope("jobs");
    lose(&scope, fresh(&scope, "key"));
    engine.set_policy("jobs", engine.policy().recovery(Recovery::Refuse)).unwrap();
    assert!(matches!(begin(&scope, "key"), Err(BeginError::Unresolved(_))));
    engine.set_policy("jobs", engine.policy()).unwrap();
    assert_eq!(fresh(&scope, "key").attempt(), 2);
}

fn a_policy_out_of_range_is_refused_and_changes_nothing(world: &dyn World) {
    let engine = world.open();
    let zero = engine.policy().ttl(std::time::Duration::ZERO);
    assert!(
        matches!(engine.set_policy("jobs", zero), Err(SetPolicyError::Policy(error)) if error.name() == "ttl")
    );
    let long = engine.set_policy("x".repeat(256), engine.policy());
    assert!(matches!(long, Err(SetPolicyError::Name(_))), "{long:?}");
    assert!(engine.policies().is_empty());
}
