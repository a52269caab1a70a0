//! What becomes of an interruption over restarts: its time, and who is told of it again.

use std::sync::{Arc, Mutex};

use crate::common::{Machine, TTL, UNRESOLVED, fresh, request};
use crate::helpers::{LEASE, MS, rerun, with};
use idemkv::{
    BeginError, Claim, Durability, Engine, Event, Observer, OpenKey, Recovery, Scope, Status, Timestamp,
    TokenError,
};

/// How a claim ends without an outcome while the file is open.
#[derive(Clone, Copy, Debug)]
enum Lost {
    Dropped,
    Lease,
}

/// What lies between the interruption and the next opening.
#[derive(Clone, Copy, Debug)]
enum Restart {
    Close,
    CheckpointAndKill,
}

const WAYS: [(Lost, Restart); 4] = [
    (Lost::Dropped, Restart::Close),
    (Lost::Dropped, Restart::CheckpointAndKill),
    (Lost::Lease, Restart::Close),
    (Lost::Lease, Restart::CheckpointAndKill),
];

/// Loses the claim; gives the time from which on its key is interrupted.
fn lose(machine: &Machine, engine: &Engine, claim: Claim, lost: Lost) -> Timestamp {
    match lost {
        Lost::Dropped => {
            drop(claim);
            engine.now()
        }
        Lost::Lease => {
            let until = claim.lease_until().unwrap();
            machine.clock.advance(until.saturating_since(engine.now()));
            engine.step();
            until
        }
    }
}

fn restart(machine: &Machine, engine: Engine, restart: Restart) -> Engine {
    match restart {
        Restart::Close => drop(engine.close().unwrap()),
        Restart::CheckpointAndKill => {
            engine.checkpoint().unwrap();
            machine.kill(engine);
        }
    }
    machine.open()
}

#[track_caller]
fn interrupted_at(scope: &Scope, key: &str) -> Timestamp {
    match scope.get(key) {
        Ok(Status::Interrupted(lost)) => lost.interrupted_at(),
        other => panic!("{key} should be interrupted, is {other:?}"),
    }
}

fn leased(engine: &Engine) -> Scope {
    with(engine, "jobs", engine.policy().lease(LEASE))
}

/// A claim with a lease; `has_row` says whether the store knows of it.
fn leased_claim(machine: &Machine, has_row: bool) -> (Engine, Scope, Claim) {
    let engine = machine.open();
    let scope = leased(&engine);
    let claim = fresh(&scope, "key");
    if has_row {
        engine.checkpoint().unwrap();
    }
    (engine, scope, claim)
}

#[test]
fn an_interruption_keeps_its_time_over_a_close_and_a_kill_behind_a_checkpoint() {
    for (lost, way) in WAYS {
        for has_row in [false, true] {
            let context = format!("{lost:?}, {way:?}, row {has_row}");
            let machine = Machine::default();
            let (engine, scope, claim) = leased_claim(&machine, has_row);
            machine.clock.advance(MS);
            let since = lose(&machine, &engine, claim, lost);
            assert_eq!(interrupted_at(&scope, "key"), since, "{context}");
            drop(scope);
            machine.clock.advance(UNRESOLVED / 2);
            let engine = restart(&machine, engine, way);
            let scope = engine.scope("jobs");
            assert_eq!(engine.stats().found_interrupted, 0, "{context}: it was told when it happened");
            assert_eq!(interrupted_at(&scope, "key"), since, "{context}");
            assert!(matches!(scope.begin("key", request()), Err(BeginError::Unresolved(_))), "{context}");
            let over = since.saturating_add(UNRESOLVED);
            machine.clock.advance(over.saturating_since(engine.now()).checked_sub(MS).unwrap());
            assert_eq!(interrupted_at(&scope, "key"), since, "{context}");
            machine.clock.advance(MS);
            assert!(matches!(scope.get("key"), Ok(Status::Vacant)), "{context}");
        }
    }
}

#[test]
fn an_interruption_that_was_over_does_not_come_back() {
    for (lost, way) in WAYS {
        for has_row in [false, true] {
            let context = format!("{lost:?}, {way:?}, row {has_row}");
            let machine = Machine::default();
            let (engine, scope, claim) = leased_claim(&machine, has_row);
            lose(&machine, &engine, claim, lost);
            drop(scope);
            machine.clock.advance(UNRESOLVED);
            let engine = restart(&machine, engine, way);
            let scope = engine.scope("jobs");
            assert!(matches!(scope.get("key"), Ok(Status::Vacant)), "{context}");
            assert_eq!(fresh(&scope, "key").attempt(), 1, "{context}");
        }
    }
}

