//! What `Engine::stats` counts.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, fresh, poll, request};
use idemkv::{Begin, BeginError, Busy, Claim, Engine, Fingerprint, Recovery, Status};

const LEASE: Duration = Duration::from_secs(10);

/// What the test saw, by the names of the counters.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    fresh: u64,
    replayed: u64,
    waited: u64,
    reused: u64,
    too_late: u64,
    unresolved: u64,
    busy: u64,
    refused: u64,
    resolved: u64,
    completed: u64,
    failed: u64,
    released: u64,
    superseded: u64,
}

impl Seen {
    fn note(&mut self, begun: Result<Begin, BeginError>, claims: &mut Vec<Claim>) {
        match begun {
            Ok(Begin::Fresh(claim)) => {
                self.fresh += 1;
                claims.push(claim);
            }
            // A twin of a batch waits, as any other.
            Ok(Begin::InFlight(_)) | Err(BeginError::DuplicateInBatch { .. }) => self.waited += 1,
            Ok(Begin::Done(_)) => self.replayed += 1,
            Err(BeginError::KeyReused) => self.reused += 1,
            Err(BeginError::Expired(_)) => self.too_late += 1,
            Err(BeginError::Unresolved(_)) => self.unresolved += 1,
            Err(BeginError::Busy(_)) => self.busy += 1,
            Err(_) => self.refused += 1,
        }
    }
}

fn counted(engine: &Engine) -> Seen {
    let stats = engine.stats();
    Seen {
        fresh: stats.fresh,
        replayed: stats.replayed,
        waited: stats.waited,
        reused: stats.reused,
        too_late: stats.too_late,
        unresolved: stats.unresolved,
        busy: stats.busy.sum(),
        refused: stats.refused,
        resolved: stats.resolved,
        completed: stats.completed,
        failed: stats.failed,
        released: stats.released,
        superseded: stats.superseded,
    }
}

#[test]
fn whatever_is_called_the_counters_add_up() {
    let machine = Machine::default();
    let engine = machine.options().max_in_flight(12).tombstone_ttl(2 * TTL).open("x.idem").unwrap();
    let plain = default_scope(&engine);
    let leased = engine.set_policy("leased", engine.policy().lease(LEASE).recovery(Recovery::Rerun)).unwrap();
    let strict = engine.set_policy("strict", engine.policy().recovery(Recovery::Refuse)).unwrap();
    let scopes = [plain, leased, strict];
    let (mut seen, mut claims, mut drawn) = (Seen::default(), Vec::<Claim>::new(), 1_u64);
    let mut draw = |below: u64| {
        drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (drawn >> 33) % below
    };
    let mut last = 0;
    for _ in 0..20_000 {
        let scope = &scopes[usize::try_from(draw(3)).unwrap()];
        let key = format!("{}", draw(40));
        let other = Fingerprint::of("other");
        match draw(14) {
            0..=3 => seen.note(scope.begin(&key, request()), &mut claims),
            4 => seen.note(scope.begin(&key, other), &mut claims),
            5 => seen.note(scope.begin("", request()), &mut claims),
            6 => {
                let requests =
                    [(key.clone(), request()), (format!("{}", draw(40)), request()), (key, request())];
                for begun in scope.begin_many(&requests) {
                    seen.note(begun, &mut claims);
                }
            }
            7 => {
                if let Ok(claim) = scope.resolve(&key) {
                    seen.resolved += 1;
                    claims.push(claim);
                }
            }
            8 => machine.clock.advance(Duration::from_secs(1 + draw(2) * draw(2_000))),
            9 => drop(engine.step()),
            _ if claims.is_empty() => {}
            end => {
                let at = usize::try_from(draw(claims.len() as u64)).unwrap();
                let claim = claims.swap_remove(at);
                let ended = match end {
                    10 => claim.complete("reply").map(|_| seen.completed += 1),
                    11 => claim.fail("reason").map(|_| seen.failed += 1),
                    12 => claim.release().map(|()| seen.released += 1),
                    _ => {
                        drop(claim);
                        Ok(())
                    }
                };
                seen.superseded += u64::from(ended.is_err());
            }
        }
        let begins = engine.stats().begins();
        assert!(begins >= last, "counters only grow");
        last = begins;
    }
    assert_eq!(counted(&engine), seen);
    let answers = seen.fresh + seen.replayed + seen.waited + seen.reused + seen.too_late;
    assert_eq!(engine.stats().begins(), answers + seen.unresolved + seen.busy + seen.refused);
    let few = [seen.too_late, seen.unresolved, seen.busy, seen.resolved, seen.superseded, seen.released];
    assert!(few.into_iter().all(|count| count > 10), "each happened: {seen:?}");
    claims.clear();
    let stats = engine.stats();
    let ends = stats.completed + stats.failed + stats.released + stats.dropped + stats.lease_expired;
    assert_eq!((stats.fresh + stats.resolved + stats.token_claims, stats.in_flight), (ends, 0));
    assert!(stats.dropped > 10 && stats.lease_expired > 10, "{stats:?}");
}

