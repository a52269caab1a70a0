//! Grants that are taken back before their callers had them: their waiters are told what the key
//! is by then, and not before.

use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Machine, UNRESOLVED, default_scope, fresh, request};
use crate::helpers::poll;
use idemkv::{Begin, BeginError, Busy, Pending, Scope, Status, Waited};

const LEASE: Duration = Duration::from_secs(10);

#[track_caller]
fn pending(scope: &Scope) -> Pending {
    match scope.begin("key", request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("should be in flight, is {other:?}"),
    }
}

/// What is told by now.
fn told(pending: &Pending) -> Waited {
    pending.wait_timeout(Duration::ZERO).unwrap()
}

/// Someone resolves an interrupted key, and gives up before the claim is there: in the log, or
/// before.
#[test]
fn waiters_of_a_resolver_that_gives_up_are_told_that_the_key_is_interrupted() {
    for is_logged in [false, true] {
        let machine = Machine::default();
        let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
        let scope = default_scope(&engine);
        drop(fresh(&scope, "key"));
        let mut filler = pin!(scope.begin_async("filler", request()));
        if !is_logged {
            assert!(poll(filler.as_mut()).is_pending());
        }
        let mut resolve = Box::pin(scope.resolve_async("key"));
        assert!(poll(resolve.as_mut()).is_pending());
        let pending = pending(&scope);
        drop(resolve);
        engine.step();
        assert!(matches!(scope.get("key"), Ok(Status::Interrupted(_))));
        let told = told(&pending);
        assert!(matches!(told, Waited::Interrupted), "logged {is_logged}: {told:?}");
    }
}

#[test]
fn waiters_of_a_grant_over_an_interruption_that_is_over_by_now_are_told_that_the_key_is_vacant() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    let mut filler = pin!(scope.begin_async("filler", request()));
    assert!(poll(filler.as_mut()).is_pending());
    let mut resolve = Box::pin(scope.resolve_async("key"));
    assert!(poll(resolve.as_mut()).is_pending());
    let pending = pending(&scope);
    machine.clock.advance(UNRESOLVED);
    drop(resolve);
    assert!(matches!(scope.get("key"), Ok(Status::Vacant)));
    assert!(matches!(told(&pending), Waited::Vacant));
}

#[derive(Default)]
struct Gate {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    /// A sync arrives, and waits until it may go on.
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(_, is_open)| !*is_open).unwrap());
    }

    fn await_sync(&self) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |(is_here, _)| !*is_here).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// Lets syncs go on when it is dropped, so that a test that fails ends.
struct Opens<'a>(&'a Gate);

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A begin waits for a place in the queue for longer than its lease. Another thread takes its
/// grant back: an entry says so, which has to be written. Then the begin itself gives up.
#[test]
fn a_begin_that_gives_up_tells_nobody_of_a_grant_that_another_thread_takes_back() {
    let machine = Machine::default();
    let options = machine.options().queue_entries(1).queue_timeout(Duration::from_millis(300));
    let engine = options.open("x.idem").unwrap();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let plain = default_scope(&engine);
    let gate = Arc::new(Gate::default());
    let theirs = Arc::clone(&gate);
    machine.disk.before_syncs(move |path| {
        if path.ends_with("-wal") {
            theirs.pass();
        }
    });
    thread::scope(|threads| {
        let _opens = Opens(&gate);
        threads.spawn(|| drop(plain.begin("leads", request())));
        gate.await_sync();
        let mut filler = pin!(plain.begin_async("filler", request()));
        assert!(poll(filler.as_mut()).is_pending());
        let gives_up = threads.spawn(|| jobs.begin("key", request()).map(drop));
        while !matches!(jobs.get("key"), Ok(Status::InFlight(_))) {
            thread::yield_now();
        }
        machine.clock.advance(LEASE);
        // The thread that finds the lease over.
        let pending = pending(&jobs);
        let gave_up = gives_up.join().unwrap();
        assert!(matches!(gave_up, Err(BeginError::Busy(Busy::QueueFull { .. }))), "{gave_up:?}");
        let so_far = told(&pending);
        assert!(matches!(so_far, Waited::TimedOut), "the entry is not written: {so_far:?}");
        let (waited, started) = (engine.stats().waited, Instant::now());
        let in_vain = jobs.begin_or_wait("key", request(), Duration::from_millis(50));
        assert!(matches!(in_vain, Ok(Begin::InFlight(_))), "{in_vain:?}");
        assert!(started.elapsed() >= Duration::from_millis(50));
        assert_eq!(engine.stats().waited, waited + 1, "it began and waited without a pause");
        gate.open();
        engine.flush().unwrap();
        assert!(matches!(told(&pending), Waited::Vacant));
        assert_eq!(fresh(&jobs, "key").attempt(), 1);
    });
}
