//! Promises of time are kept while the disk is slow: no sync of the log or of the store delays a
//! deadline or the end of a lease.

#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{default_scope, fresh, request, small};
use futures_executor::block_on;
use idemkv::sim::SimDisk;
use idemkv::{Begin, Engine, Recovery, Scope};

const LEASE: Duration = Duration::from_millis(50);
/// Nothing here takes as long, unless it never ends.
const LONG: Duration = Duration::from_secs(20);

/// A gate in front of the disk. Closed, it holds one thread of the engine at its next sync.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    held: Option<&'static str>,
    waiting: usize,
}

impl Gate {
    fn before(disk: &SimDisk) -> Self {
        let gate = Self::default();
        let theirs = gate.clone();
        disk.before_syncs(move |_| theirs.pass());
        gate
    }

    fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        while state.held.is_some() && thread::current().name() == state.held {
            state.waiting += 1;
            changed.notify_all();
            state = changed.wait(state).unwrap();
            state.waiting -= 1;
        }
    }

    /// Has the thread with this name stop at its next sync.
    fn hold(&self, name: &'static str) {
        self.0.0.lock().unwrap().held = Some(name);
    }

    fn wait_until_it_is_held(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        while state.waiting == 0 {
            state = changed.wait(state).unwrap();
        }
    }

    /// Whether it comes to a sync within a moment.
    fn is_held_soon(&self) -> bool {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap();
        let (state, _) = changed.wait_timeout_while(state, LEASE, |state| state.waiting == 0).unwrap();
        state.waiting > 0
    }

    fn open(&self) {
        self.0.0.lock().unwrap().held = None;
        self.0.1.notify_all();
    }
}

/// An engine whose worker stands in the middle of a checkpoint.
fn in_a_checkpoint() -> (Engine, Scope, Gate) {
    let disk = SimDisk::new();
    let gate = Gate::before(&disk);
    let engine = small(Engine::options()).disk(&disk).recovery(Recovery::Rerun).open("x.idem").unwrap();
    let leased = engine.set_policy("leased", engine.policy().lease(LEASE)).unwrap();
    gate.hold("idemkv-worker");
    let scope = default_scope(&engine);
    for n in 0..30 {
        fresh(&scope, &format!("{n}")).complete([7; 4_000]).unwrap();
    }
    gate.wait_until_it_is_held();
    (engine, leased, gate)
}

/// What `call` gives, which must come although the worker is held.
#[track_caller]
fn in_time<T: Send + 'static>(gate: &Gate, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (told, tells) = mpsc::channel();
    let caller = thread::spawn(move || told.send(call()));
    let answer = tells.recv_timeout(LONG);
    gate.open();
    caller.join().unwrap().ok();
    answer.unwrap_or_else(|_| panic!("it was told only when the disk let it"))
}

#[test]
fn a_lease_ends_in_time_while_the_log_is_moved_to_the_store() {
    let (engine, leased, gate) = in_a_checkpoint();
    let claim = fresh(&leased, "key");
    let waits = leased.clone();
    let begun = in_time(&gate, move || waits.begin_or_wait("key", request(), 2 * LONG));
    let Ok(Begin::Fresh(again)) = begun else { panic!("{begun:?}") };
    assert_eq!(again.attempt(), 2);
    assert!(claim.complete("late").is_err());
    again.complete("reply").unwrap();
    engine.close().unwrap();
}

#[test]
fn a_task_times_out_in_time_while_the_log_is_moved_to_the_store() {
    let (engine, _, gate) = in_a_checkpoint();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    let waits = scope.clone();
    let begun = in_time(&gate, move || block_on(waits.begin_or_wait_async("key", request(), LEASE)));
    assert!(matches!(begun, Ok(Begin::InFlight(_))), "{begun:?}");
    claim.complete("reply").unwrap();
    engine.close().unwrap();
}

/// Everything expires, and the idle engine drops it and compacts the file. The worker is held at
/// each sync on the way.
#[test]
fn a_lease_ends_in_time_while_the_file_is_compacted() {
    let disk = SimDisk::new();
    let gate = Gate::before(&disk);
    let options = small(Engine::options()).disk(&disk).recovery(Recovery::Rerun).ttl(20 * LEASE);
    let engine = options.open("x.idem").unwrap();
    let leased = engine.set_policy("leased", engine.policy().lease(LEASE)).unwrap();
    for n in 0..1_500 {
        fresh(&default_scope(&engine), &format!("{n}")).complete([7; 4_000]).unwrap();
    }
    engine.checkpoint().unwrap();
    let before = engine.stats().file_bytes;
    let (started, mut held) = (Instant::now(), 0);
    while engine.stats().file_bytes > before / 4 {
        assert!(started.elapsed() < 2 * LONG, "it was never compacted");
        gate.hold("idemkv-worker");
        if !gate.is_held_soon() {
            continue;
        }
        held += 1;
        let key = format!("held {held}");
        let claim = fresh(&leased, &key);
        let waits = leased.clone();
        let begun = in_time(&gate, move || waits.begin_or_wait(key, request(), 2 * LONG));
        let Ok(Begin::Fresh(again)) = begun else { panic!("{begun:?}") };
        assert!(claim.complete("late").is_err());
        again.complete("reply").unwrap();
    }
    assert!(held > 0);
    engine.close().unwrap();
}

/// A completion in a transaction has the store for as long as the work takes. A new log has space
/// for some fifty claims.
#[test]
fn the_log_grows_while_a_transaction_is_at_work() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::options().queue_timeout(LONG).open(scratch.path().join("x.idem")).unwrap();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "slow");
    let (begun, begins) = mpsc::channel::<()>();
    let (works, is_at_work) = mpsc::channel();
    let slow = thread::spawn(move || {
        let completed = claim.complete_in(|_| {
            works.send(()).unwrap();
            begins.recv_timeout(LONG / 2).map(|()| "reply")
        });
        completed.map(drop).is_ok()
    });
    is_at_work.recv().unwrap();
    let claims: Vec<_> = (0..200).map(|n| fresh(&scope, &format!("{n}"))).collect();
    begun.send(()).ok();
    assert!(slow.join().unwrap(), "claims waited for the transaction");
    drop(claims);
    engine.close().unwrap();
}
