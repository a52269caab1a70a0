//! Many real threads on one file: one claim a key at any time, one effect an operation, nobody
//! left waiting.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{done, request};
use idemkv::{Begin, BeginError, CommitMode, Engine, Outcome, Recovery, ResolveError, Scope, Waited};

const THREADS: usize = 8;
const KEYS: usize = 300;

/// What the world outside saw of one operation.
#[derive(Default)]
struct Operation {
    holders: AtomicU32,
    effects: AtomicU32,
    last_fence: AtomicU64,
}

/// Delivers one operation until it is done, as a client that retries does.
fn deliver(scope: &Scope, key: &str, operation: &Operation, luck: usize) {
    for attempts in 0.. {
        let begun = match scope.begin(key, request()) {
            Err(BeginError::Unresolved(lost)) => match scope.resolve(key) {
                Ok(claim) => {
                    assert_eq!(scope.policy().get_recovery(), Recovery::Refuse);
                    assert!(claim.interrupted().unwrap().attempt() >= lost.attempt());
                    Begin::Fresh(claim)
                }
                // Somebody else was faster.
                Err(ResolveError::NotInterrupted(_)) => continue,
                Err(error) => panic!("{key}: {error}"),
            },
            begun => begun.unwrap(),
        };
        match begun {
            Begin::Done(record) => {
                assert_eq!((record.outcome(), record.body()), (Outcome::Success, key.as_bytes()));
                return;
            }
            Begin::InFlight(pending) => {
                let waited = pending.wait_timeout(Duration::from_secs(60)).unwrap();
                assert!(!matches!(waited, Waited::TimedOut), "{key}: a waiter was forgotten");
            }
            Begin::Fresh(claim) => {
                assert_eq!(operation.holders.fetch_add(1, Ordering::SeqCst), 0, "{key} was granted twice");
                let before = operation.last_fence.swap(claim.fence().get(), Ordering::SeqCst);
                assert!(claim.fence().get() > before, "{key}: fences must grow");
                assert_eq!(claim.interrupted().is_some(), claim.attempt() > 1);
                // Some attempts are lost before the effect, some know that nothing happened, some
                // succeed.
                let fate = (claim.attempt() as usize + luck) % 4;
                operation.holders.fetch_sub(1, Ordering::SeqCst);
                match fate {
                    0 => drop(claim),
                    1 if attempts == 0 => claim.release().unwrap(),
                    _ => {
                        operation.effects.fetch_add(1, Ordering::SeqCst);
                        claim.complete(key).unwrap();
                        return;
                    }
                }
            }
        }
    }
}

fn stress(engine: &Engine, scope: &Scope) {
    let operations: Vec<Operation> = (0..KEYS).map(|_| Operation::default()).collect();
    std::thread::scope(|threads| {
        for thread in 0..THREADS {
            let operations = &operations;
            threads.spawn(move || {
                for step in 0..KEYS {
                    // Each thread in an order of its own, so that they meet on some keys and not
                    // on others.
                    let key = (step * 7 + thread * 13) % KEYS;
                    deliver(scope, &format!("key {key}"), &operations[key], step + thread);
                }
            });
        }
    });
    for (key, operation) in operations.iter().enumerate() {
        assert_eq!(operation.effects.load(Ordering::SeqCst), 1, "effects of key {key}");
    }
    let stats = engine.stats();
    assert_eq!(stats.in_flight, 0);
    assert!(stats.commits > 0 && stats.committed_entries >= 2 * KEYS as u64);
}

#[test]
fn every_operation_has_one_effect_whatever_becomes_of_its_claims() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let rerun = engine.policy().recovery(Recovery::Rerun);
    for scope in [engine.scope("refuse"), engine.set_policy("rerun", rerun).unwrap()] {
        stress(&engine, &scope);
    }
    engine.close().unwrap();
    let engine = Engine::open(&path).unwrap();
    for scope in ["refuse", "rerun"].map(|name| engine.scope(name)) {
        for key in 0..KEYS {
            assert_eq!(done(&scope, &format!("key {key}")).body(), format!("key {key}").as_bytes());
        }
    }
}

