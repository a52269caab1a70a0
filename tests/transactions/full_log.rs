//! Work of a transaction that needs log space. It has the maintenance lock, so no checkpoint frees
//! any.

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{default_scope, fresh, poll, request, small};
use idemkv::sim::SimDisk;
use idemkv::{BeginError, Durability, Engine, Recovery};

/// Work of a transaction that waits for growth of the log, which reaches its full length without
/// having served it.
#[test]
fn work_that_waits_for_a_log_that_has_grown_to_its_length_is_told_so() {
    const PATIENCE: Duration = Duration::from_secs(6);
    let disk = SimDisk::new();
    let options = small(Engine::options()).disk(&disk).queue_timeout(PATIENCE);
    let (is_held, held) = mpsc::channel::<()>();
    let (go, may_go) = mpsc::channel::<()>();
    let channels = Mutex::new(Some((is_held, may_go)));
    let engine = options.open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "in a transaction");
    let late = engine.policy().recovery(Recovery::Rerun);
    let late = late.durability(Durability::Relaxed(Duration::from_secs(30)));
    let relaxed = fresh(&engine.set_policy("late", late).unwrap(), "late");
    // The worker is held where it writes what nobody waits for.
    disk.before_syncs(move |name| {
        if name == "x.idem-wal"
            && thread::current().name() == Some("idemkv-worker")
            && let Some((is_held, may_go)) = channels.lock().unwrap().take()
        {
            is_held.send(()).unwrap();
            may_go.recv().unwrap();
        }
    });
    let (begins, may_begin) = mpsc::channel::<()>();
    let (works, is_at_work) = mpsc::channel::<()>();
    thread::scope(|threads| {
        let inside = scope.clone();
        let transaction = threads.spawn(move || {
            let mut answer = None;
            let done = claim.complete_in(|_| {
                works.send(()).unwrap();
                may_begin.recv().unwrap();
                let started = Instant::now();
                answer = Some((inside.begin("from the work", request()), started.elapsed()));
                Ok::<_, std::convert::Infallible>("reply")
            });
            drop(done);
            answer.unwrap()
        });
        is_at_work.recv().unwrap();
        relaxed.complete("reply").unwrap();
        held.recv_timeout(Duration::from_secs(20)).expect("it writes");
        let mut calls = Vec::new();
        for n in 0..120 {
            let mut call = Box::pin(scope.begin_async(format!("claim {n}"), request()));
            assert!(poll(call.as_mut()).is_pending());
            calls.push(call);
        }
        let before = engine.stats().waiting_for_room;
        assert!(before > 60, "{before} wait");
        begins.send(()).unwrap();
        while engine.stats().waiting_for_room == before {
            thread::yield_now();
        }
        go.send(()).unwrap();
        let (answer, took) = transaction.join().unwrap();
        assert!(
            matches!(answer, Err(BeginError::InsideTransaction)) && took < PATIENCE / 2,
            "{answer:?} after {took:?}, in which it had the maintenance lock"
        );
    });
}
