//! What is too long, empty or too much.

use idemkv::{Begin, BeginError, Busy, Claim, ClaimError, KeyError, ReadError, ResolveError, Scope, Status};

use crate::world::{LEASE, World, begin, done, fresh, lose, pending, request};

over_every_core!(
    a_key_that_can_not_be_used_is_refused_by_every_call,
    a_body_that_is_too_long_gives_the_claim_back,
    a_scopes_limit_counts_its_claims_and_no_others_however_they_end,
    a_scopes_limit_counts_claims_handed_over_before_a_restart_and_no_others,
    a_full_scope_answers_keys_that_have_an_answer_and_grants_no_later_attempt,
    a_scopes_limit_is_lowered_and_removed_over_the_claims_that_stand,
);

#[track_caller]
fn full(scope: &Scope, of: usize) {
    let refused = scope.begin("one more", request());
    let is_full = matches!(&refused, Err(BeginError::Busy(Busy::TooManyClaims { max })) if *max == of);
    assert!(is_full, "{refused:?}");
}

fn a_scopes_limit_counts_its_claims_and_no_others_however_they_end(world: &dyn World) {
    let engine = world.open();
    let scope = engine.set_policy("scope", engine.policy().lease(LEASE).max_in_flight(2)).unwrap();
    let first = fresh(&scope, "first");
    let second = fresh(&scope, "second");
    full(&scope, 2);
    fresh(&engine.scope("other"), "key").complete("reply").unwrap();
    first.complete("").unwrap();
    let ends: [fn(&Scope, Claim); 5] = [
        |_, claim| drop(claim.complete("").unwrap()),
        |_, claim| drop(claim.fail("").unwrap()),
        |_, claim| claim.release().unwrap(),
        lose,
        |_, claim| drop(claim.into_token().unwrap()),
    ];
    for (n, end) in ends.into_iter().enumerate() {
        end(&scope, fresh(&scope, &format!("key {n}")));
    }
    full(&scope, 2);
    second.complete("").unwrap();
    let mut answers = scope.begin_many(&["one", "two", "three"].map(|key| (key, request())));
    answers.sort_by_key(Result::is_err);
    assert!(matches!(
        &answers[..],
        [Ok(Begin::Fresh(_)), Err(BeginError::Busy(Busy::TooManyClaims { max: 2 })), Err(_)]
    ));
    let stats = engine.stats();
    // Two when it was full, and two of the batch.
    assert_eq!((stats.busy.claims, stats.begins() - stats.fresh - stats.waited), (4, 4));
}

fn a_scopes_limit_counts_claims_handed_over_before_a_restart_and_no_others(world: &dyn World) {
    let engine = world.open();
    let scope = engine.set_policy("scope", engine.policy().lease(LEASE).max_in_flight(2)).unwrap();
    let token = fresh(&scope, "key").into_token().unwrap();
    let held = fresh(&scope, "held");
    full(&scope, 2);
    let engine = world.kill(engine, vec![held]);
    let scope = engine.scope("scope");
    let next = fresh(&scope, "next");
    full(&scope, 2);
    scope.resume(&token).unwrap().complete("reply").unwrap();
    fresh(&scope, "another").complete("reply").unwrap();
    drop(next);
}

fn a_full_scope_answers_keys_that_have_an_answer_and_grants_no_later_attempt(world: &dyn World) {
    let engine = world.open();
    let scope = engine.set_policy("scope", engine.policy().max_in_flight(1)).unwrap();
    fresh(&scope, "done").complete("reply").unwrap();
    lose(&scope, fresh(&scope, "lost"));
    let held = fresh(&scope, "held");
    assert_eq!(done(&scope, "done").body(), b"reply");
    pending(&scope, "held");
    let busy = |error: &BeginError| matches!(error, BeginError::Busy(Busy::TooManyClaims { max: 1 }));
    assert!(scope.begin("lost", request()).is_err_and(|error| busy(&error) && error.is_retryable()));
    let resolved = scope.resolve("lost");
    assert!(matches!(&resolved, Err(ResolveError::Begin(error)) if busy(error)), "{resolved:?}");
    assert!(matches!(scope.get("lost"), Ok(Status::Interrupted(lost)) if lost.attempt() == 1));
    held.release().unwrap();
    let second = fresh(&scope, "lost");
    assert_eq!(second.attempt(), 2);
    full(&scope, 1);
}

fn a_scopes_limit_is_lowered_and_removed_over_the_claims_that_stand(world: &dyn World) {
    let engine = world.open();
    let limited =
        |limit: u32| drop(engine.set_policy("scope", engine.policy().max_in_flight(limit)).unwrap());
    limited(4);
    let scope = engine.scope("scope");
    let mut claims: Vec<_> = (0..4).map(|n| fresh(&scope, &n.to_string())).collect();
    limited(2);
    for _ in 0..3 {
        full(&scope, 2);
        claims.remove(0).complete("").unwrap();
    }
    claims.push(fresh(&scope, "another"));
    full(&scope, 2);
    drop(engine.set_policy("scope", engine.policy()).unwrap());
    let uncounted: Vec<_> = (0..3).map(|n| fresh(&scope, &format!("free {n}"))).collect();
    limited(2);
    full(&scope, 2);
    claims.remove(0).complete("").unwrap();
    let third = fresh(&scope, "third");
    full(&scope, 2);
    limited(3);
    assert!(matches!(begin(&scope, "fourth"), Ok(Begin::Fresh(_))));
    drop((uncounted, third));
}

fn a_key_that_can_not_be_used_is_refused_by_every_call(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    let refused = |key: &str| match scope.begin(key, request()) {
        Err(BeginError::Key(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(""), KeyError::Empty);
    assert_eq!(refused(&"x".repeat(256)), KeyError::TooLong { len: 256, max: 255 });
    fresh(scope, &"x".repeat(255)).complete("reply").unwrap();
    let long = engine.scope("x".repeat(256));
    let too_long = KeyError::ScopeTooLong { len: 256, max: 255 };
    assert!(matches!(long.begin("key", request()), Err(BeginError::Key(error)) if error == too_long));
    assert!(matches!(long.get("key"), Err(ReadError::Key(error)) if error == too_long));
    assert!(matches!(scope.get(""), Err(ReadError::Key(KeyError::Empty))));
    let forgotten = scope.forget("");
    assert!(matches!(forgotten, Err(idemkv::ForgetError::Read(ReadError::Key(KeyError::Empty)))));
    let resolved = scope.resolve("");
    assert!(matches!(resolved, Err(idemkv::ResolveError::Begin(BeginError::Key(KeyError::Empty)))));
}

fn a_body_that_is_too_long_gives_the_claim_back(world: &dyn World) {
    let engine = world.open();
    let mut claim = fresh(engine.default_scope(), "key");
    let long = vec![7; (1 << 20) + 1];
    assert!(matches!(claim.save_progress(&long), Err(ClaimError::BodyTooLarge { max: 1_048_576, .. })));
    let error = claim.complete(&long).unwrap_err();
    assert!(matches!(error.reason(), ClaimError::BodyTooLarge { len: 1_048_577, .. }), "{error}");
    assert!(!error.is_retryable());
    error.into_claim().unwrap().complete(&long[1..]).unwrap();
    assert_eq!(done(engine.default_scope(), "key").body().len(), 1 << 20);
}