/// Claims of one key, granted and dropped as fast as can be: each has a higher fence than the one
/// before, and what the last one completes is there after a kill.
#[test]
fn the_fences_of_one_key_grow_in_the_order_of_its_claims() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let options = Engine::options().commit_mode(CommitMode::Buffered).recovery(Recovery::Rerun);
    let engine = options.open(&path).unwrap();
    let last = AtomicU64::new(0);
    std::thread::scope(|threads| {
        for _ in 0..THREADS {
            let (scope, last) = (engine.scope(""), &last);
            threads.spawn(move || {
                for _ in 0..2_000 {
                    // While the claim is out nobody else has the key, so the order of these swaps
                    // is that of the claims.
                    if let Begin::Fresh(claim) = scope.begin("key", request()).unwrap() {
                        let fence = claim.fence().get();
                        let before = last.swap(fence, Ordering::SeqCst);
                        assert!(fence > before, "fence {fence} after {before}");
                    }
                }
            });
        }
    });
    let Begin::Fresh(claim) = engine.default_scope().begin("key", request()).unwrap() else {
        panic!("nobody has it")
    };
    claim.complete("reply").unwrap();
    let copy = dir.path().join("copy.idem");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::copy(dir.path().join("x.idem-wal"), dir.path().join("copy.idem-wal")).unwrap();
    assert_eq!(done(&Engine::open(&copy).unwrap().scope(""), "key").body(), b"reply");
}

#[test]
fn a_small_log_under_many_threads_is_recycled_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let options =
        || crate::common::small(Engine::options()).commit_mode(CommitMode::Buffered).cache_bytes(32 << 10);
    let engine = options().open(&path).unwrap();
    std::thread::scope(|threads| {
        for thread in 0..THREADS {
            let scope = engine.scope(format!("scope {thread}"));
            threads.spawn(move || {
                for n in 0..400 {
                    let Begin::Fresh(claim) = scope.begin(format!("{n}"), request()).unwrap() else {
                        panic!("{n}")
                    };
                    claim.complete(vec![b'x'; 2_000]).unwrap();
                }
            });
        }
    });
    assert!(engine.stats().checkpoints > 5, "{:?}", engine.stats());
    assert!(engine.stats().log_bytes <= (512 << 10) + 4_096);
    engine.close().unwrap();
    let engine = options().open(&path).unwrap();
    for thread in 0..THREADS {
        let scope = engine.scope(format!("scope {thread}"));
        for n in 0..400 {
            assert_eq!(done(&scope, &format!("{n}")).body().len(), 2_000);
        }
    }
}

#[test]
fn closing_while_threads_work_leaves_only_what_was_acknowledged_or_interrupted() {
    for round in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.idem");
        let engine = Engine::open(&path).unwrap();
        let acknowledged = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|threads| {
            for thread in 0..4 {
                let (scope, acknowledged) = (engine.scope(""), &acknowledged);
                threads.spawn(move || {
                    for n in 0.. {
                        let key = format!("{thread} {n}");
                        let Ok(Begin::Fresh(claim)) = scope.begin(&key, request()) else { return };
                        let Ok(record) = claim.complete(&key) else { return };
                        acknowledged.lock().unwrap().push((key, record.fence()));
                    }
                });
            }
            while acknowledged.lock().unwrap().len() < 20 * (round + 1) {
                std::thread::yield_now();
            }
            engine.clone().close().unwrap();
        });
        let engine = Engine::open(&path).unwrap();
        let scope = engine.scope("");
        for (key, fence) in acknowledged.into_inner().unwrap() {
            let record = done(&scope, &key);
            assert_eq!((record.body(), record.fence()), (key.as_bytes(), fence));
        }
    }
}
