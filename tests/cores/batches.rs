//! Many calls in one.

use idemkv::{Begin, BeginError, Completion, End, Fingerprint, KeyError, Outcome, Status};

use crate::world::{World, done, fresh, request};

over_every_core!(
    each_request_of_a_batch_gets_the_answer_that_it_would_get_alone,
    a_batch_of_a_task_is_answered_in_order,
    a_batch_ends_each_claim_in_its_own_way,
    a_batch_of_ends_of_a_task_happens_even_if_its_future_is_dropped,
    a_batch_that_is_too_long_is_refused_as_a_whole,
);

fn each_request_of_a_batch_gets_the_answer_that_it_would_get_alone(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    fresh(scope, "done").complete("reply").unwrap();
    let held = fresh(scope, "held");
    let other = Fingerprint::of("other");
    let requests = [
        ("done", request()),
        ("held", request()),
        ("new", request()),
        ("new", request()),
        ("new", other),
        ("", request()),
        ("done", request()),
        ("done", other),
        ("last", request()),
        ("new", request()),
    ];
    let answers = scope.begin_many(&requests);
    assert_eq!(answers.len(), requests.len());
    assert!(matches!(&answers[0], Ok(Begin::Done(record)) if record.body() == b"reply"));
    assert!(matches!(&answers[1], Ok(Begin::InFlight(_))));
    assert!(matches!(&answers[2], Ok(Begin::Fresh(claim)) if claim.key() == b"new"));
    assert!(matches!(&answers[3], Err(BeginError::DuplicateInBatch { first: 2 })), "{:?}", answers[3]);
    assert!(matches!(&answers[4], Err(BeginError::KeyReused)), "{:?}", answers[4]);
    assert!(matches!(&answers[5], Err(BeginError::Key(KeyError::Empty))));
    assert!(matches!(&answers[6], Ok(Begin::Done(record)) if record.body() == b"reply"));
    assert!(matches!(&answers[7], Err(BeginError::KeyReused)));
    assert!(matches!(&answers[8], Ok(Begin::Fresh(claim)) if claim.key() == b"last"));
    assert!(matches!(&answers[9], Err(BeginError::DuplicateInBatch { first: 2 })));
    drop(held);
}

fn a_batch_of_a_task_is_answered_in_order(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    let requests: Vec<_> = (0..600).map(|number| (format!("key {number}"), request())).collect();
    let begun = futures_executor::block_on(scope.begin_many_async(&requests));
    let claims: Vec<_> = begun
        .into_iter()
        .map(|begun| match begun {
            Ok(Begin::Fresh(claim)) => {
                let reply = claim.key().to_vec();
                (claim, reply)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let stored = futures_executor::block_on(engine.complete_many_async(claims));
    for (stored, (key, _)) in stored.into_iter().zip(&requests) {
        assert_eq!(stored.unwrap().body(), key.as_bytes());
        assert_eq!(done(scope, key).body(), key.as_bytes());
    }
}

fn a_batch_ends_each_claim_in_its_own_way(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    let minute = std::time::Duration::from_secs(60);
    let ends = vec![
        (fresh(scope, "done"), End::complete(b"reply".to_vec())),
        (fresh(scope, "failed"), End::fail(b"declined".to_vec()).with(Completion::new().ttl(minute))),
        (fresh(scope, "long"), End::complete(vec![7; (1 << 20) + 1])),
        (fresh(scope, "released"), End::release()),
        (fresh(scope, "bodiless"), End::complete(b"a video".to_vec()).with(Completion::new().discard_body())),
    ];
    let mut results = engine.end_many(ends);
    let refused = results.remove(2).unwrap_err();
    refused.into_claim().unwrap().complete("short").unwrap();
    let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(results[0].as_ref().unwrap().body(), b"reply");
    let failed = results[1].as_ref().unwrap();
    assert_eq!((failed.outcome(), failed.body()), (Outcome::Failure, &b"declined"[..]));
    assert_eq!(failed.expires().saturating_since(failed.completed()), minute);
    assert!(results[2].is_none() && !results[3].as_ref().unwrap().is_body_kept());
    assert!(matches!(scope.get("released"), Ok(Status::Vacant)));
    assert_eq!(done(scope, "long").body(), b"short");
}

fn a_batch_of_ends_of_a_task_happens_even_if_its_future_is_dropped(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    let ends = vec![
        (fresh(scope, "a"), End::complete("reply")),
        (fresh(scope, "b"), End::fail("declined")),
        (fresh(scope, "c"), End::release()),
    ];
    drop(engine.end_many_async(ends));
    assert_eq!(done(scope, "a").body(), b"reply");
    assert_eq!(done(scope, "b").body(), b"declined");
    assert_eq!(fresh(scope, "c").attempt(), 1);
}

fn a_batch_that_is_too_long_is_refused_as_a_whole(world: &dyn World) {
    let engine = world.open();
    let requests = vec![("key", request()); 16_385];
    let answers = engine.default_scope().begin_many(&requests);
    assert_eq!(answers.len(), requests.len());
    let is_refused = |answer: &Result<Begin, BeginError>| {
        matches!(answer, Err(BeginError::BatchTooLong { len: 16_385, .. }))
    };
    assert!(answers.iter().all(is_refused));
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::Vacant)));
}
