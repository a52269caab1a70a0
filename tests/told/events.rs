//! What an observer is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{Machine, default_scope, fresh, request};
use idemkv::{Begin, BeginError, Busy, Event, Interruption, Observer, Recovery, Waited};

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Log {
    fn event(&self, event: &Event<'_>) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).unwrap();
        let line = match event {
            Event::Opened { keys, replayed, interrupted, .. } => format!("{keys} {replayed} {interrupted}"),
            Event::Granted { key, attempt, interrupted, resolves, .. } => {
                let earlier = interrupted.as_ref().map(Interruption::attempt);
                format!("{} {} {earlier:?} {resolves}", text(key), attempt.attempt())
            }
            Event::Waited { key, attempt, answer, took, .. } => {
                let answer = answer.map_or_else(ToString::to_string, ToString::to_string);
                format!("{} {} {answer} {}", text(key), attempt.attempt(), *took < Duration::from_secs(60))
            }
            Event::Ended { key, end, took, body_len, .. } => {
                format!("{} {end:?} {took:?} {body_len}", text(key))
            }
            Event::Interrupted { key, cause, .. } => format!("{} {cause:?}", text(key)),
            Event::Refused { key, error, .. } => {
                assert!(matches!(
                    error,
                    BeginError::KeyReused | BeginError::Unresolved(_) | BeginError::Busy(_)
                ));
                text(key)
            }
            Event::Superseded { key, attempt, .. } => format!("{} {}", text(key), attempt.attempt()),
            Event::PolicySet { scope, .. } => text(scope),
            Event::Closed { claims_left, failure, .. } => format!("{claims_left} {}", failure.is_some()),
            Event::BackedUp { bytes, .. } => format!("{}", *bytes > 0),
            _ => String::new(),
        };
        assert!(!format!("{event:?}").contains("key"), "keys are not shown");
        self.0.lock().unwrap().push(format!("{}: {line}", event.name()).trim_end().to_owned());
    }
}

#[test]
fn every_transition_is_told_once_with_what_is_known_of_it() {
    let machine = Machine::default();
    let log = Arc::new(Log::default());
    let open = || machine.options().observer(Arc::clone(&log)).open("x.idem").unwrap();
    let engine = open();
    assert_eq!(log.take(), ["opened: 0 0 0"]);
    let policy = engine.policy().lease(Duration::from_secs(10)).recovery(Recovery::Rerun);
    let jobs = engine.set_policy("jobs", policy).unwrap();
    let strict = engine.set_policy("strict", engine.policy().recovery(Recovery::Refuse)).unwrap();
    assert_eq!(log.take(), ["policy set: jobs", "policy set: strict"]);

    let claim = fresh(&jobs, "a");
    machine.clock.advance(Duration::from_secs(2));
    drop(claim.complete("reply").unwrap());
    drop(fresh(&jobs, "b").fail("no").unwrap());
    fresh(&jobs, "c").release().unwrap();
    let ends = [
        "granted: a 1 None false",
        "ended: a Completed 2s 5",
        "granted: b 1 None false",
        "ended: b Failed 0ns 2",
        "granted: c 1 None false",
        "ended: c Released 0ns 0",
    ];
    assert_eq!(log.take(), ends);

    let late = fresh(&jobs, "late");
    machine.clock.advance(Duration::from_secs(10));
    engine.step();
    assert!(late.complete("late").is_err());
    drop(fresh(&jobs, "late"));
    drop(fresh(&strict, "lost"));
    assert!(strict.begin("lost", request()).is_err());
    drop(strict.resolve("lost").unwrap().complete("found").unwrap());
    let lost = [
        "granted: late 1 None false",
        "interrupted: late Lease",
        "superseded: late 1",
        "granted: late 2 Some(1) false",
        "interrupted: late Dropped",
        "granted: lost 1 None false",
        "interrupted: lost Dropped",
        "refused: lost",
        "granted: lost 2 Some(1) true",
        "ended: lost Completed 0ns 5",
    ];
    assert_eq!(log.take(), lost);

    engine.backup("copy.idem").unwrap();
    assert_eq!(log.take(), ["backed up: true"]);
    let held = fresh(&default_scope(&engine), "held");
    log.take();
    machine.kill((jobs, strict, engine, held));
    log.take();
    let engine = open();
    let told = log.take();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("opened: ") && told[0].ends_with(" 1"), "{told:?}");
    assert_eq!(told[1], "interrupted: held Restart");
    engine.close().unwrap();
    assert_eq!(log.take(), ["closed: 0 false"]);
}

