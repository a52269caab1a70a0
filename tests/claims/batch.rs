//! Many begins in one call: each result as a single begin would have given it, in the order of the
//! requests. Many completions too.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, done, fresh, poll, ready, request, run};
use crate::helpers::{Fences, LEASE, jobs, superseded, with};
use idemkv::{
    Begin, BeginError, Busy, ClaimError, CommitMode, Durability, Engine, Fingerprint, KeyError, Recovery,
    Scope, Status, Waited,
};

/// Calls in one batch, at most.
const LIMIT: usize = 16_384;

#[test]
fn a_batch_of_begins_is_one_commit_and_so_are_its_completions() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let keys: Vec<_> = (0..20).map(|n| format!("key {}", n % 15)).collect();
    let requests: Vec<_> = keys.iter().map(|key| (key, request())).collect();
    let commits = engine.stats().commits;
    let (mut claims, mut twins, mut fences) = (Vec::new(), 0, Fences::default());
    for result in scope.begin_many(&requests) {
        match result {
            Ok(Begin::Fresh(claim)) => claims.push((fences.saw(claim), "reply")),
            Err(BeginError::DuplicateInBatch { .. }) => twins += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((claims.len(), twins, engine.stats().commits), (15, 5, commits + 1));
    assert!(engine.complete_many(claims).iter().all(Result::is_ok));
    assert_eq!((engine.stats().commits, engine.stats().in_flight), (commits + 2, 0));
}

#[test]
fn a_superseded_claim_in_a_batch_stops_none_of_the_others() {
    for as_task in [false, true] {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        let unleased = engine.scope("unleased");
        let late = fresh(&scope, "late");
        let lapsed = fresh(&scope, "lapsed");
        machine.clock.advance(LEASE);
        let next = fresh(&scope, "late");
        let batch = vec![
            (late, "late".to_owned()),
            (next, "next".to_owned()),
            (fresh(&unleased, "too long"), "x".repeat(5_000)),
            (lapsed, "late".to_owned()),
            (fresh(&unleased, "key"), "reply".to_owned()),
        ];
        let commits = engine.stats().commits;
        let results = if as_task {
            run(&engine, engine.complete_many_async(batch))
        } else {
            engine.complete_many(batch)
        };
        assert_eq!(engine.stats().commits, commits + 1);
        let [late, next, too_long, lapsed, plain] = <[_; 5]>::try_from(results).unwrap();
        superseded(late.unwrap_err().reason());
        assert!(matches!(superseded(lapsed.unwrap_err().reason()), Status::Interrupted(_)));
        assert_eq!((next.unwrap().body(), plain.unwrap().body()), (&b"next"[..], &b"reply"[..]));
        too_long.unwrap_err().into_claim().unwrap().complete("short").unwrap();
        assert_eq!(done(&scope, "late").body(), b"next");
        assert_eq!(engine.stats().in_flight, 0);
    }
}

#[test]
fn a_batch_over_the_limit_is_refused_whole_and_gives_its_claims_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("");
    let requests = vec![("key", request()); LIMIT + 1];
    let results = scope.begin_many(&requests);
    assert_eq!(results.len(), LIMIT + 1);
    assert!(results.iter().all(|result| matches!(result, Err(BeginError::BatchTooLong { .. }))));
    assert!(matches!(scope.get("key").unwrap(), Status::Vacant));
    let results = scope.begin_many(&requests[1..]);
    assert_eq!(results.iter().filter(|result| matches!(result, Ok(Begin::Fresh(_)))).count(), 1);
}

#[test]
fn a_batch_of_begins_dropped_on_its_way_has_claimed_nothing() {
    // Each of its grants is a commit of its own, so after some steps some of them are there and
    // some are not.
    for steps in 0..4 {
        let machine = Machine::default();
        let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
        let scope = with(&engine, "scope", engine.policy().recovery(Recovery::Refuse));
        let requests = ["one", "two", "three", "four", "five"].map(|key| (key, request()));
        {
            let mut begins = Box::pin(scope.begin_many_async(&requests));
            assert!(poll(begins.as_mut()).is_pending());
            for _ in 0..steps {
                engine.step();
                assert!(poll(begins.as_mut()).is_pending());
            }
        }
        engine.step();
        for (key, _) in &requests {
            assert!(matches!(scope.get(key).unwrap(), Status::Vacant), "{key} after {steps} steps");
        }
        assert_eq!(engine.stats().in_flight, 0);
    }
}

