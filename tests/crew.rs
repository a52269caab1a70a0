//! Which threads an engine has. A process of its own: it counts the threads of all engines.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{default_scope, fresh, poll, request};
use futures_executor::block_on;
use idemkv::{Begin, Engine, Event, Observer, Status};

/// The names of all threads of engines in this process.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // A thread that ends meanwhile has no name.
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let mut ours: Vec<_> =
        names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("idemkv-")).collect();
    ours.sort();
    ours
}

/// Waits until the engines' threads have these names: a thread's name is set by itself.
#[track_caller]
fn assert_threads(expected: &[&str]) {
    for _ in 0..10_000 {
        if threads() == expected {
            return;
        }
        std::thread::yield_now();
    }
    assert_eq!(threads(), expected);
}

/// One test, for there is one process.
#[test]
fn an_idle_engine_has_one_thread_and_others_come_with_use() {
    let scratch = tempfile::tempdir().unwrap();
    let open = |name: &str| Engine::options().cache_bytes(0).open(scratch.path().join(name)).unwrap();
    let engine = open("x.idem");
    let scope = default_scope(&engine);
    assert_threads(&["idemkv-worker"]);
    // Threads that call do all the work themselves.
    fresh(&scope, "key").complete("reply").unwrap();
    assert!(engine.default_scope().forget("key").unwrap());
    fresh(&scope, "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::Done(_))));
    assert_threads(&["idemkv-worker"]);
    // A task has others commit for it, and read.
    let Ok(Begin::Fresh(claim)) = block_on(engine.default_scope().begin_async("other", request())) else {
        panic!("it is new")
    };
    block_on(claim.complete_async("reply")).unwrap();
    assert_threads(&["idemkv-commit", "idemkv-worker"]);
    assert!(matches!(block_on(engine.default_scope().get_async("key")), Ok(Status::Done(_))));
    assert_threads(&["idemkv-commit", "idemkv-reads", "idemkv-worker"]);
    // Ten more that nobody uses have a thread each.
    let idle: Vec<_> = (0..10).map(|n| open(&format!("{n}.idem"))).collect();
    assert_threads(
        &[&["idemkv-commit", "idemkv-reads"], [&"idemkv-worker"; 11].map(|name| *name).as_slice()].concat(),
    );
    drop(idle);
    // Closing starts none, and leaves none.
    drop(scope);
    block_on(engine.close_async()).unwrap();
    assert_threads(&[]);
    an_engine_is_told_of_before_its_threads_start(&scratch.path().join("y.idem"));
    one_thread_closes_however_many_ask(&open("z.idem"));
    assert_threads(&[]);
}

/// Notes how many threads this process has when it is told of an opening.
#[derive(Default)]
struct AtOpening(AtomicUsize);

impl Observer for AtOpening {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::Opened { .. }) {
            self.0.store(fs::read_dir("/proc/self/task").unwrap().count(), Ordering::Relaxed);
        }
    }
}

/// They tell the observer as well: of leases that are over, say.
fn an_engine_is_told_of_before_its_threads_start(path: &Path) {
    let (before, observer) =
        (fs::read_dir("/proc/self/task").unwrap().count(), Arc::new(AtOpening::default()));
    let engine = Engine::options().observer(Arc::clone(&observer)).open(path).unwrap();
    assert_eq!(observer.0.load(Ordering::Relaxed), before);
    engine.close().unwrap();
}

/// The close waits for the reader of the tables meanwhile.
fn one_thread_closes_however_many_ask(engine: &Engine) {
    let closers = || threads().iter().filter(|name| *name == "idemkv-close").count();
    let asks = || {
        (0..100).for_each(|_| assert_eq!(engine.clone().close().unwrap().claims_left, 0));
        thread::scope(|tasks| {
            let tasks = tasks.spawn(|| {
                let mut calls: Vec<_> = (0..100).map(|_| Box::pin(engine.clone().close_async())).collect();
                assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
                while closers() == 0 {
                    thread::yield_now();
                }
                assert_eq!(closers(), 1);
                calls
            });
            tasks.join().unwrap()
        })
    };
    let calls = engine.read_tables(|_| asks()).unwrap();
    for call in calls {
        assert_eq!(block_on(call).unwrap().claims_left, 0);
    }
}
