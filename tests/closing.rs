//! Closing: from tasks, and by several at once.

#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::cell::RefCell;
use std::pin::pin;
use std::sync::{Arc, Barrier};
use std::thread;

use common::{Machine, default_scope, done, fresh, poll, ready};
use futures_executor::block_on;
use idemkv::{BeginError, Closed, Engine};

#[test]
fn a_task_that_closes_gets_what_a_thread_gets_and_the_file_can_be_opened_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    assert_eq!(block_on(engine.close_async()).unwrap(), Closed { claims_left: 1 });
    assert!(matches!(scope.begin("key", common::request()), Err(BeginError::Closed)));
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
        let mut closing = thread::scope(|threads| {
            let closing = threads.spawn(|| {
                let mut closing = Box::pin(engine.close_async());
                assert!(poll(closing.as_mut()).is_pending());
                closing
            });
            closing.join().unwrap()
        });
        assert!(poll(closing.as_mut()).is_pending());
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

/// Thread-locals go in the order in which they came, backwards: those of the crate may be gone before the engine is.
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