#[test]
fn dropped_claims_touch_no_disk_and_all_have_their_time_from_the_next_checkpoint_on() {
    const CLAIMS: usize = 300;
    let machine = Machine::default();
    let open = || machine.options().log_bytes(16 << 20).open("x.idem").unwrap();
    let engine = open();
    let scope = engine.scope("");
    let claims: Vec<_> = (0..CLAIMS).map(|n| fresh(&scope, &n.to_string())).collect();
    engine.checkpoint().unwrap();
    let operations = machine.disk.operations();
    drop(claims);
    assert_eq!(machine.disk.operations(), operations);
    let stats = engine.stats();
    assert_eq!((stats.in_flight, stats.interrupted, stats.queued), (0, CLAIMS, 0));
    let since = engine.now();
    engine.checkpoint().unwrap();
    machine.kill((engine, scope));
    machine.clock.advance(TTL);
    let engine = open();
    let listed = engine.interrupted().limit(CLAIMS + 1).get().unwrap();
    assert_eq!((listed.len(), engine.stats().found_interrupted), (CLAIMS, 0));
    assert!(listed.iter().all(|lost| lost.interrupted_at() == Some(since)));
}

/// What the weaker classes forget in a crash no file remembers: the next attempt would know of one
/// that its log never had.
#[test]
fn an_interruption_of_a_claim_that_only_memory_knows_is_not_written() {
    for (lost, way) in WAYS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let weak = with(&engine, "jobs", rerun(&engine).lease(LEASE).durability(Durability::Completions));
        let claim = fresh(&weak, "key");
        engine.checkpoint().unwrap();
        lose(&machine, &engine, claim, lost);
        assert!(matches!(weak.get("key"), Ok(Status::Interrupted(_))), "{lost:?}");
        drop(weak);
        let engine = restart(&machine, engine, way);
        assert!(matches!(engine.scope("jobs").get("key"), Ok(Status::Vacant)), "{lost:?}, {way:?}");
        assert_eq!(engine.stats().interrupted, 0);
    }
}

#[test]
fn an_interruption_of_a_claim_whose_progress_the_log_has_is_written() {
    for (lost, way) in WAYS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let weak = with(&engine, "jobs", rerun(&engine).lease(LEASE).durability(Durability::Completions));
        let mut claim = fresh(&weak, "key");
        claim.save_progress("note").unwrap();
        engine.checkpoint().unwrap();
        let since = lose(&machine, &engine, claim, lost);
        drop(weak);
        machine.clock.advance(MS);
        let engine = restart(&machine, engine, way);
        assert_eq!(interrupted_at(&engine.scope("jobs"), "key"), since, "{lost:?}, {way:?}");
        assert_eq!(engine.stats().found_interrupted, 0);
    }
}

#[test]
fn a_claim_taken_up_and_dropped_does_not_stand_again_after_a_kill() {
    for has_row in [false, true] {
        for over_restart in [false, true] {
            let machine = Machine::default();
            let mut engine = machine.open();
            let token = fresh(&leased(&engine), "key").into_token().unwrap();
            if over_restart {
                machine.kill(engine);
                engine = machine.open();
            }
            let scope = engine.scope("jobs");
            let claim = scope.resume(&token).unwrap();
            if has_row {
                engine.checkpoint().unwrap();
            }
            drop(claim);
            let told = scope.resume(&token);
            assert!(matches!(told, Err(TokenError::Superseded(_))), "{told:?}");
            // The commit that another caller waits for takes it along.
            fresh(&engine.scope(""), "other").release().unwrap();
            machine.kill((engine, scope));

            let engine = machine.open();
            let scope = engine.scope("jobs");
            assert!(matches!(scope.get("key"), Ok(Status::Interrupted(_))), "row {has_row}, {over_restart}");
            assert!(matches!(scope.begin("key", request()), Err(BeginError::Unresolved(_))));
            assert!(matches!(scope.resume(&token), Err(TokenError::Superseded(_))));
            assert_eq!(engine.stats().in_flight, 0);
        }
    }
}

/// That it is gone is an entry of its own, and must not come behind what the next holder says.
#[test]
fn a_claim_taken_up_and_dropped_is_no_later_word_than_the_next_attempt() {
    for durability in [Durability::Full, Durability::Completions] {
        for completes in [false, true] {
            let machine = Machine::rerun();
            let engine = machine.open();
            let scope = with(&engine, "jobs", rerun(&engine).lease(LEASE).durability(durability));
            let token = fresh(&scope, "key").into_token().unwrap();
            drop(scope.resume(&token).unwrap());
            let next = fresh(&scope, "key");
            assert_eq!(next.attempt(), 2);
            let held = if completes { next.complete("reply").map(|_| None).unwrap() } else { Some(next) };
            engine.checkpoint().unwrap();
            machine.kill((engine, scope, held));
            let engine = machine.open();
            let scope = engine.scope("jobs");
            assert!(matches!(scope.resume(&token), Err(TokenError::Superseded(_))));
            if completes {
                assert_eq!(crate::common::done(&scope, "key").attempt(), 2);
            } else {
                let claim = fresh(&scope, "key");
                assert_eq!(claim.interrupted().unwrap().attempt(), 2, "{durability:?}");
            }
        }
    }
}

