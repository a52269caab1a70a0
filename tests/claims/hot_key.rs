//! A key that a thread asks for again and again is answered from a copy of the thread's own, until
//! anything happens to it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, done, fresh, request};
use idemkv::{Begin, BeginError, Engine, Fingerprint, Observer, Record, Status};

/// A key that this thread was answered for often enough to keep its record.
fn hot(engine: &Engine, key: &str, reply: &str) -> Record {
    let scope = default_scope(engine);
    let completed = fresh(&scope, key).complete(reply).unwrap();
    let replays: Vec<_> = (0..4).map(|_| done(&scope, key)).collect();
    assert!(replays.iter().all(|record| record.body() == reply.as_bytes()));
    let at = |record: &Record| record.body().as_ptr();
    assert_eq!(at(&replays[0]), at(&completed), "the first one shares its memory with the index");
    assert_ne!(at(&replays[3]), at(&completed), "the last one is not a copy");
    assert_eq!(at(&replays[3]), at(&replays[2]), "one copy is enough");
    completed
}

/// Whether this thread answers from its copy of a record.
fn is_kept(engine: &Engine, key: &str) -> bool {
    let scope = default_scope(engine);
    let at = || done(&scope, key).into_body();
    let (one, other) = (at(), thread::scope(|threads| threads.spawn(at).join().unwrap()));
    one.as_ptr() != other.as_ptr()
}

#[test]
fn a_copy_is_the_same_record() {
    let engine = Machine::default().open();
    let completed = hot(&engine, "key", "reply");
    let copy = done(&default_scope(&engine), "key");
    assert_eq!(format!("{copy:?}"), format!("{completed:?}"));
    assert_eq!((copy.key(), copy.scope(), copy.fence()), (&b"key"[..], &b""[..], completed.fence()));
    assert_eq!(copy.remembered_until(), completed.remembered_until());
    assert!(copy.is_durable() && is_kept(&engine, "key"));
}

#[test]
fn a_hot_key_that_is_forgotten_is_granted_again() {
    let engine = Machine::default().open();
    hot(&engine, "key", "reply");
    assert!(engine.default_scope().forget("key").unwrap());
    let claim = fresh(&default_scope(&engine), "key");
    assert!(matches!(engine.default_scope().begin("key", request()), Ok(Begin::InFlight(_))));
    claim.complete("another").unwrap();
    for _ in 0..4 {
        assert_eq!(done(&default_scope(&engine), "key").body(), b"another");
    }
}

