//! Closing: from tasks, and by several at once.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use crate::common::{Machine, default_scope, done, fresh, poll, ready, request, small};
use futures_executor::block_on;
use idemkv::sim::SimDisk;
use idemkv::{Begin, BeginError, Closed, Engine, ReadError};

#[test]
fn a_task_that_closes_gets_what_a_thread_gets_and_the_file_can_be_opened_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    assert_eq!(block_on(engine.close_async()).unwrap(), Closed { claims_left: 1 });
    assert!(matches!(scope.begin("key", request()), Err(BeginError::Closed)));
    let again = Engine::open(&path).unwrap();
    again.close().unwrap();
    drop(claim);
}

#[test]
fn a_task_that_closes_is_not_blocked_and_may_stop_waiting() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let claim = fresh(&default_scope(&engine), "key");
    // While this runs the store is taken, so closing has to wait.
    let other = engine.clone();
    let result = claim.complete_in(|_| {
        let closing = thread::scope(|threads| {
            let closing = threads.spawn(|| {
                let mut closing = Box::pin(engine.close_async());
                assert!(poll(closing.as_mut()).is_pending());
                assert!(poll(closing.as_mut()).is_pending());
                closing
            });
            closing.join().unwrap()
        });
        drop(closing);
        Ok::<_, String>("reply")
    });
    result.unwrap();
    // It went on without the task; another close waits for it.
    assert_eq!(other.close().unwrap(), Closed { claims_left: 0 });
    Engine::open(&path).unwrap().close().unwrap();
}

#[test]
fn a_stepped_engine_is_closed_at_the_first_poll() {
    let machine = Machine::default();
    let engine = machine.open();
    ready(pin!(engine.close_async())).unwrap();
    machine.open().close().unwrap();
}

#[test]
fn of_all_who_close_at_once_each_is_told_when_the_file_is_free() {
    for _ in 0..20 {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("x.idem");
        let engine = Engine::open(&path).unwrap();
        let claim = fresh(&default_scope(&engine), "key");
        let barrier = Arc::new(Barrier::new(4));
        let closers: Vec<_> = (0..4)
            .map(|_| {
                let (engine, barrier, path) = (engine.clone(), Arc::clone(&barrier), path.clone());
                thread::spawn(move || {
                    barrier.wait();
                    assert_eq!(engine.close().unwrap(), Closed { claims_left: 1 });
                    // Others may have it open by now, but not the engine that was closed.
                    match Engine::open(&path) {
                        Ok(again) => again.close().map(drop).unwrap(),
                        Err(error) => assert!(matches!(error, idemkv::OpenError::Locked(_)), "{error}"),
                    }
                })
            })
            .collect();
        for closer in closers {
            closer.join().unwrap();
        }
        Engine::open(&path).unwrap().close().unwrap();
        drop(claim);
    }
}

/// Thread-locals go in the order in which they came, backwards: those of the crate may be gone
/// before the engine is.
#[test]
fn an_engine_in_a_thread_local_is_closed_when_its_thread_ends() {
    thread_local! {
        static ENGINE: RefCell<Option<Engine>> = const { RefCell::new(None) };
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let theirs = path.clone();
    let thread = thread::spawn(move || {
        // There before the thread makes its first call.
        ENGINE.with_borrow_mut(|place| assert!(place.is_none()));
        let engine = Engine::open(&theirs).unwrap();
        fresh(&default_scope(&engine), "key").complete("reply").unwrap();
        ENGINE.set(Some(engine));
    });
    thread.join().unwrap();
    let engine = Engine::open(&path).unwrap();
    done(&default_scope(&engine), "key");
    engine.close().unwrap();
}

/// Returns once the engine takes no calls any more: somebody closes it.
fn wait_until_it_is_shut(engine: &Engine) {
    while !matches!(engine.default_scope().begin("nothing", request()), Err(BeginError::Closed)) {
        thread::yield_now();
    }
}

/// Closes on another thread; whether the file is free is seen by the caller of this, once that is
/// done.
fn close_beside(engine: &Engine) -> thread::JoinHandle<Closed> {
    let engine = engine.clone();
    thread::spawn(move || engine.close().unwrap())
}

/// What is told within a minute; who waits for itself is never told.
#[track_caller]
fn returns<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (told, tells) = std::sync::mpsc::channel();
    thread::spawn(move || told.send(call()));
    tells.recv_timeout(std::time::Duration::from_secs(60)).unwrap_or_else(|_| panic!("it never returns"))
}