#[test]
fn a_claim_taken_up_and_dropped_on_a_full_disk_is_gone_all_the_same() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = leased(&engine);
    let token = fresh(&scope, "key").into_token().unwrap();
    let claim = scope.resume(&token).unwrap();
    machine.disk.set_capacity(Some(machine.disk.used()));
    let mut others = Vec::new();
    while let Ok(idemkv::Begin::Fresh(other)) =
        engine.default_scope().begin(format!("{}", others.len()), request())
    {
        others.push(other);
    }
    drop(claim);
    others.pop().unwrap().complete("reply").unwrap();
    machine.kill((engine, scope, others));
    machine.disk.set_capacity(None);
    let engine = machine.open();
    let refused = engine.scope("jobs").resume(&token);
    assert!(matches!(refused, Err(TokenError::Superseded(_))), "{refused:?}");
}

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Observer for Told {
    fn event(&self, event: &Event<'_>) {
        let line = match event {
            Event::Interrupted { cause, interruption, .. } => {
                format!("{cause:?} {}", interruption.interrupted_at().as_millis())
            }
            Event::Closed { claims_left, .. } => format!("closed {claims_left}"),
            _ => return,
        };
        self.0.lock().unwrap().push(line);
    }
}

/// After the close the file may be in other hands, which tell of the claims that it left.
#[test]
fn a_claim_that_outlives_the_engine_is_told_of_by_the_next_opening_alone() {
    for policy in [Recovery::Refuse, Recovery::Rerun] {
        let machine = Machine { recovery: policy, ..Machine::default() };
        let told = Arc::new(Told::default());
        let open = || machine.options().observer(Arc::clone(&told)).open("x.idem").unwrap();
        let engine = open();
        let claim = fresh(&engine.scope(""), "key");
        let early = fresh(&engine.scope(""), "early");
        drop(early);
        let since = engine.now().as_millis();
        assert_eq!(engine.close().unwrap().claims_left, 1);
        machine.clock.advance(MS);
        drop(claim);
        machine.clock.advance(MS);
        let engine = open();
        let lines = std::mem::take(&mut *told.0.lock().unwrap());
        let expected = [format!("Dropped {since}"), "closed 1".to_owned(), format!("Restart {}", since + 2)];
        assert_eq!(lines, expected, "{policy:?}");
        assert_eq!((engine.stats().found_interrupted, engine.stats().interrupted), (1, 2));
    }
}

// Leases.

#[test]
fn a_lease_that_ended_is_told_with_one_time_whoever_asks_and_when() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = leased(&engine);
    let claims = ["a", "b"].map(|key| fresh(&scope, key));
    let until = claims[0].lease_until().unwrap();
    machine.clock.advance(LEASE + 20 * MS);
    let first = engine.interrupted().limit(1).get().unwrap();
    assert_eq!((first[0].key(), first[0].interrupted_at()), (&b"a"[..], Some(until)));
    assert_eq!(interrupted_at(&scope, "a"), until);
    engine.step();
    let rest = engine.interrupted().after(first[0].position()).get().unwrap();
    let keys: Vec<_> = rest.iter().map(OpenKey::key).collect();
    assert_eq!(keys, [b"b"], "what was on one page is not on the next");
    for key in ["a", "b"] {
        let Err(BeginError::Unresolved(lost)) = scope.begin(key, request()) else { panic!("it is lost") };
        assert_eq!((lost.interrupted_at(), interrupted_at(&scope, key)), (until, until));
    }
    // A holder that comes back later than that changes nothing.
    drop(claims);
    assert_eq!(scope.resolve("b").unwrap().interrupted().unwrap().interrupted_at(), until);
}

/// A machine sleeps for longer than interrupted keys are remembered: the first duplicate after
/// that must be told.
#[test]
fn a_lease_that_ended_while_nobody_looked_is_remembered_for_its_whole_time_from_when_it_was_found() {
    for dropped in [false, true] {
        for way in [None, Some(Restart::Close), Some(Restart::CheckpointAndKill)] {
            let context = format!("dropped {dropped}, {way:?}");
            let machine = Machine::rerun();
            let engine = machine.open();
            let scope = leased(&engine);
            let claim = fresh(&scope, "key");
            let until = claim.lease_until().unwrap();
            machine.clock.advance(LEASE + 2 * UNRESOLVED);
            let found = engine.now();
            if dropped {
                drop(claim);
            } else {
                assert!(claim.complete("late").is_err());
            }
            drop(scope);
            let engine = match way {
                None => engine,
                Some(way) => restart(&machine, engine, way),
            };
            let scope = engine.scope("jobs");
            assert_eq!(interrupted_at(&scope, "key"), until, "{context}");
            // A begin that never comes to its caller leaves the interruption as it was.
            drop(Box::pin(scope.begin_async("key", request())));
            {
                let mut begun = Box::pin(scope.begin_async("key", request()));
                assert!(crate::common::poll(begun.as_mut()).is_pending());
            }
            engine.step();
            let over = found.saturating_add(UNRESOLVED);
            machine.clock.advance(over.saturating_since(engine.now()).checked_sub(MS).unwrap());
            assert_eq!(interrupted_at(&scope, "key"), until, "{context}");
            machine.clock.advance(MS);
            assert!(matches!(scope.get("key"), Ok(Status::Vacant)), "{context}");
        }
    }
}