#[test]
fn a_batch_of_completions_over_the_limit_is_refused_whole_and_gives_its_claims_back() {
    let machine = Machine::rerun();
    let options = machine.options().reserve_bytes(0).log_segment_bytes(1 << 20).log_bytes(128 << 20);
    let engine = options.durability(Durability::Completions).open("x.idem").unwrap();
    let scope = engine.scope("");
    let mut claims = Vec::new();
    for first in (0..=LIMIT).step_by(4_096) {
        let requests: Vec<_> =
            (first..(first + 4_096).min(LIMIT + 1)).map(|n| (n.to_string(), request())).collect();
        let begun = scope.begin_many(&requests).into_iter().map(|begun| match begun {
            Ok(Begin::Fresh(claim)) => (claim, ""),
            other => panic!("{other:?}"),
        });
        claims.extend(begun);
    }
    assert_eq!(claims.len(), LIMIT + 1);
    let results = engine.complete_many(claims).into_iter().map(|result| {
        let refused = result.unwrap_err();
        assert!(matches!(refused.reason(), ClaimError::BatchTooLong { .. }), "{refused}");
        (refused.into_claim().unwrap(), "")
    });
    let mut claims: Vec<_> = results.collect();
    assert!(claims.pop().unwrap().0.release().is_ok());
    assert!(engine.complete_many(claims).iter().all(Result::is_ok));
    assert_eq!(engine.stats().in_flight, 0);
}

fn keys(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix} {number}")).collect()
}

/// Completes keys, each with itself as the body.
fn complete(scope: &Scope, keys: &[String]) {
    for key in keys {
        fresh(scope, key).complete(key).unwrap();
    }
}

fn requests<K: AsRef<str>>(keys: &[K]) -> Vec<(&str, Fingerprint)> {
    keys.iter().map(|key| (key.as_ref(), request())).collect()
}

/// Begins all keys at once; they must all be done, with the body of each.
#[track_caller]
fn assert_all_done(scope: &Scope, keys: &[String]) {
    let results = scope.begin_many(&requests(keys));
    assert_eq!(results.len(), keys.len());
    for (result, key) in results.iter().zip(keys) {
        assert!(
            matches!(result, Ok(Begin::Done(record)) if record.key() == key.as_bytes() && record.body() == key.as_bytes()),
            "{key} was {result:?}"
        );
    }
}

#[test]
fn an_empty_batch_has_no_results() {
    let engine = Machine::default().open();
    assert!(engine.default_scope().begin_many::<&str>(&[]).is_empty());
}

#[test]
fn results_come_in_the_order_of_the_requests_in_batches_of_any_length() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("scope");
    let keys = keys("key", 200);
    complete(&scope, &keys);
    for len in [1, 2, 31, 32, 63, 64, 65, 128, 129, 200] {
        assert_all_done(&scope, &keys[..len]);
        let backwards: Vec<String> = keys[..len].iter().rev().cloned().collect();
        assert_all_done(&scope, &backwards);
    }
    assert_eq!(engine.stats().replayed, 2 * (1 + 2 + 31 + 32 + 63 + 64 + 65 + 128 + 129 + 200));
}

#[test]
fn a_batch_may_hold_every_kind_of_key() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "expired").complete("").unwrap();
    machine.clock.advance(TTL);
    fresh(&scope, "done").complete("reply").unwrap();
    fresh(&scope, "reused").complete("").unwrap();
    drop(fresh(&scope, "interrupted"));
    let claim = fresh(&scope, "in flight");
    let long = "k".repeat(256);
    let batch = [
        ("in flight", request()),
        ("", request()),
        ("done", request()),
        ("reused", Fingerprint::of("another request")),
        (&long, request()),
        ("expired", request()),
        ("interrupted", request()),
        ("new", request()),
        ("done", request()),
    ];
    let results = scope.begin_many(&batch);
    match results.as_slice() {
        [
            Ok(Begin::InFlight(_)),
            Err(BeginError::Key(KeyError::Empty)),
            Ok(Begin::Done(record)),
            Err(BeginError::KeyReused),
            Err(BeginError::Key(KeyError::TooLong { len: 256, max: 255 })),
            Ok(Begin::Fresh(after_expiry)),
            Ok(Begin::Fresh(second)),
            Ok(Begin::Fresh(new)),
            Ok(Begin::Done(again)),
        ] => {
            assert_eq!((record.body(), again.body()), (&b"reply"[..], &b"reply"[..]));
            assert_eq!((after_expiry.attempt(), second.attempt(), new.attempt()), (1, 2, 1));
            assert!(after_expiry.fence() < second.fence() && second.fence() < new.fence());
        }
        other => panic!("{other:?}"),
    }
    drop(claim);
}

#[test]
fn a_key_that_comes_twice_is_granted_once_and_the_others_are_told_by_which() {
    let machine = Machine::default();
    let engine = machine.open();
    let results =
        engine.default_scope().begin_many(&[("key", request()), ("key", request()), ("key", request())]);
    assert!(matches!(
        results.as_slice(),
        [
            Ok(Begin::Fresh(_)),
            Err(BeginError::DuplicateInBatch { first: 0 }),
            Err(BeginError::DuplicateInBatch { first: 0 })
        ]
    ));
    let Some(Ok(Begin::Fresh(claim))) = results.into_iter().next() else { unreachable!() };
    claim.complete("reply").unwrap();
    let scope = default_scope(&engine);
    let twice = scope.begin_many(&[("key", request()); 100]);
    assert_eq!(twice.len(), 100);
    assert!(
        twice.iter().all(|result| matches!(result, Ok(Begin::Done(record)) if record.body() == b"reply"))
    );
}