#[test]
fn a_close_inside_a_transaction_and_one_beside_it_return_in_either_order() {
    for inside_is_first in [true, false] {
        returns(move || {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("x.idem");
            let engine = Engine::open(&path).unwrap();
            let scope = default_scope(&engine);
            let (claim, _out) = (fresh(&scope, "key"), fresh(&scope, "out"));
            let mut beside = None;
            let result = claim.complete_in(|_| {
                let inside = || engine.clone().close().unwrap();
                if inside_is_first {
                    inside();
                    wait_until_it_is_shut(&engine);
                    beside = Some(close_beside(&engine));
                } else {
                    beside = Some(close_beside(&engine));
                    wait_until_it_is_shut(&engine);
                    inside();
                }
                assert!(!beside.as_ref().unwrap().is_finished(), "it is told before the file is free");
                Ok::<_, String>("reply")
            });
            assert_eq!(result.unwrap().body(), b"reply");
            assert_eq!(beside.unwrap().join().unwrap(), Closed { claims_left: 1 });
            let again = Engine::open(&path).unwrap();
            assert_eq!(crate::common::done(&default_scope(&again), "key").body(), b"reply");
            again.close().unwrap();
        });
    }
}

/// Closes the engine that it is told of, beside another thread that does so.
struct Closer {
    engine: std::sync::Mutex<Option<Engine>>,
    is_first: bool,
    beside: std::sync::Mutex<Option<thread::JoinHandle<Closed>>>,
}

impl idemkv::Observer for Closer {
    fn event(&self, event: &idemkv::Event<'_>) {
        if event.name() != "interrupted" {
            return;
        }
        let Some(engine) = self.engine.lock().unwrap().take() else { return };
        let beside = if self.is_first {
            engine.clone().close().unwrap();
            close_beside(&engine)
        } else {
            let beside = close_beside(&engine);
            wait_until_it_is_shut(&engine);
            engine.clone().close().unwrap();
            beside
        };
        *self.beside.lock().unwrap() = Some(beside);
    }
}

#[test]
fn a_close_on_a_thread_of_the_engine_and_one_beside_it_return_in_either_order() {
    for is_first in [true, false] {
        returns(move || {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("x.idem");
            let closer = Arc::new(Closer { engine: None.into(), is_first, beside: None.into() });
            let engine = Engine::options().observer(Arc::clone(&closer)).open(&path).unwrap();
            let lease = std::time::Duration::from_millis(1);
            let scope = engine.set_policy("leased", engine.policy().lease(lease)).unwrap();
            *closer.engine.lock().unwrap() = Some(engine);
            // Its end is told on a thread of the engine's.
            let claim = fresh(&scope, "key");
            let beside = loop {
                let beside = closer.beside.lock().unwrap().take();
                match beside {
                    Some(beside) => break beside,
                    None => thread::yield_now(),
                }
            };
            beside.join().unwrap();
            Engine::open(&path).unwrap().close().unwrap();
            drop(claim);
        });
    }
}

/// Three threads, each of which waits for the next: a reader of tables, one with a lock of the
/// application's that completes in a transaction, and one that closes.
#[test]
fn a_close_that_waits_for_a_reader_of_tables_keeps_nobody_from_what_the_reader_waits_for() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
    let scope = engine.scope("");
    let claim = fresh(&scope, "key");
    let (reads, is_read) = mpsc::channel();
    let (completes, is_completed) = mpsc::channel::<()>();
    let reader = engine.clone();
    let reader = thread::spawn(move || {
        let read = reader.read_tables(|_| {
            reads.send(()).unwrap();
            // As long as the other has the lock.
            is_completed.recv_timeout(Duration::from_secs(20)).is_ok()
        });
        read.unwrap()
    });
    is_read.recv().unwrap();
    let closer = engine.clone();
    let closer = thread::spawn(move || closer.close());
    // The close has refused new work by then, and waits for the reader.
    while !matches!(engine.default_scope().get("key"), Err(idemkv::ReadError::Closed)) {
        thread::yield_now();
    }
    (0..1_000).for_each(|_| thread::yield_now());
    drop(claim.complete_in(|_| Ok::<_, String>("reply")));
    completes.send(()).ok();
    assert!(reader.join().unwrap(), "the reader waited for a thread that waited for the close");
    closer.join().unwrap().unwrap();
}

