//! What an observer is told, and what is counted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use idemkv::{Begin, BeginError, Event, Interruption, Observer, Record, Recovery, Scope, Waited};

use crate::world::{LEASE, World, begin, done, fresh, pending, request};

over_every_core!(
    every_transition_is_told_once_with_what_is_known_of_it,
    every_begin_has_one_answer_and_every_claim_one_end,
);

#[derive(Default)]
pub struct Log(Mutex<Vec<String>>);

impl Log {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

impl Observer for Log {
    fn replayed(&self, record: &Record) {
        self.note(format!("replayed: {}", text(record.key())));
    }

    fn event(&self, event: &Event<'_>) {
        let line = match event {
            Event::Granted { scope, key, attempt, interrupted, resolves, .. } => {
                let earlier = interrupted.as_ref().map(Interruption::attempt);
                format!("{} {} {} {earlier:?} {resolves}", text(scope), text(key), attempt.attempt())
            }
            Event::InFlight { key, attempt, .. } => format!("{} {}", text(key), attempt.attempt()),
            Event::Waited { key, attempt, answer, .. } => {
                let answer = answer.map_or_else(ToString::to_string, ToString::to_string);
                format!("{} {} {answer}", text(key), attempt.attempt())
            }
            Event::Ended { key, end, took, body_len, .. } => {
                format!("{} {end:?} {took:?} {body_len}", text(key))
            }
            Event::Interrupted { key, interruption, cause, .. } => {
                format!("{} {} {cause:?}", text(key), interruption.attempt())
            }
            Event::Refused { key, error, .. } => format!("{} {error}", text(key)),
            Event::Superseded { key, attempt, .. } => format!("{} {}", text(key), attempt.attempt()),
            Event::PolicySet { scope, .. } => text(scope).to_owned(),
            Event::Closed { claims_left, failure, .. } => format!("{claims_left} {}", failure.is_some()),
            _ => String::new(),
        };
        self.note(format!("{}: {line}", event.name()).trim_end().to_owned());
    }
}

/// A batch with one key twice: the first request is granted the claim.
fn twins_are_told(jobs: &Scope, log: &Log) -> Begin {
    let [first, twin] = <[_; 2]>::try_from(jobs.begin_many(&[("d", request()), ("d", request())])).unwrap();
    let first = first.unwrap();
    let twin = twin.unwrap_err();
    let mut told = log.take();
    told.sort();
    assert_eq!(told[..2], ["granted: jobs d 1 None false", "in flight: d 1"], "{told:?}");
    assert!(matches!(twin, BeginError::DuplicateInBatch { first: 0 }) && told.len() == 3, "{told:?}");
    assert!(told[2].starts_with("refused: d "), "{told:?}");
    first
}

fn every_transition_is_told_once_with_what_is_known_of_it(world: &dyn World) {
    let log = Arc::new(Log::default());
    let engine = world.open_told(&log);
    let opened = log.take();
    assert!(opened == ["opened:"] || opened == ["connected:"], "{opened:?}");
    let policy = engine.policy().lease(LEASE).recovery(Recovery::Rerun);
    let jobs = engine.set_policy("jobs", policy).unwrap();
    let strict = engine.set_policy("strict", engine.policy().recovery(Recovery::Refuse)).unwrap();
    assert_eq!(log.take(), ["policy set: jobs", "policy set: strict"]);

    let claim = fresh(&jobs, "a");
    world.advance(Duration::from_secs(2));
    claim.complete("reply").unwrap();
    fresh(&jobs, "b").fail("no").unwrap();
    fresh(&jobs, "c").release().unwrap();
    done(&jobs, "a");
    let ends = [
        "granted: jobs a 1 None false",
        "ended: a Completed 2s 5",
        "granted: jobs b 1 None false",
        "ended: b Failed 0ns 2",
        "granted: jobs c 1 None false",
        "ended: c Released 0ns 0",
        "replayed: a",
    ];
    assert_eq!(log.take(), ends);

    let late = fresh(&jobs, "late");
    world.advance(LEASE);
    let next = fresh(&jobs, "late");
    late.complete("late").unwrap_err();
    next.complete("").unwrap();
    let lapsed = [
        "granted: jobs late 1 None false",
        "interrupted: late 1 Lease",
        "granted: jobs late 2 Some(1) false",
        "superseded: late 1",
        "ended: late Completed 0ns 0",
    ];
    assert_eq!(log.take(), lapsed);

    let lost = fresh(&strict, "lost");
    let waiting = pending(&strict, "lost");
    assert!(matches!(waiting.wait_timeout(Duration::ZERO), Ok(Waited::TimedOut)));
    assert_eq!(
        log.take(),
        ["granted: strict lost 1 None false", "in flight: lost 1", "waited: lost 1 still out"]
    );
    drop(lost);
    assert!(matches!(waiting.wait(), Ok(Waited::Interrupted)));
    assert!(matches!(begin(&strict, "lost"), Err(BeginError::Unresolved(_))));
    strict.resolve("lost").unwrap().put_back().unwrap();
    strict.resolve("lost").unwrap().complete("found").unwrap();
    let mut told = log.take();
    // The waiter may be quicker than the word of the interruption.
    told[..2].sort();
    assert_eq!(told[..2], ["interrupted: lost 1 Dropped", "waited: lost 1 interrupted"]);
    assert!(told[2].starts_with("refused: lost "), "{told:?}");
    let resolved = [
        "granted: strict lost 2 Some(1) true",
        "ended: lost PutBack 0ns 0",
        "granted: strict lost 2 Some(1) true",
        "ended: lost Completed 0ns 5",
    ];
    assert_eq!(told[3..], resolved);

    let first = twins_are_told(&jobs, &log);
    assert!(jobs.begin("", request()).is_err());
    assert!(log.take()[0].starts_with("refused: "));
    drop((jobs, strict, waiting));
    engine.close().unwrap();
    assert_eq!(log.take(), ["closed: 1 false"]);
    drop(first);
}

fn every_begin_has_one_answer_and_every_claim_one_end(world: &dyn World) {
    let engine = world.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    fresh(&jobs, "a").complete("").unwrap();
    done(&jobs, "a");
    fresh(&jobs, "b").fail("").unwrap();
    fresh(&jobs, "c").release().unwrap();
    let token = fresh(&jobs, "d").into_token().unwrap();
    jobs.resume(&token).unwrap().complete("").unwrap();
    let lost = fresh(&jobs, "e");
    let waiting = pending(&jobs, "e");
    drop(lost);
    waiting.wait().unwrap();
    let late = fresh(&jobs, "f");
    world.advance(LEASE);
    fresh(&jobs, "f").complete("").unwrap();
    late.complete("").unwrap_err();
    let dropped_late = fresh(&jobs, "g");
    world.advance(LEASE);
    fresh(&jobs, "g").complete("").unwrap();
    drop(dropped_late);
    assert!(jobs.begin("", request()).is_err());
    jobs.begin("a", idemkv::Fingerprint::of("another")).unwrap_err();
    let held = fresh(&jobs, "h");
    let stats = loop {
        let stats = engine.stats();
        if stats.lease_expired == 2 {
            break stats;
        }
        std::thread::yield_now();
    };
    assert_eq!((stats.fresh, stats.rerun, stats.replayed, stats.waited), (10, 2, 1, 1));
    assert_eq!((stats.reused, stats.refused, stats.begins()), (1, 1, 14));
    let ends = (stats.completed, stats.failed, stats.released, stats.dropped);
    assert_eq!(ends, (4, 1, 1, 1));
    assert_eq!((stats.handed_over, stats.in_flight), (1, 1));
    let is_shared = world.is_shared();
    let handed_over = if is_shared { stats.handed_over } else { 0 };
    assert_eq!(stats.token_claims, u64::from(is_shared));
    let sum = ends.0 + ends.1 + ends.2 + ends.3 + stats.lease_expired + 1 + handed_over;
    assert_eq!(stats.fresh + stats.resolved + stats.token_claims, sum);
    held.complete("").unwrap();
}
