//! Batches at their limits, and batches that end claims each in its own way.

use std::time::Duration;

use futures_executor::block_on;
use idemkv::sim::{ManualClock, SimDisk};
use idemkv::{
    Begin, BeginError, Busy, Claim, ClaimError, CommitError, Completion, End, Engine, Fingerprint, Options,
    Outcome, Status,
};

const HOUR: Duration = Duration::from_secs(3_600);

fn request() -> Fingerprint {
    Fingerprint::of("request")
}

fn claim(engine: &Engine, key: &str) -> Claim {
    let Begin::Fresh(claim) = engine.default_scope().begin(key, request()).unwrap() else {
        panic!("{key} is not fresh")
    };
    claim
}

fn simulated() -> Options {
    Engine::options()
        .disk(&SimDisk::new())
        .clock(&ManualClock::at_millis(1_800_000_000_000))
        .stepped()
        .seed(3)
}

/// A log of two small segments.
fn small_log(options: Options) -> Options {
    options
        .batch_bytes(4_096)
        .max_body_bytes(4_096)
        .reserve_bytes(1_000)
        .log_segment_bytes(64 << 10)
        .log_bytes(128 << 10)
        .queue_timeout(HOUR)
}

#[test]
fn a_batch_ends_each_claim_in_its_own_way_with_one_commit() {
    let engine = simulated().open("x.idem").unwrap();
    let minute = Duration::from_secs(60);
    let ends = vec![
        (claim(&engine, "done"), End::complete("reply")),
        (claim(&engine, "failed"), End::fail("declined").with(Completion::new().ttl(minute))),
        (claim(&engine, "released"), End::release()),
        (claim(&engine, "bodiless"), End::complete("a video").with(Completion::new().discard_body())),
    ];
    let before = engine.stats().commits;
    let results: Vec<_> = engine.end_many(ends).into_iter().map(Result::unwrap).collect();
    assert_eq!(engine.stats().commits, before + 1);
    let record = |at: usize| results.get(at).unwrap().as_ref();
    assert_eq!(record(0).unwrap().body(), b"reply");
    let failed = record(1).unwrap();
    assert_eq!((failed.outcome(), failed.body()), (Outcome::Failure, &b"declined"[..]));
    assert_eq!(failed.expires().saturating_since(failed.completed()), minute);
    assert!(record(2).is_none() && !record(3).unwrap().is_body_kept());
    assert!(matches!(engine.default_scope().get("released").unwrap(), Status::Vacant));
    assert!(matches!(engine.default_scope().get("failed").unwrap(), Status::Done(_)));
}

#[test]
fn a_batch_of_a_task_ends_each_claim_in_its_own_way_even_if_its_future_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("x.idem")).unwrap();
    let ends = vec![
        (claim(&engine, "a"), End::complete("reply")),
        (claim(&engine, "b"), End::fail("declined")),
        (claim(&engine, "c"), End::release()),
    ];
    drop(engine.end_many_async(ends));
    engine.flush().unwrap();
    let ended = block_on(engine.end_many_async(vec![(claim(&engine, "d"), End::complete("reply"))]));
    assert!(ended.into_iter().all(|ended| ended.unwrap().is_some()));
    engine.close().unwrap();
    let engine = Engine::open(dir.path().join("x.idem")).unwrap();
    for (key, is_done) in [("a", true), ("b", true), ("c", false), ("d", true)] {
        assert_eq!(matches!(engine.default_scope().get(key).unwrap(), Status::Done(_)), is_done, "{key}");
    }
}

#[test]
fn one_end_that_is_refused_stops_none_of_the_others() {
    let engine = small_log(simulated()).open("x.idem").unwrap();
    let ends = vec![
        (claim(&engine, "long"), End::complete(vec![7; 4_097])),
        (claim(&engine, "fits"), End::complete(vec![7; 10])),
    ];
    let mut results = engine.end_many(ends);
    assert!(results.pop().unwrap().unwrap().is_some());
    let refused = results.pop().unwrap().unwrap_err();
    assert!(matches!(refused.reason(), ClaimError::BodyTooLarge { .. }), "{refused}");
    refused.into_claim().unwrap().complete("short").unwrap();
}

/// With default options, on real files.
#[test]
fn a_batch_of_as_many_keys_as_there_may_be_is_granted_whole() {
    const MANY: usize = 16_384;
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("x.idem")).unwrap();
    let requests: Vec<_> = (0..MANY).map(|number| (format!("key {number}"), request())).collect();
    let begun = engine.default_scope().begin_many(&requests);
    let claims: Vec<_> = begun
        .into_iter()
        .map(|begun| match begun.unwrap() {
            Begin::Fresh(claim) => (claim, End::complete(vec![7; 3_000])),
            other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(claims.len(), MANY);
    assert!(engine.end_many(claims).iter().all(Result::is_ok));
}

#[test]
fn a_batch_does_not_wait_for_room_that_only_the_end_of_its_own_claims_could_give() {
    let dir = tempfile::tempdir().unwrap();
    for options in [small_log(simulated()), small_log(Engine::options())] {
        let engine = options.open(dir.path().join("x.idem")).unwrap();
        let requests: Vec<_> = (0..200).map(|number| (format!("key {number}"), request())).collect();
        // With a patience of an hour: it would be noticed.
        let mut claims = Vec::new();
        let mut refused = 0;
        for begun in engine.default_scope().begin_many(&requests) {
            match begun {
                Ok(Begin::Fresh(claim)) => claims.push((claim, End::complete("reply"))),
                Err(error @ BeginError::Busy(Busy::QueueFull { waited: Duration::ZERO | HOUR })) => {
                    assert!(error.is_retryable());
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(claims.len() > 20 && refused > 20, "{} and {refused}", claims.len());
        assert!(engine.end_many(claims).iter().all(Result::is_ok));
    }
}

#[test]
fn ends_that_need_more_room_wait_together_and_not_for_the_claims_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let engine = small_log(Engine::options()).open(dir.path().join("x.idem")).unwrap();
    let mine: Vec<_> = (0..6).map(|number| claim(&engine, &format!("mine {number}"))).collect();
    // Others have all the rest.
    let requests: Vec<_> = (0..200).map(|number| (format!("other {number}"), request())).collect();
    let others: Vec<_> = engine.default_scope().begin_many(&requests).into_iter().flatten().collect();
    assert!(others.len() > 10);
    let ends = mine.into_iter().map(|claim| (claim, End::complete(vec![7; 4_096]))).collect();
    let mut full = 0;
    for ended in engine.end_many(ends) {
        if let Err(error) = ended {
            let reason = error.reason();
            assert!(
                matches!(reason, ClaimError::Commit(CommitError::Busy(Busy::QueueFull { .. }))),
                "{error}"
            );
            error.into_claim().unwrap().complete("short").unwrap();
            full += 1;
        }
    }
    assert!(full > 0, "the log was not full");
    drop(others);
}
