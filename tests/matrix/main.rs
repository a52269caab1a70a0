//! The fault matrix: each phase of an engine's life meets each fault, at every operation of the
//! disk in that phase.
//!
//! Whatever happens, nothing acknowledged is lost, in the same process or after a restart, and
//! what each call and the next `begin` were told is the row of the table in `docs/reliability.md`.
//! A test compares the two: it prints the row that it saw.

#![cfg(unix)]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests"
)]

#[allow(dead_code, unreachable_pub, reason = "another test uses the rest")]
#[path = "../fork/child.rs"]
mod child;
#[path = "../common/mod.rs"]
mod common;
mod fault;
mod phase;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use common::{Machine, default_scope, request};
use idemkv::sim::CrashKind;
use idemkv::{Begin, BeginError, Busy, Engine, Status};

use fault::{ELSEWHERE, FAULTS, FILE, Fault, LOG, Target};
use phase::{Phase, Prepared, open, open_as};

/// What became of a call, and of the next `begin` in the same process.
type Seen = BTreeSet<String>;

/// The name of an error: its variants, without what is in them.
fn kind(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    let is_name = |part: &&str| {
        part.chars().all(char::is_alphanumeric) && !matches!(*part, "IoFailure" | "Damage" | "IoInner")
    };
    let names: Vec<&str> =
        text.split('(').map(|part| part.trim_end_matches(')')).take_while(is_name).collect();
    names.join("::")
}

/// What is known to be durable is there, whatever else is.
fn check(engine: &Engine, context: &str) {
    for (name, body) in phase::acknowledged() {
        match engine.default_scope().get(&name).unwrap() {
            Status::Done(record) => assert_eq!(record.body(), body, "{context}: {name}"),
            other => panic!("{context}: {name} was done, and is {other:?}"),
        }
    }
    match engine.default_scope().get(phase::INTERRUPTED).unwrap() {
        Status::Interrupted(earlier) => assert_eq!(earlier.attempt(), 1, "{context}"),
        other => panic!("{context}: the key was interrupted, and is {other:?}"),
    }
}

/// What the process that lives through a fault can still do.
fn go_on(prepared: &mut Prepared, context: &str) -> String {
    let Some(engine) = &prepared.engine else { return "opened again".to_owned() };
    if prepared.is_closed {
        return "closed".to_owned();
    }
    check(engine, context);
    let next = match default_scope(engine).begin("next", request()) {
        Ok(Begin::Fresh(claim)) => claim.complete("next").map(|_| ()).map_err(|error| kind(error.reason())),
        Ok(other) => panic!("{context}: nobody asked before: {other:?}"),
        Err(error) => Err(kind(&error)),
    };
    if let Some(held) = prepared.held.take()
        && let Err(error) = held.complete("held")
    {
        assert!(next.is_err(), "{context}: grants go on, and a claim can't be completed: {error}");
    }
    match next {
        Ok(()) => "goes on".to_owned(),
        Err(refused) => format!("then `{refused}`"),
    }
}

/// What a restart finds, after a kill or a power cut.
fn restart(machine: &Machine, context: &str) {
    for kind in [CrashKind::KeepAll, CrashKind::DropAll, CrashKind::Torn(1), CrashKind::Torn(2)] {
        let context = format!("{context}, {kind:?}");
        let machine =
            Machine { disk: machine.disk.image(kind), clock: machine.clock.fork(), ..machine.clone() };
        if kind != CrashKind::KeepAll {
            machine.clock.reboot();
        }
        match open(&machine) {
            Ok(engine) => {
                check(&engine, &context);
                let Ok(Begin::Fresh(claim)) = default_scope(&engine).begin("after", request()) else {
                    panic!("{context}: grants go on after a restart");
                };
                claim.complete("after").unwrap();
            }
            Err(error) => panic!("{context}: does not open: {error}"),
        }
    }
}

/// After a kill the file is opened by a name beside which its log does not lie: that finds
/// everything, or is refused. By its own name everything is there.
fn by_another_name(machine: &Machine, context: &str) -> String {
    let machine = Machine { disk: machine.disk.image(CrashKind::KeepAll), ..machine.clone() };
    assert!(machine.disk.rename(Path::new(FILE), Path::new(ELSEWHERE)), "{context}");
    let told = match open_as(&machine, ELSEWHERE) {
        Ok(engine) => {
            check(&engine, context);
            return "all is found".to_owned();
        }
        Err(error) => error,
    };
    assert!(machine.disk.rename(Path::new(ELSEWHERE), Path::new(FILE)), "{context}");
    check(&open(&machine).unwrap(), context);
    let told = format!("{told:?}");
    format!("`{}`, all is found by the old name", told.split([' ', '(']).next().unwrap_or_default())
}

/// After a kill the process starts on a disk that is full: everything is replayed, and when there
/// is space again it goes on.
fn on_a_full_disk(machine: &Machine, context: &str) -> String {
    let machine = Machine { disk: machine.disk.image(CrashKind::KeepAll), ..machine.clone() };
    machine.disk.set_capacity(Some(machine.disk.used()));
    let engine = open(&machine).unwrap_or_else(|error| panic!("{context}: does not open: {error}"));
    check(&engine, context);
    let told = match default_scope(&engine).begin("full", request()) {
        Err(BeginError::Busy(Busy::DiskFull(_))) => "all is found, and then `Busy::DiskFull`".to_owned(),
        // What was free inside the file was enough.
        Ok(Begin::Fresh(claim)) => {
            claim.release().unwrap();
            "all is found, goes on".to_owned()
        }
        other => panic!("{context}: {other:?}"),
    };
    Fault::lift(&machine);
    engine.step();
    check(&engine, context);
    let Ok(Begin::Fresh(claim)) = default_scope(&engine).begin("next", request()) else {
        panic!("{context}: there is space again")
    };
    claim.complete("next").unwrap();
    told
}

