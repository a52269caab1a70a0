//! The fault matrix: each phase of an engine's life meets each fault, at every operation of the disk in that phase.
//!
//! Whatever happens, nothing acknowledged is lost, in the same process or after a restart, and what each call and the next
//! `begin` were told is the row of the table in `docs/reliability.md`. A test compares the two: it prints the row that it saw.

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

#[path = "../common/mod.rs"]
mod common;
mod fault;
mod phase;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{Machine, default_scope, request};
use idemkv::sim::CrashKind;
use idemkv::{Begin, Engine, Status};

use fault::{FAULTS, Fault, Target};
use phase::{Phase, Prepared, open};

/// Operations of a phase that a fault is tried at in `cargo test`. With `IDEMKV_SECONDS`, whatever it says, it is all of them.
const TARGETS_MAX: usize = 16;

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
        match engine.get(&name).unwrap() {
            Status::Done(record) => assert_eq!(record.body(), body, "{context}: {name}"),
            other => panic!("{context}: {name} was done, and is {other:?}"),
        }
    }
    match engine.get(phase::INTERRUPTED).unwrap() {
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

/// One phase meets one fault.
fn meet(phase: Phase, fault: Fault, target: Target) -> String {
    let context = format!("{phase:?} meets {fault:?} at {target:?}");
    let mut prepared = phase.prepare();
    let machine = prepared.machine.clone();
    fault.set(&machine, target);
    let outcome = catch_unwind(AssertUnwindSafe(|| phase.act(&mut prepared)));
    if fault.is_crash() {
        assert!(machine.disk.crashed(), "{context}: it did not come");
        drop(prepared);
        restart(&machine, &context);
        return "all is found at the next opening".to_owned();
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
    targets.push(Target::Before);
    let cell = |fault: Fault| -> Seen {
        let targets: Vec<_> = targets.iter().filter(|target| fault.is_for(**target)).collect();
        // A sample where there are many, with the first and the last.
        let is_long = std::env::var_os("IDEMKV_SECONDS").is_some();
        let every = if is_long { 1 } else { targets.len().div_ceil(TARGETS_MAX).max(1) };
        let last = targets.len().saturating_sub(1);
        let chosen = targets.iter().enumerate().filter(|(at, _)| at % every == 0 || *at == last);
        chosen.map(|(_, target)| meet(phase, fault, **target)).collect()
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