/// The holder of the claim is the thread that closes.
#[test]
fn a_reader_of_tables_that_waits_for_a_claim_is_told_of_the_close_that_waits_for_the_reader() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
    let scope = engine.scope("");
    let claim = fresh(&scope, "key");
    let Ok(idemkv::Begin::InFlight(pending)) = scope.begin("key", request()) else { panic!("it is out") };
    let (reads, is_read) = mpsc::channel();
    let reader = engine.clone();
    let reader = thread::spawn(move || {
        let told = reader.read_tables(|_| {
            reads.send(()).unwrap();
            pending.wait_timeout(Duration::from_secs(20))
        });
        told.unwrap()
    });
    is_read.recv().unwrap();
    assert_eq!(engine.close().unwrap(), Closed { claims_left: 1 });
    assert!(matches!(reader.join().unwrap(), Err(BeginError::Closed)));
    drop(claim);
}

/// Calls something when it is woken, once.
struct OnWake(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for OnWake {
    fn wake(self: Arc<Self>) {
        let call = self.0.lock().unwrap().take();
        if let Some(call) = call {
            call();
        }
    }
}

fn on_wake(call: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(OnWake(Mutex::new(Some(Box::new(call))))))
}

/// A commit fails, and one of those who are told takes its time. Meanwhile another thread closes,
/// and wakes a task that waits for a place in the queue: its waker closes as well.
#[test]
fn a_waker_that_a_close_wakes_may_close_the_engine_while_a_failure_is_told() {
    let disk = SimDisk::new();
    let engine = small(Engine::options()).queue_entries(1).disk(&disk).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let held = fresh(&scope, "held");
    let Ok(Begin::InFlight(pending)) = scope.begin("held", request()) else { panic!("it is held") };
    let (syncs, goes_on, tells, woken) = (Flag::default(), Flag::default(), Flag::default(), Flag::default());
    let (at, until) = (syncs.clone(), goes_on.clone());
    disk.before_syncs(move |name| {
        if name.ends_with("-wal") {
            at.set();
            until.wait();
        }
    });
    let (at, until) = (tells.clone(), woken.clone());
    let slow = on_wake(move || {
        at.set();
        until.wait();
    });
    let mut waits = pin!(pending.wait_async());
    assert!(waits.as_mut().poll(&mut Context::from_waker(&slow)).is_pending());
    let mut first = pin!(scope.begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending());
    syncs.wait();
    let mut second = pin!(scope.begin_async("second", request()));
    assert!(poll(second.as_mut()).is_pending());
    let (theirs, at) = (engine.clone(), woken.clone());
    let second_close = on_wake(move || {
        at.set();
        drop(theirs.close());
    });
    let mut third = pin!(scope.begin_async("third", request()));
    assert!(third.as_mut().poll(&mut Context::from_waker(&second_close)).is_pending());
    disk.fail_syncs(Some("-wal"));
    goes_on.set();
    tells.wait();
    let (closed, is_closed) = mpsc::channel();
    thread::spawn(move || closed.send(engine.close().is_err()));
    assert_eq!(is_closed.recv_timeout(Duration::from_secs(20)), Ok(true), "the commit failed");
    drop(held);
}

/// A flag that a thread can wait for.
#[derive(Clone, Default)]
struct Flag(Arc<(Mutex<bool>, Condvar)>);

impl Flag {
    fn set(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let guard = self.0.0.lock().unwrap();
        let waited = self.0.1.wait_timeout_while(guard, Duration::from_secs(10), |is_set| !*is_set).unwrap();
        assert!(*waited.0, "nobody sets it");
    }
}

/// Once it has answered, the store has what the log had: closing may not have come so far yet.
#[test]
fn a_checkpoint_asked_for_while_the_engine_closes_is_made() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    let before = engine.stats().checkpoints;
    let closing = engine.read_tables(|_| {
        // It waits for this reader.
        let theirs = engine.clone();
        let closing = thread::spawn(move || theirs.close().map(drop));
        while !matches!(scope.get("key"), Err(ReadError::Closed)) {
            thread::yield_now();
        }
        thread::scope(|threads| {
            let asks = threads.spawn(|| {
                engine.checkpoint().unwrap();
                engine.stats().checkpoints
            });
            assert_eq!(asks.join().unwrap(), before + 1);
        });
        closing
    });
    closing.unwrap().join().unwrap().unwrap();
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().checkpoints, before + 1);
}

#[test]
fn a_checkpoint_asked_for_after_a_close_that_failed_says_so() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    machine.disk.fail_syncs(Some(".idem"));
    assert!(engine.clone().close().is_err());
    let asked = engine.checkpoint();
    assert!(asked.is_err(), "the store does not have the record");
    drop(engine);
    machine.disk.fail_syncs(None);
    assert_eq!(done(&default_scope(&machine.open()), "key").body(), b"reply");
}
