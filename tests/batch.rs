//! Many begins in one call: each result as a single begin would have given it, in the order of the requests.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{Machine, TTL, default_scope, done, fresh, request};
use idemkv::{Begin, BeginError, CommitMode, Engine, Fingerprint, KeyError, Scope};

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
    assert!(engine.begin_many::<&str>(&[]).is_empty());
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
    let results = engine.begin_many(&[("key", request()), ("key", request()), ("key", request())]);
    assert!(matches!(
        results.as_slice(),
        [Ok(Begin::Fresh(_)), Err(BeginError::Twin { first: 0 }), Err(BeginError::Twin { first: 0 })]
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

/// Few shards and long batches: every batch holds nearly all locks, while writers want each of them.
#[test]
fn batches_and_writers_of_the_same_shards_get_out_of_each_others_way() {
    let scratch = tempfile::tempdir().unwrap();
    let options = common::small(Engine::options()).shards(4).commit_mode(CommitMode::Buffered);
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
