//! Waiting for claims of others, and what an observer is told.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::common::{Machine, default_scope, done, fresh, request};
use idemkv::{
    Begin, BeginError, Busy, Engine, Event, Fingerprint, Observer, Pending, Record, Recovery, Scope, Waited,
};

const LONG: Duration = Duration::from_secs(600);

fn pending(scope: &Scope, key: &str) -> Pending {
    match scope.begin(key, request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("{key} should be in flight, is {other:?}"),
    }
}

#[test]
fn a_twin_that_waits_gets_the_record_or_the_claim() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("x.idem")).unwrap();
    let (refuse, rerun) = (default_scope(&engine), engine.policy().recovery(Recovery::Rerun));
    let rerun = engine.set_policy("rerun", rerun).unwrap();
    for (key, end, scope) in
        [("done", 0, &refuse), ("released", 1, &refuse), ("dropped", 2, &rerun), ("unknown", 3, &refuse)]
    {
        let waited = engine.stats().waited;
        let claim = fresh(scope, key);
        let twin = std::thread::scope(|threads| {
            let twin = threads.spawn(|| scope.begin_or_wait(key, request(), LONG));
            while engine.stats().waited == waited && !twin.is_finished() {
                std::thread::yield_now();
            }
            match end {
                0 => drop(claim.complete("reply").unwrap()),
                1 => claim.release().unwrap(),
                _ => drop(claim),
            }
            twin.join().unwrap()
        });
        match (end, twin) {
            (0, Ok(Begin::Done(record))) => assert_eq!(record.body(), b"reply"),
            (1, Ok(Begin::Fresh(claim))) => assert_eq!(claim.attempt(), 1),
            (2, Ok(Begin::Fresh(claim))) => assert_eq!(claim.interrupted().unwrap().attempt(), 1),
            (3, Err(BeginError::Unresolved(lost))) => assert_eq!(lost.attempt(), 1),
            (_, other) => panic!("{key}: {other:?}"),
        }
    }
}

#[test]
fn when_the_time_is_up_the_key_is_still_in_flight() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let _claim = fresh(&scope, "key");
    let twin = scope.begin_or_wait("key", request(), Duration::ZERO);
    assert!(matches!(twin, Ok(Begin::InFlight(_))), "{twin:?}");
}

#[test]
fn a_task_that_waits_gets_the_claim_when_it_is_free() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    let mut twin = pin!(scope.begin_or_wait_async("key", request(), LONG));
    let mut context = Context::from_waker(Waker::noop());
    assert!(twin.as_mut().poll(&mut context).is_pending());
    drop(claim);
    assert!(twin.as_mut().poll(&mut context).is_pending(), "its grant is not durable yet");
    engine.step();
    let Poll::Ready(Ok(Begin::Fresh(claim))) = twin.as_mut().poll(&mut context) else { panic!("fresh") };
    assert_eq!(claim.attempt(), 2);
}

#[test]
fn as_many_wait_as_may_and_no_more() {
    let machine = Machine::default();
    let engine = machine.options().max_waiters(1).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    let (first, second) = (pending(&scope, "key"), pending(&scope, "key"));
    {
        let mut waits = pin!(first.wait_async());
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let refused = second.wait_timeout(LONG);
        assert!(matches!(refused, Err(BeginError::Busy(Busy::TooManyWaiters { max: 1 }))), "{refused:?}");
        let refused = scope.begin_or_wait("key", request(), LONG);
        assert!(matches!(refused, Err(BeginError::Busy(Busy::TooManyWaiters { .. }))));
    }
    // The place of one that gave up is free again.
    assert!(second.wait_timeout(Duration::ZERO).is_ok());
    claim.complete("reply").unwrap();
}

/// There is nothing to wait for, so no place is taken: not for a claim that has ended, nor where
/// the time is up at once.
#[test]
fn what_has_ended_is_told_though_as_many_wait_as_may() {
    let machine = Machine::default();
    let engine = machine.options().max_waiters(1).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let (held, ends) = (fresh(&scope, "held"), fresh(&scope, "ends"));
    let (waited_for, ended) = (pending(&scope, "held"), pending(&scope, "ends"));
    let mut waits = pin!(waited_for.wait_async());
    let mut context = Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_pending());
    assert!(matches!(ended.wait_timeout(Duration::ZERO), Ok(Waited::TimedOut)));
    ends.complete("reply").unwrap();
    assert!(matches!(ended.wait(), Ok(Waited::Done(_))));
    assert!(matches!(ended.wait_timeout(LONG), Ok(Waited::Done(_))));
    let told = pin!(ended.wait_async()).poll(&mut context);
    assert!(matches!(told, Poll::Ready(Ok(Waited::Done(_)))), "{told:?}");
    assert_eq!(engine.stats().busy.waiters, 0);
    assert!(ended.wait().is_ok() && waited_for.wait_timeout(LONG).is_err());
    assert_eq!((engine.stats().busy.waiters, engine.stats().busy.sum()), (1, 1));
    held.complete("reply").unwrap();
}

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Told {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Told {
    fn replayed(&self, record: &Record) {
        self.note(format!("replayed {}", record.key().escape_ascii()));
    }

    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Interrupted { key, interruption: attempt, .. } => {
                self.note(format!("interrupted {} {}", key.escape_ascii(), attempt.attempt()));
            }
            Event::Refused { key, error: BeginError::KeyReused, .. } => {
                self.note(format!("reused {}", key.escape_ascii()));
                panic!("an observer with a bug");
            }
            _ => {}
        }
    }
}

#[test]
fn an_observer_is_told_of_replays_interruptions_and_reuse_and_its_panics_go_no_further() {
    let machine = Machine::default();
    let told = Arc::new(Told::default());
    let engine = machine.options().observer(Arc::clone(&told)).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    done(&scope, "key");
    assert!(matches!(scope.begin("key", Fingerprint::of("other")), Err(BeginError::KeyReused)));
    assert_eq!(scope.begin_many(&[("key", request())]).len(), 1);
    drop(fresh(&scope, "dropped"));
    assert_eq!(told.take(), ["replayed key", "reused key", "replayed key", "interrupted dropped 1"]);

    let leased = engine.set_policy("jobs", engine.policy().lease(Duration::from_secs(1))).unwrap();
    let (late, open) = (fresh(&leased, "late"), fresh(&scope, "open"));
    machine.clock.advance(Duration::from_secs(1));
    engine.step();
    assert_eq!(told.take(), ["interrupted late 1"]);
    drop((scope, leased));
    machine.kill((engine, late, open));
    told.take();
    let engine = machine.options().observer(Arc::clone(&told)).open("x.idem").unwrap();
    let mut found = told.take();
    found.sort();
    assert_eq!(found, ["interrupted dropped 1", "interrupted late 1", "interrupted open 1"]);
    drop(engine);
    drop(machine.options().observer(Arc::clone(&told)).open("x.idem").unwrap());
    assert_eq!(told.take(), Vec::<String>::new(), "each is told of once");
}