/// It was counted as a request that waits, and then as one that is refused too.
#[test]
fn a_twin_whose_commit_fails_is_counted_once() {
    let machine = Machine::default();
    let engine = machine.open();
    machine.disk.fail_syncs(Some("-wal"));
    let results = engine.default_scope().begin_many(&[("key", request()), ("key", request())]);
    assert!(
        matches!(results.as_slice(), [Err(BeginError::Failed(_)), Err(BeginError::Failed(_))]),
        "{results:?}"
    );
    assert_eq!(engine.stats().begins(), 2);
}

/// It was told to wait for a claim that was never granted.
#[test]
fn a_twin_of_a_request_that_gets_no_place_in_the_queue_is_answered_like_it() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let mut first = pin!(scope.begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending(), "it has the only place");
    let requests = [("key", request()), ("key", request()), ("key", Fingerprint::of("another request"))];
    let mut batch = pin!(scope.begin_many_async(&requests));
    assert!(poll(batch.as_mut()).is_pending(), "it waits for a place");
    machine.disk.fail_syncs(Some("-wal"));
    drop(engine.flush().unwrap_err());
    let results = ready(batch.as_mut());
    let is_told = matches!(
        results.as_slice(),
        [Err(BeginError::Failed(_)), Err(BeginError::Failed(_)), Err(BeginError::KeyReused)]
    );
    assert!(is_told, "{results:?}");
    drop(ready(first.as_mut()).unwrap_err());
    assert_eq!(engine.stats().begins(), 4);
}

#[test]
fn records_that_are_on_disk_alone_are_read_for_a_batch_too() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(0).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let keys = keys("key", 100);
    complete(&scope, &keys);
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    let engine = machine.open();
    let scope = default_scope(&engine);
    assert_all_done(&scope, &keys);
    assert_eq!((engine.stats().loaded, engine.stats().replayed), (100, 100));
    assert_all_done(&scope, &keys);
    assert_eq!((engine.stats().loaded, engine.stats().replayed), (100, 200));
}

#[test]
fn a_closed_engine_refuses_every_key_of_a_batch() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "done").complete("").unwrap();
    engine.close().unwrap();
    let results = scope.begin_many(&requests(&["done", "new"]));
    assert!(matches!(results.as_slice(), [Err(BeginError::Closed), Err(BeginError::Closed)]));
}

/// Few shards and long batches: every batch holds nearly all locks, while writers want each of
/// them.
#[test]
fn batches_and_writers_of_the_same_shards_get_out_of_each_others_way() {
    let scratch = tempfile::tempdir().unwrap();
    let options = crate::common::small(Engine::options()).shards(4).commit_mode(CommitMode::Buffered);
    let engine = options.open(scratch.path().join("x.idem")).unwrap();
    let scope = engine.scope("scope");
    let keys = keys("lasting", 150);
    complete(&scope, &keys);
    let written = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let scope = &scope;
                threads.spawn(move || {
                    for number in 0..2_000 {
                        let key = format!("passing {writer} {number}");
                        fresh(scope, &key).complete("").unwrap();
                        done(scope, &key);
                        assert!(scope.forget(&key).unwrap());
                    }
                })
            })
            .collect();
        for _ in 0..3 {
            threads.spawn(|| {
                while !written.load(Ordering::Relaxed) {
                    assert_all_done(&scope, &keys);
                }
            });
        }
        let ends: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        written.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok));
    });
}

/// The first gets no claim in the end, because its lease runs out.
#[test]
fn a_request_with_the_key_of_another_is_told_what_became_of_that_one() {
    let machine = Machine::default();
    let engine = machine.options().queue_timeout(Duration::ZERO).open("x.idem").unwrap();
    let scope = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let requests = [("a", request()), ("a", request())];
    let mut batch = pin!(scope.begin_many_async(&requests));
    assert!(poll(batch.as_mut()).is_pending());
    machine.clock.advance(LEASE);
    let answers = run(&engine, batch);
    let late = |answer: &_| matches!(answer, Err(BeginError::Busy(Busy::LeaseTooShort { .. })));
    assert!(answers.iter().all(late), "{answers:?}");
}

/// Another caller has the key by then.
#[test]
fn a_request_with_the_key_of_another_is_told_of_the_claim_that_that_one_found() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let requests = [("a", request()), ("a", request())];
    let mut batch = pin!(scope.begin_many_async(&requests));
    assert!(poll(batch.as_mut()).is_pending());
    engine.flush().unwrap();
    machine.clock.advance(LEASE);
    engine.step();
    engine.step();
    let other = fresh(&scope, "a");
    let answers = run(&engine, batch);
    let [Ok(Begin::InFlight(first)), Ok(Begin::InFlight(second))] = &answers[..] else {
        panic!("{answers:?}")
    };
    other.complete("reply").unwrap();
    assert!(matches!((first.wait(), second.wait()), (Ok(Waited::Done(_)), Ok(Waited::Done(_)))));
}
