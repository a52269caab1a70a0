//! A real process whose system calls fail, one at a time: with an I/O error, or for want of room.

use std::collections::BTreeMap;
use std::path::Path;

use idemkv::{Begin, Engine, Status};

use crate::budget::Budget;
use crate::life::ourselves;
use crate::{FILE_VARIABLE, Random, body_of, can_inject, request_of, small_options};

/// What is made to fail, and up to which of a thread's calls.
const CALLS: [(&str, u64); 6] =
    [("pwrite64", 60), ("fdatasync", 40), ("pread64", 30), ("ftruncate", 4), ("fsync", 2), ("linkat", 1)];
const ERRORS: [&str; 2] = ["EIO", "ENOSPC"];
const KEYS: u64 = 60;

/// Not a test: the process whose calls fail. Says which keys it knows to be done.
#[test]
fn process() {
    let Some(path) = std::env::var_os(FILE_VARIABLE) else { return };
    let engine = match small_options().open(path) {
        Ok(engine) => engine,
        Err(error) => return println!("\n@refused to open: {error}"),
    };
    let mut done = Vec::new();
    for key in 0..KEYS {
        match engine.default_scope().begin(key.to_string(), request_of(key)) {
            Ok(Begin::Fresh(claim)) => match claim.complete(body_of(key, 0)) {
                Ok(_) => done.push(key),
                Err(error) => println!("\n@refused to complete: {error}"),
            },
            Ok(Begin::Done(record)) => {
                assert_eq!(record.body(), body_of(key, 0));
                done.push(key);
            }
            Ok(Begin::InFlight(_)) => panic!("key {key} is in flight, and nobody has it"),
            Err(error) => println!("\n@refused to begin: {error}"),
        }
        if key % 16 == 15
            && let Err(error) = engine.checkpoint()
        {
            println!("\n@refused to checkpoint: {error}");
        }
    }
    // What is known to be durable is replayed, whatever failed.
    for key in &done {
        match engine.default_scope().get(key.to_string()) {
            Ok(Status::Done(record)) => assert_eq!(record.body(), body_of(*key, 0)),
            Ok(other) => panic!("key {key} was done, and is {other:?}"),
            Err(error) => println!("\n@refused to read: {error}"),
        }
        println!("\n@done {key}");
    }
    if let Err(error) = engine.close() {
        println!("\n@refused to close: {error}");
    }
    println!("\n@over");
}

/// A process with something injected, then an opening without. What it was told is counted by its
/// first words.
fn suffer(path: &Path, injected: &str, told: &mut BTreeMap<String, u64>) {
    let output = ourselves("errors::process", Some(injected)).env(FILE_VARIABLE, path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{injected}: {}\n{said}\n{complaint}", output.status);
    let lines = || said.lines().filter_map(|line| line.strip_prefix('@'));
    for line in lines() {
        *told.entry(line.split([' ', ':']).take(3).collect::<Vec<_>>().join(" ")).or_default() +=
            u64::from(line.starts_with("refused"));
    }
    let engine = match small_options().open(path) {
        Ok(engine) => engine,
        Err(error) => panic!("{injected}: does not open: {error}\n{said}"),
    };
    for key in lines().filter_map(|line| line.strip_prefix("done ")) {
        check(&engine, key.parse().unwrap(), true, injected);
    }
    (0..KEYS).for_each(|key| check(&engine, key, false, injected));
}

fn check(engine: &Engine, key: u64, is_done: bool, injected: &str) {
    match engine.default_scope().get(key.to_string()).unwrap() {
        Status::Done(record) => assert_eq!(record.body(), body_of(key, 0), "{injected}: key {key}"),
        other => assert!(!is_done, "{injected}: key {key} was done, and is {other:?}"),
    }
}

#[test]
fn an_error_of_any_system_call_is_told_and_loses_nothing_acknowledged() {
    if !can_inject() {
        return;
    }
    let rig = "real::errors::an_error_of_any_system_call_is_told_and_loses_nothing_acknowledged";
    let mut budget = Budget::new(rig, "real errors", 40);
    let mut told = BTreeMap::new();
    while let Some(seed) = budget.next_seed() {
        let mut random = Random(seed);
        let (call, numbers) = CALLS.get(random.below(9) as usize).copied().unwrap_or(CALLS[1]);
        let error = ERRORS[random.below(2) as usize];
        let number = 1 + random.below(numbers);
        // Once, or from then on.
        let on = if random.below(2) == 0 { "" } else { "+" };
        let directory = tempfile::tempdir().unwrap();
        suffer(
            &directory.path().join("x.idem"),
            &format!("{call}:error={error}:when={number}{on}"),
            &mut told,
        );
        budget.count(1);
    }
    told.retain(|_, times| *times > 0);
    println!("{told:?}");
    for what in ["refused to open", "refused to complete", "refused to begin"] {
        assert!(told.contains_key(what), "nothing was {what}: {told:?}");
    }
}

/// Not a test: the process that makes a backup beside its file.
#[test]
fn process_that_backs_up() {
    let Some(path) = std::env::var_os(FILE_VARIABLE) else { return };
    let Ok(engine) = small_options().open(&path) else { return println!("\n@refused") };
    let told = match engine.backup(Path::new(&path).with_file_name("copy")) {
        Ok(_) => "made",
        Err(_) => "refused",
    };
    println!("\n@{told}");
}

#[test]
fn a_backup_that_is_refused_at_any_call_for_its_name_is_not_there() {
    if !can_inject() {
        return;
    }
    let mut refused = 0;
    for call in ["fsync", "linkat", "unlink"] {
        for number in 1..=4 {
            let directory = tempfile::tempdir().unwrap();
            let (path, copy) = (directory.path().join("x.idem"), directory.path().join("copy"));
            let injected = format!("{call}:error=EIO:when={number}");
            let mut process = ourselves("errors::process_that_backs_up", Some(&injected));
            let output = process.env(FILE_VARIABLE, &path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if said.contains("@refused") {
                refused += 1;
                assert!(!copy.exists(), "{injected}");
            } else {
                assert!(said.contains("@made"), "{injected}: {said}");
                Engine::open(&copy).unwrap().close().unwrap();
            }
        }
    }
    assert!(refused >= 5, "{refused} were refused");
}