#[test]
fn a_hot_key_expires_at_its_time() {
    for (key, tombstone) in [("key", TTL), ("another key", 2 * TTL)] {
        let machine = Machine::default();
        let engine = machine.options().tombstone_ttl(tombstone).open("x.idem").unwrap();
        hot(&engine, key, "reply");
        machine.clock.advance(TTL - Duration::from_millis(1));
        done(&default_scope(&engine), key);
        machine.clock.advance(Duration::from_millis(1));
        match engine.default_scope().begin(key, request()) {
            Ok(Begin::Fresh(_)) => assert_eq!(tombstone, TTL),
            Err(BeginError::Expired(_)) => assert_ne!(tombstone, TTL),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_hot_key_with_another_fingerprint_is_refused_and_stays_hot() {
    let engine = Machine::default().open();
    hot(&engine, "key", "reply");
    for _ in 0..3 {
        let refused = engine.default_scope().begin("key", Fingerprint::of("another request"));
        assert!(matches!(refused, Err(BeginError::KeyReused)), "{refused:?}");
    }
    assert!(is_kept(&engine, "key"));
    assert_eq!(engine.stats().reused, 3);
}

#[test]
fn a_hot_key_that_was_evicted_is_read_from_disk() {
    let engine = Machine::default().options().cache_bytes(0).open("x.idem").unwrap();
    let completed = hot(&engine, "key", "reply");
    // The first pass of the hand takes the touch mark, the second one the record.
    while engine.stats().cached_bytes > 0 {
        engine.checkpoint().unwrap();
    }
    assert_eq!(done(&default_scope(&engine), "key").completed(), completed.completed());
    assert_eq!(engine.stats().loaded, 1);
}

#[test]
fn what_another_thread_does_to_a_hot_key_is_seen_by_the_next_call() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let elsewhere = |what: &(dyn Fn() + Sync)| thread::scope(|threads| threads.spawn(what).join().unwrap());

    hot(&engine, "forgotten", "reply");
    elsewhere(&|| assert!(engine.default_scope().forget("forgotten").unwrap()));
    fresh(&scope, "forgotten").complete("reply").unwrap();

    hot(&engine, "forgotten and run again", "reply");
    elsewhere(&|| {
        assert!(engine.default_scope().forget("forgotten and run again").unwrap());
        fresh(&scope, "forgotten and run again").complete("another reply").unwrap();
    });
    assert_eq!(done(&scope, "forgotten and run again").body(), b"another reply");

    hot(&engine, "expired", "reply");
    machine.clock.advance(TTL);
    let claim = Mutex::new(None);
    elsewhere(&|| *claim.lock().unwrap() = Some(fresh(&scope, "expired")));
    assert!(matches!(engine.default_scope().begin("expired", request()), Ok(Begin::InFlight(_))));
    elsewhere(&|| drop(claim.lock().unwrap().take().unwrap().complete("another reply").unwrap()));
    assert_eq!(done(&scope, "expired").body(), b"another reply");

    hot(&engine, "swept", "reply");
    machine.clock.advance(TTL);
    elsewhere(&|| {
        while engine.stats().entries > 0 {
            engine.step();
        }
    });
    fresh(&scope, "swept").release().unwrap();
}

#[test]
fn a_key_next_to_a_hot_one_changes_and_the_copy_stays() {
    // One shard: every change is one of the hot key's shard.
    let engine = Machine::default().options().shards(1).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    hot(&engine, "key", "reply");
    let before = done(&scope, "key");
    for number in 0..10 {
        fresh(&scope, &number.to_string()).complete("some other reply").unwrap();
        assert_eq!(done(&scope, "key").body().as_ptr(), before.body().as_ptr());
    }
}

#[test]
fn each_engine_answers_for_itself() {
    let (one, other) = (Machine::default(), Machine::default());
    let (first, second) = (one.open(), other.open());
    // The same seed, so the same digest.
    hot(&first, "key", "first");
    let claim = fresh(&default_scope(&second), "key");
    assert_eq!(done(&default_scope(&first), "key").body(), b"first");
    claim.complete("second").unwrap();
    assert_eq!(done(&default_scope(&second), "key").body(), b"second");
    hot(&second, "hot", "second");

    // What takes the place of an engine has nothing of it.
    first.clone().close().unwrap();
    assert!(matches!(first.default_scope().begin("key", request()), Err(BeginError::Closed)));
    drop(first);
    let again = Machine::default().open();
    assert!(matches!(again.default_scope().get("key"), Ok(Status::Vacant)));
    fresh(&default_scope(&again), "key").release().unwrap();
    let reopened = one.open();
    assert_eq!(done(&default_scope(&reopened), "key").body(), b"first");
}

#[test]
fn a_kept_record_does_not_keep_the_engine_open() {
    let machine = Machine::default();
    let engine = machine.open();
    hot(&engine, "key", "reply");
    drop(engine);
    // It would be locked.
    machine.open().close().unwrap();
}

#[test]
fn a_large_record_is_not_kept() {
    let engine = Machine::default().open();
    let scope = default_scope(&engine);
    let completed = fresh(&scope, "key").complete([b'x'; 4_096]).unwrap();
    for _ in 0..4 {
        assert_eq!(done(&scope, "key").body().as_ptr(), completed.body().as_ptr());
    }
    assert_eq!(engine.stats().replayed, 4);
}

#[test]
fn every_replay_is_counted_once() {
    let engine = Machine::default().open();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    fresh(&scope, "other").complete("reply").unwrap();
    for _ in 0..2 {
        thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    (0..100).for_each(|_| drop(done(&scope, "key")));
                    (0..10).for_each(|_| drop((done(&scope, "other"), done(&scope, "key"))));
                });
            }
        });
    }
    assert_eq!(engine.stats().replayed, 2 * 4 * (100 + 2 * 10));
}

/// Begins the same key, and another, whenever it is told of a replay.
#[derive(Default)]
struct Curious {
    engine: Mutex<Option<Engine>>,
    replays: AtomicUsize,
}

impl Observer for Curious {
    fn replayed(&self, _record: &Record) {
        if self.replays.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            let engine = self.engine.lock().unwrap().clone();
            if let Some(engine) = engine {
                done(&default_scope(&engine), "key");
                done(&default_scope(&engine), "other");
            }
        }
    }
}

#[test]
fn an_observer_may_begin_the_key_that_it_is_told_of() {
    let observer = Arc::new(Curious::default());
    let engine = Machine::default().options().observer(Arc::clone(&observer)).open("x.idem").unwrap();
    fresh(&default_scope(&engine), "other").complete("reply").unwrap();
    hot(&engine, "key", "reply");
    *observer.engine.lock().unwrap() = Some(engine.clone());
    for _ in 0..30 {
        assert_eq!(done(&default_scope(&engine), "key").body(), b"reply");
    }
    *observer.engine.lock().unwrap() = None;
    assert_eq!(engine.stats().replayed, observer.replays.load(Ordering::Relaxed) as u64);
}

/// Begins when its thread ends.
struct Late(Engine, Arc<AtomicUsize>);

impl Drop for Late {
    fn drop(&mut self) {
        (0..3).for_each(|_| drop(done(&default_scope(&self.0), "key")));
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    static FIRST: RefCell<Option<Late>> = const { RefCell::new(None) };
    static LAST: RefCell<Option<Late>> = const { RefCell::new(None) };
}

#[test]
fn a_thread_that_ends_still_gets_answers() {
    let engine = Machine::default().open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let late = || Late(engine.clone(), Arc::clone(&dropped));
    thread::scope(|threads| {
        let (first, last) = (late(), late());
        let thread = threads.spawn(|| {
            // One is dropped before the thread's copy, one after it, whichever way the system
            // goes.
            FIRST.set(Some(first));
            (0..4).for_each(|_| drop(done(&default_scope(&engine), "key")));
            LAST.set(Some(last));
        });
        thread.join().unwrap();
    });
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
    assert_eq!(engine.stats().replayed, 10);
}