#[test]
fn a_full_disk_room_and_a_failure_are_told_once_each() {
    let machine = Machine::default();
    let log = Arc::new(Log::default());
    let engine = machine.options().observer(Arc::clone(&log)).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "done").complete([7; 4_000]).unwrap();
    let held = fresh(&scope, "held");
    let troubles = || {
        let mut told = log.take();
        told.retain(|line| ["disk full:", "room again:", "failed:"].contains(&line.as_str()));
        told
    };
    machine.disk.set_capacity(Some(machine.disk.used()));
    let mut claims = Vec::new();
    let refused = (0..1_000).find_map(|n| match scope.begin(format!("{n}"), request()) {
        Ok(begun) => {
            claims.push(begun);
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(refused, Some(BeginError::Busy(Busy::DiskFull(_)))), "{refused:?}");
    for _ in 0..3 {
        engine.step();
    }
    assert_eq!(troubles(), ["disk full:"]);
    assert!(engine.stats().is_disk_full);
    machine.disk.set_capacity(None);
    machine.clock.advance(Duration::from_secs(1));
    engine.checkpoint().unwrap();
    engine.step();
    engine.step();
    assert_eq!(troubles(), ["room again:"]);
    machine.disk.fail_syncs(Some("-wal"));
    assert!(held.complete("unknown").is_err());
    engine.step();
    engine.step();
    assert_eq!(troubles(), ["failed:"]);
    assert!(engine.stats().has_failed);
}

#[test]
fn a_read_of_the_file_that_fails_is_counted_and_told_once_a_minute() {
    let machine = Machine::default();
    let log = Arc::new(Log::default());
    let options = machine.options().cache_bytes(8 << 10).observer(Arc::clone(&log));
    let engine = options.open("x.idem").unwrap();
    for n in 0..400 {
        drop(fresh(&default_scope(&engine), &format!("{n}")).complete([7; 4_000]).unwrap());
    }
    engine.checkpoint().unwrap();
    let told = || {
        engine.step();
        log.take().iter().filter(|line| *line == "read failed:").count()
    };
    assert_eq!(told(), 0);
    let mut failed = 0;
    let mut fail = || {
        machine.disk.fail_read(machine.disk.reads());
        assert!((0..400).all(|n| engine.default_scope().get(format!("{n}")).is_ok()), "another try finds it");
        machine.disk.mend();
        failed += 1;
        assert_eq!(engine.stats().failed_reads, failed);
    };
    fail();
    assert_eq!((told(), told()), (1, 0));
    fail();
    assert_eq!(told(), 0);
    machine.clock.advance(Duration::from_secs(60));
    assert_eq!((told(), told()), (1, 0));
    machine.clock.advance(Duration::from_secs(60));
    assert_eq!(told(), 0);
    fail();
    assert_eq!(told(), 1);
}

#[test]
fn a_wait_is_told_with_its_answer_and_a_begin_that_waits_with_both_of_its_own() {
    let machine = Machine::default();
    let log = Arc::new(Log::default());
    let engine = machine.options().observer(Arc::clone(&log)).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let out = fresh(&scope, "a");
    drop(log.take());
    let late = scope.begin_or_wait("a", request(), Duration::ZERO);
    let Ok(Begin::InFlight(pending)) = late else { panic!("{late:?}") };
    drop(out.complete("reply").unwrap());
    assert!(matches!(pending.wait(), Ok(Waited::Done(_))));
    let seen = log.take();
    let expected = [
        "in flight:",
        "waited: a 1 still out true",
        "ended: a Completed 0ns 5",
        "waited: a 1 done: success true",
    ];
    assert_eq!(seen, expected);
}
