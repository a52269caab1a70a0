//! Threads and tasks together on one file, with leases of milliseconds on a clock that another
//! thread moves: claims lapse, are lost, handed over, taken up, resolved and ended late. An oracle
//! outside the engine knows who may hold what.
//!
//! `IDEMKV_SEED=n` repeats the choices of a run, though not its interleaving.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::{START_MS, done};
use crate::oracle::{Oracle, PATIENCE, Random, name};
use crate::worker::{Shared, Worker};
use futures_executor::block_on;
use futures_util::future::join_all;
use idemkv::sim::ManualClock;
use idemkv::{CommitMode, Durability, Engine, Options, Recovery, Scope};

const THREADS: u64 = 4;
/// Each runs two tasks.
const EXECUTORS: u64 = 2;
const RUN: Duration = Duration::from_secs(4);

fn options(clock: &ManualClock) -> Options {
    crate::common::small(Engine::options()).log_bytes(4 << 20).clock(clock).commit_mode(CommitMode::Buffered)
}

fn declare(engine: &Engine) -> Vec<Scope> {
    let policy = engine.policy().recovery(Recovery::Rerun);
    let lease = |ms| policy.lease(Duration::from_millis(ms));
    let policies = [
        lease(5),
        lease(2).durability(Durability::Completions),
        lease(20).durability(Durability::Relaxed(Duration::from_millis(1))),
        policy,
    ];
    let named = policies.into_iter().enumerate();
    named.map(|(n, policy)| engine.set_policy(format!("scope {n}"), policy).unwrap()).collect()
}

#[test]
fn threads_and_tasks_with_short_leases_never_hold_a_key_twice_nor_wait_for_ever() {
    let seed = std::env::var("IDEMKV_SEED").ok().and_then(|seed| seed.parse().ok());
    let nanos = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let seed: u64 = seed.unwrap_or_else(|| u64::from(nanos()) | 1);
    println!("IDEMKV_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let clock = ManualClock::at_millis(START_MS);
    let engine = options(&clock).open(&path).unwrap();
    let shared = Shared {
        scopes: declare(&engine),
        engine,
        oracle: Oracle::default(),
        tokens: Mutex::default(),
        stop: AtomicBool::new(false),
    };
    let worker = |number: u64, is_task| Worker {
        shared: &shared,
        random: Random(seed.wrapping_mul(number + 1) | 1),
        is_task,
        held: Vec::new(),
    };
    let started = Instant::now();
    std::thread::scope(|threads| {
        let mut workers = Vec::new();
        for number in 0..THREADS {
            let worker = worker(number, false);
            workers.push(threads.spawn(|| block_on(worker.run())));
        }
        for number in 0..EXECUTORS {
            let first = THREADS + 2 * number;
            let tasks = [first, first + 1].map(|number| worker(number, true));
            workers.push(threads.spawn(|| {
                block_on(join_all(tasks.map(Worker::run)));
            }));
        }
        // Time goes by until the last of them is done, for they may be waiting for a lease to end.
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            if started.elapsed() > RUN {
                shared.stop.store(true, Ordering::Relaxed);
            }
            clock.advance(Duration::from_millis(1));
            std::thread::park_timeout(Duration::from_micros(100));
        }
    });
    // Claims that were handed over and never taken up lapse by themselves.
    clock.advance(Duration::from_secs(1));
    while shared.engine.stats().in_flight > 0 {
        assert!(
            started.elapsed() < PATIENCE,
            "{} places are taken for ever",
            shared.engine.stats().in_flight
        );
        std::thread::yield_now();
    }
    let Shared { engine, scopes, oracle, .. } = shared;
    println!("{:?}, {} keys", engine.stats(), oracle.keys.lock().unwrap().len());
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{} grants, {} superseded, {} taken up",
        count(&oracle.grants),
        count(&oracle.superseded),
        count(&oracle.resumed)
    );
    assert!(count(&oracle.grants) > 100 && count(&oracle.superseded) > 0 && count(&oracle.resumed) > 0);
    assert_eq!(engine.close().unwrap().claims_left, 0);
    drop(scopes);
    check_records(&options(&clock).open(&path).unwrap(), oracle);
}

/// Every completion that a caller was told of is there.
fn check_records(engine: &Engine, oracle: Oracle) {
    let keys = oracle.keys.into_inner().unwrap();
    assert!(keys.values().any(|known| known.done.is_some()));
    for (key, known) in keys {
        let Some((fence, body)) = known.done else { continue };
        let record = done(&engine.scope(format!("scope {}", key % 4)), &name(key));
        assert_eq!((record.fence().get(), record.body()), (fence, &body[..]));
    }
}