#[test]
fn gauges_say_how_it_is() {
    let machine = Machine::default();
    let engine = machine.options().max_waiters(1).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let held = fresh(&scope, "held");
    drop(fresh(&scope, "lost"));
    machine.clock.advance(Duration::from_secs(5));
    drop(fresh(&scope, "lost later"));
    let stats = engine.stats();
    assert_eq!(
        (stats.in_flight, stats.interrupted, stats.interrupted_longest),
        (1, 2, Duration::from_secs(5))
    );
    assert!(!stats.is_disk_full && !stats.has_failed);
    assert_eq!((stats.waiting, stats.waiting_for_room, stats.queued), (0, 0, 0));
    let Ok(Begin::InFlight(pending)) = scope.begin("held", request()) else { panic!("it is out") };
    let begins = engine.stats().begins();
    std::thread::scope(|threads| {
        let waits = threads.spawn(|| pending.wait().unwrap());
        while engine.stats().waiting == 0 {
            std::thread::yield_now();
        }
        let refused = pending.wait_timeout(Duration::from_secs(3_600));
        assert!(matches!(refused, Err(BeginError::Busy(Busy::TooManyWaiters { max: 1 }))), "{refused:?}");
        held.complete("reply").unwrap();
        drop(waits.join().unwrap());
    });
    assert_eq!((engine.stats().waiting, engine.stats().in_flight), (0, 0));
    assert_eq!(engine.stats().busy.waiters, 1);
    assert_eq!(engine.stats().begins(), begins, "waiting is no begin");
    machine.kill((scope, engine, pending));
    let engine = machine.open();
    let stats = engine.stats();
    assert_eq!((stats.interrupted, stats.found_interrupted, stats.begins()), (2, 2, 0));
}

#[test]
fn a_commit_that_the_disk_does_not_end_has_an_age_which_is_told_meanwhile() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    assert_eq!(engine.stats().commit_running, Duration::ZERO);
    let (seen, asked) = (Arc::new(Mutex::new(Vec::new())), engine.clone());
    let noted = Arc::clone(&seen);
    // The thread that syncs asks: it would wait for ever if the statistics waited for the sync.
    machine.disk.before_syncs(move |_| noted.lock().unwrap().push(asked.stats()));
    fresh(&scope, "key").complete("reply").unwrap();
    let commits = std::mem::take(&mut *seen.lock().unwrap());
    engine.checkpoint().unwrap();
    assert!(!seen.lock().unwrap().is_empty(), "the store was synced too");
    machine.disk.before_syncs(|_| {});
    assert!(commits.len() >= 2 && commits.iter().all(|stats| stats.commit_running > Duration::ZERO));
    assert!(commits.iter().all(|stats| stats.queued == 0), "what is being written waits no more");
    assert_eq!(engine.stats().commit_running, Duration::ZERO);
}

#[test]
fn an_opening_is_told_from_others_and_how_long_it_lasts() {
    let machine = Machine::default();
    let engine = machine.open();
    machine.clock.advance(Duration::from_secs(3));
    let first = engine.stats();
    assert_eq!((first.is_open, first.open_for), (true, Duration::from_secs(3)));
    engine.clone().close().unwrap();
    let closed = engine.stats();
    assert_eq!((closed.is_open, closed.open_for, closed.opening), (false, Duration::ZERO, first.opening));
    drop(engine);
    let again = machine.open().stats();
    assert!(again.opening != first.opening && again.is_open);
}

/// A task may stop waiting once the log has what it asked for.
#[test]
fn what_comes_about_though_its_future_was_dropped_is_counted() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "done").complete("reply").unwrap();
    let mut claim = fresh(&scope, "key");
    assert!(poll(pin!(scope.forget_async("done"))).is_pending());
    assert!(poll(pin!(claim.save_progress_async("note"))).is_pending());
    let policy = engine.policy().recovery(Recovery::Rerun);
    assert!(poll(pin!(engine.set_policy_async("jobs", policy))).is_pending());
    engine.step();
    assert!(matches!(scope.get("done"), Ok(Status::Vacant)));
    assert_eq!(engine.scope("jobs").policy(), policy);
    assert_eq!(claim.last_progress().unwrap()[..], b"note"[..]);
    let stats = engine.stats();
    assert_eq!((stats.forgotten, stats.progress_saved, stats.policies_set), (1, 1, 1));
}