/// Forks wait until no other thread has a lock that a child would find locked for ever.
static FORKING: RwLock<()> = RwLock::new(());

/// The process forks, and parent and child both do it.
fn fork(phase: Phase, context: &str) -> String {
    let _alone = FORKING.write().unwrap_or_else(PoisonError::into_inner);
    let mut prepared = phase.prepare();
    let (mut theirs, mut ours) = std::io::pipe().unwrap();
    child::in_child(child::Way::Fork, || {
        let told = match phase.act(&mut prepared) {
            Ok(()) => "done".to_owned(),
            Err(error) => format!("`{error}`"),
        };
        ours.write_all(told.as_bytes()).unwrap();
    });
    drop(ours);
    let mut told = String::new();
    theirs.read_to_string(&mut told).unwrap();
    phase.act(&mut prepared).unwrap_or_else(|error| panic!("{context}: the parent is told {error}"));
    let next = go_on(&mut prepared, context);
    restart(&prepared.machine, context);
    format!("{told} in the child, the parent {next}")
}

/// A file goes away under the engine, and is put back before the next opening.
fn taken_away(phase: Phase, fault: Fault, target: Target, context: &str) -> String {
    let Target::Lost(name) = target else { unreachable!() };
    let mut prepared = phase.prepare();
    if prepared.engine.is_none() {
        return "nothing is open".to_owned();
    }
    let machine = prepared.machine.clone();
    fault.set(&machine, target);
    let told = match phase.act(&mut prepared) {
        Ok(()) => "done".to_owned(),
        Err(error) => format!("`{error}`"),
    };
    // The worker looks.
    machine.clock.advance(std::time::Duration::from_secs(1));
    if let Some(engine) = &prepared.engine {
        engine.step();
    }
    let next = go_on(&mut prepared, context);
    drop(prepared);
    assert!(machine.disk.rename(Path::new(ELSEWHERE), Path::new(name)), "{context}");
    restart(&machine, context);
    format!("{told}, {next}")
}

/// One phase meets one fault.
fn meet(phase: Phase, fault: Fault, target: Target) -> String {
    let context = format!("{phase:?} meets {fault:?} at {target:?}");
    if fault == Fault::Fork {
        return fork(phase, &context);
    }
    let _no_fork = FORKING.read().unwrap_or_else(PoisonError::into_inner);
    if fault == Fault::TakenAway {
        return taken_away(phase, fault, target, &context);
    }
    let mut prepared = phase.prepare();
    let machine = prepared.machine.clone();
    fault.set(&machine, target);
    let outcome = catch_unwind(AssertUnwindSafe(|| phase.act(&mut prepared)));
    if fault.is_crash() {
        assert!(machine.disk.crashed(), "{context}: it did not come");
        drop(prepared);
        return match fault {
            Fault::Name => by_another_name(&machine, &context),
            Fault::FullRestart => on_a_full_disk(&machine, &context),
            _ => {
                restart(&machine, &context);
                "all is found at the next opening".to_owned()
            }
        };
    }
    Fault::lift(&machine);
    let told = match outcome {
        Ok(Ok(())) => "done".to_owned(),
        Ok(Err(error)) => format!("`{error}`"),
        Err(_panic) => "the caller panics".to_owned(),
    };
    let next = go_on(&mut prepared, &context);
    restart(&machine, &context);
    format!("{told}, {next}")
}

fn row(phase: Phase) -> Vec<Seen> {
    let mut targets = phase.targets();
    targets.extend([Target::Before, Target::Lost(FILE), Target::Lost(LOG)]);
    let cell = |fault: Fault| -> Seen {
        let targets = targets.iter().filter(|target| fault.is_for(**target));
        targets.map(|target| meet(phase, fault, *target)).collect()
    };
    FAULTS.into_iter().map(cell).collect()
}

fn in_the_document(phase: Phase) -> String {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md")).unwrap();
    let start = format!("| {} |", phase.name());
    document.lines().find(|line| line.starts_with(&start)).unwrap_or_default().to_owned()
}

#[track_caller]
fn is_as_documented(phase: Phase) {
    let cells: Vec<String> =
        row(phase).into_iter().map(|seen| seen.into_iter().collect::<Vec<_>>().join("; ")).collect();
    let seen = format!("| {} | {} |", phase.name(), cells.join(" | "));
    assert_eq!(in_the_document(phase), seen, "the row of docs/reliability.md should be\n{seen}\n");
}

#[test]
fn opening_meets_every_fault() {
    is_as_documented(Phase::Open);
}

#[test]
fn an_intent_meets_every_fault() {
    is_as_documented(Phase::Intent);
}

#[test]
fn a_group_commit_meets_every_fault() {
    is_as_documented(Phase::Commit);
}

#[test]
fn a_checkpoint_meets_every_fault() {
    is_as_documented(Phase::Checkpoint);
}

#[test]
fn recycling_and_growing_the_log_meets_every_fault() {
    is_as_documented(Phase::Recycling);
}

#[test]
fn expiry_meets_every_fault() {
    is_as_documented(Phase::Expiry);
}

#[test]
fn closing_meets_every_fault() {
    is_as_documented(Phase::Close);
}
