//! Forks at random moments, while threads work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_executor::block_on;
use idemkv::{Begin, BeginError, Engine, Failure, Fingerprint, OpenError, ReadError};

use crate::child::{Way, alone, in_child};
use crate::common::budget::Budget;
use crate::common::{default_scope, done, request, small};

/// Forks of one life of an engine.
const FORKS: u64 = 20;

/// What threads were told.
#[derive(Default)]
struct Told {
    fences: Mutex<BTreeSet<u64>>,
    done: Mutex<BTreeMap<String, String>>,
}

impl Told {
    fn granted(&self, fence: u64) {
        assert!(self.fences.lock().unwrap().insert(fence), "fence {fence} was granted twice");
    }
}

/// A thread, or a task, that works until it is told to stop.
fn work(engine: &Engine, told: &Told, name: &str, stops: &AtomicBool, steps: &AtomicU64) {
    let mut n = 0;
    while !stops.load(Ordering::Relaxed) {
        n += 1;
        let (key, body) = (format!("{name}-{n}"), format!("{name} {n}").repeat(1 + n % 40));
        let is_task = n % 3 == 0;
        let begun = if is_task {
            block_on(engine.default_scope().begin_async(&key, request()))
        } else {
            engine.default_scope().begin(&key, request())
        };
        let Begin::Fresh(claim) = begun.unwrap() else { panic!("{key} is new") };
        told.granted(claim.fence().get());
        let ended = match n % 16 {
            0 => claim.complete_in(|_| Ok::<_, String>(&body)).map(drop).map_err(|error| error.to_string()),
            _ if is_task => {
                block_on(claim.complete_async(&body)).map(drop).map_err(|error| error.to_string())
            }
            _ => claim.complete(&body).map(drop).map_err(|error| error.to_string()),
        };
        ended.unwrap();
        told.done.lock().unwrap().insert(key, body);
        steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a child finds that comes into the world at any moment.
fn child(engine: Engine, path: &std::path::Path) {
    for key in ["a-1", "b-1", "never"] {
        let begun = engine.default_scope().begin(key, request());
        assert!(matches!(begun, Err(BeginError::Failed(Failure::Forked))), "{begun:?}");
        assert!(matches!(engine.default_scope().get(key), Err(ReadError::Forked)));
        assert!(block_on(engine.default_scope().begin_async(key, Fingerprint::of("x"))).is_err());
        assert!(engine.default_scope().forget(key).is_err());
    }
    assert!(
        engine
            .default_scope()
            .begin_many(&[("a-1", request()), ("never", request())])
            .iter()
            .all(Result::is_err)
    );
    assert!(engine.flush().is_err() && engine.checkpoint().is_err());
    drop((engine.stats(), engine.policies(), engine.scope("x").policy()));
    match Engine::open(path) {
        Err(OpenError::Locked(_)) => {}
        other => panic!("a child got in: {other:?}"),
    }
    assert!(matches!(engine.close(), Err(Failure::Forked)));
}

#[test]
fn forks_at_random_moments_lose_nothing_and_let_nobody_in() {
    let _alone = alone();
    let mut budget = Budget::new("fork::moments", "forks", 2);
    while let Some(seed) = budget.next_seed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("x.idem");
        let engine = small(Engine::options()).cache_bytes(1 << 16).open(&path).unwrap();
        let (told, stops, steps) = (Told::default(), AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|threads| {
            for name in ["a", "b", "c"] {
                let (engine, told, stops, steps) = (&engine, &told, &stops, &steps);
                threads.spawn(move || work(engine, told, name, stops, steps));
            }
            let _stop = Stop(&stops);
            for n in 0..FORKS {
                // Not at the start of a step each time.
                let until = steps.load(Ordering::Relaxed) + 1 + (seed * 7 + n * 13) % 11;
                while steps.load(Ordering::Relaxed) < until {
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_micros((seed * 131 + n * 37) % 400));
                in_child(Way::Fork, || {
                    if n % 8 == 0 {
                        in_child(Way::Fork, || child(engine.clone(), &path));
                    }
                    child(engine.clone(), &path);
                });
                match Engine::open(&path) {
                    Err(OpenError::Locked(_)) => {}
                    other => panic!("somebody was let in: {other:?}"),
                }
            }
        });
        engine.close().unwrap();
        let engine = Engine::open(&path).unwrap();
        let scope = default_scope(&engine);
        for (key, body) in told.done.lock().unwrap().iter() {
            assert_eq!(done(&scope, key).body(), body.as_bytes(), "{key}");
        }
        let Ok(Begin::Fresh(claim)) = scope.begin("the next", request()) else { panic!("it is new") };
        told.granted(claim.fence().get());
        budget.count(FORKS);
    }
}

/// Has threads stop, where a test fails too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
