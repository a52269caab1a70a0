//! What an opening finds after a clean close, and after the process was killed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, abort};

use idemkv::{Begin, BeginError, CommitMode, Durability, Engine, Fingerprint, Outcome, Status};

const RECORDS: u64 = 4_000;
/// Completed by a process that is killed before any checkpoint.
const MORE: u64 = 1_000;
/// Of those that follow: claims that were out when it was killed.
const OUT: u64 = 5;
/// Names the file to the process that is to be killed over it.
const CHILD: &str = "IDEMKV_TEST_OPEN_CHILD";

#[test]
fn everything_acknowledged_is_there_after_a_clean_close() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("open.idem");
    let engine = open(&path);
    complete(&engine, 0..RECORDS);
    assert_eq!(engine.close().unwrap().claims_left, 0);

    let engine = open(&path);
    assert_eq!(engine.stats().entries as u64, RECORDS);
    has_all(&engine, 0..RECORDS);
}

#[test]
fn everything_acknowledged_is_there_after_a_kill_and_claims_are_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("open.idem");
    let engine = open(&path);
    complete(&engine, 0..RECORDS);
    engine.close().unwrap();

    // Twice: what the first opening after a kill brought in order is what the second one starts
    // from.
    for kill in 0..2 {
        let from = RECORDS + kill * (MORE + OUT);
        killed_over(&path, from);
        let engine = open(&path);
        has_all(&engine, 0..RECORDS);
        has_all(&engine, from..from + MORE);
        for number in from + MORE..from + MORE + OUT {
            assert!(
                matches!(engine.default_scope().get(key(number)).unwrap(), Status::Interrupted(was) if was.attempt() == 1)
            );
            let Err(BeginError::Unresolved(lost)) =
                engine.default_scope().begin(key(number), request(number))
            else {
                panic!("key {number} is claimed by a process that is dead")
            };
            assert_eq!(lost.attempt(), 1);
            let claim = engine.scope("").resolve(key(number)).unwrap();
            assert_eq!((claim.attempt(), claim.interrupted().unwrap().attempt()), (2, 1));
            claim.complete("").unwrap();
        }
        assert_eq!(engine.stats().entries as u64, from + MORE + OUT);
        engine.close().unwrap();
    }
}

/// So many that all processors load, each its part.
#[test]
fn every_one_of_very_many_keys_is_there() {
    const MANY: u64 = 101_000;
    const TOGETHER: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("open.idem");
    let engine = open(&path);
    let numbers: Vec<u64> = (0..MANY).collect();
    for numbers in numbers.chunks(TOGETHER) {
        let requests: Vec<_> = numbers.iter().map(|number| (key(*number), request(*number))).collect();
        let claims =
            engine.default_scope().begin_many(&requests).into_iter().zip(numbers).map(|(begun, number)| {
                match begun {
                    Ok(Begin::Fresh(claim)) => (claim, number.to_le_bytes()),
                    other => panic!("key {number}: {other:?}"),
                }
            });
        assert!(engine.complete_many(claims.collect()).iter().all(Result::is_ok));
    }
    engine.close().unwrap();

    let engine = open(&path);
    assert_eq!(engine.stats().entries as u64, MANY);
    for numbers in numbers.chunks(TOGETHER) {
        let requests: Vec<_> = numbers.iter().map(|number| (key(*number), request(*number))).collect();
        for (begun, number) in engine.default_scope().begin_many(&requests).into_iter().zip(numbers) {
            assert!(matches!(begun, Ok(Begin::Done(record)) if record.body() == number.to_le_bytes()));
        }
    }
}

/// Not a test: the process that is killed. It does nothing where nobody asked it to.
#[test]
fn child() {
    let Ok(told) = env::var(CHILD) else { return };
    let (from, path) = told.split_once(' ').unwrap();
    let (from, path) = (from.parse::<u64>().unwrap(), PathBuf::from(path));
    let engine = open(&path);
    complete(&engine, from..from + MORE);
    let claims: Vec<_> = (from + MORE..from + MORE + OUT)
        .map(|number| engine.default_scope().begin(key(number), request(number)).unwrap())
        .collect();
    assert!(claims.iter().all(|claim| matches!(claim, Begin::Fresh(_))));
    abort();
}

/// Has a process open the file, work on it from that number on, and die over it.
fn killed_over(path: &Path, from: u64) {
    let output = Command::new(env::current_exe().unwrap())
        .args(["open::child", "--exact", "--nocapture"])
        .env(CHILD, format!("{from} {}", path.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !said.contains("panicked"), "{}: {said}", output.status);
}

fn open(path: &Path) -> Engine {
    Engine::options()
        .commit_mode(CommitMode::Buffered)
        .durability(Durability::Full)
        // Most records have to be read from the file.
        .cache_bytes(1 << 20)
        .open(path)
        .unwrap()
}

fn complete(engine: &Engine, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let Begin::Fresh(claim) = engine.default_scope().begin(key(number), request(number)).unwrap() else {
            panic!("key {number} is not new")
        };
        let ended = if number % 7 == 0 { claim.fail(body(number)) } else { claim.complete(body(number)) };
        ended.unwrap();
    }
}

fn has_all(engine: &Engine, numbers: std::ops::Range<u64>) {
    for number in numbers {
        match engine.default_scope().begin(key(number), request(number)).unwrap() {
            Begin::Done(record) => {
                let outcome = if number % 7 == 0 { Outcome::Failure } else { Outcome::Success };
                assert_eq!((record.outcome(), record.attempt()), (outcome, 1));
                assert_eq!(record.body(), body(number).as_bytes());
            }
            other @ (Begin::Fresh(_) | Begin::InFlight(_)) => panic!("record {number} was {other:?}"),
        }
    }
}

fn key(number: u64) -> String {
    format!("{number:036}")
}

fn request(number: u64) -> Fingerprint {
    Fingerprint::of(number.to_le_bytes())
}

/// 80 to 200 bytes that tell whose they are.
fn body(number: u64) -> String {
    let len = 80 + usize::try_from(number % 121).unwrap();
    format!("{number:0len$}")
}

/// A child process has copies of all handles until it runs its own program, and with them the
/// locks.
#[cfg(unix)]
#[test]
fn children_that_are_being_started_keep_no_file_locked() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::process::Command::new("true").status().unwrap();
            }
        });
        let opened: Vec<_> = (0..150)
            .map(|n| {
                let path = dir.path().join(format!("{n}.idem"));
                let options = || Engine::options().log_segment_bytes(64 << 10).log_bytes(128 << 10);
                let small = || options().max_body_bytes(4_096).reserve_bytes(0).batch_bytes(4_096);
                let made = small().open(&path).map(|engine| engine.close().unwrap().claims_left);
                made.and_then(|_none| small().open(&path)).map(drop)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert!(opened.iter().all(Result::is_ok), "{:?}", opened.iter().find(|opened| opened.is_err()));
    });
}

/// A file that is refused is closed at once. Children that have copies of its handle must not keep
/// the lock.
#[cfg(unix)]
#[test]
fn a_file_that_was_refused_is_not_locked_though_children_are_being_started() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    std::fs::write(&path, "something of others").unwrap();
    let stop = AtomicBool::new(false);
    let locked = std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        let locked = (0..1_000)
            .filter(|_| {
                assert!(Engine::open(&path).is_err());
                let file = std::fs::File::open(&path).unwrap();
                let is_locked = file.try_lock().is_err();
                file.unlock().unwrap();
                is_locked
            })
            .count();
        stop.store(true, Ordering::Relaxed);
        locked
    });
    assert_eq!(locked, 0, "times");
}
