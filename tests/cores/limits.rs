//! What is too long, empty or too much.

use idemkv::{BeginError, ClaimError, KeyError, ReadError};

use crate::world::{World, done, fresh, request};

over_every_core!(
    a_key_that_can_not_be_used_is_refused_by_every_call,
    a_body_that_is_too_long_gives_the_claim_back,
);

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
