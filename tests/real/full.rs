//! A real disk that is full: a file system in memory with a limited size, mounted for one process.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use idemkv::{Begin, BeginError, Busy, Claim, Engine, Status};

use crate::{FILE_VARIABLE, ORDER_VARIABLE, body_of, request_of, small_options, works};

/// Given back to the disk later.
const BALLAST: usize = 2 << 20;

fn begin(engine: &Engine, key: u64) -> Result<Begin, BeginError> {
    engine.default_scope().begin(key.to_string(), request_of(key))
}

/// Completes keys from `from` on until the disk is full; gives the first key that was refused.
fn fill(engine: &Engine, from: u64) -> u64 {
    for key in from..100_000 {
        let claim = match begin(engine, key) {
            Ok(Begin::Fresh(claim)) => claim,
            Err(BeginError::Busy(Busy::DiskFull(_))) => return key,
            other => panic!("key {key}: {other:?}"),
        };
        complete(claim, key);
    }
    panic!("the disk never was full");
}

fn complete(claim: Claim, key: u64) {
    assert!(claim.complete(body_of(key, key)).is_ok(), "room for key {key} was set aside");
}

/// Keys below `to` are done, and none of those behind is.
fn check(engine: &Engine, to: u64) {
    for key in 0..to {
        let status = engine.default_scope().get(key.to_string()).unwrap();
        let Status::Done(record) = status else { panic!("key {key} of {to} is {status:?}") };
        assert_eq!(record.body(), body_of(key, key));
    }
    for key in to..to + 10 {
        assert!(!matches!(engine.default_scope().get(key.to_string()).unwrap(), Status::Done(_)));
    }
}

/// Begins until room is found again. The engine looks for it at its own pace.
fn begin_once_there_is_room(engine: &Engine, key: u64) -> Claim {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match begin(engine, key) {
            Ok(Begin::Fresh(claim)) => return claim,
            Err(BeginError::Busy(_)) if Instant::now() < until => std::thread::yield_now(),
            other => panic!("room came back, and key {key} is {other:?}"),
        }
    }
}

/// Not a test: the process for which the small disk was mounted. Returns at once where nobody
/// ordered one.
#[test]
fn process() {
    let Some(directory) = std::env::var_os(FILE_VARIABLE) else { return };
    let directory = Path::new(&directory);
    let (ballast, path) = (directory.join("ballast"), directory.join("x.idem"));
    std::fs::write(&ballast, vec![0; BALLAST]).unwrap();

    let engine = small_options().open(&path).unwrap();
    let Ok(Begin::Fresh(held)) = begin(&engine, 0) else { panic!("not fresh") };
    let full = fill(&engine, 1);
    complete(held, 0);
    check(&engine, full);

    // Room comes back: the engine goes on without being opened again, until the disk is full once
    // more.
    std::fs::remove_file(&ballast).unwrap();
    complete(begin_once_there_is_room(&engine, full), full);
    let full_again = fill(&engine, full + 1);
    check(&engine, full_again);

    // Closed and opened on the full disk it refuses, or works; either way nothing is lost.
    drop(engine);
    match small_options().open(&path) {
        Ok(engine) => check(&engine, full_again),
        Err(error) => println!("told so: {error}"),
    }
    println!("{full} keys until it was full, {full_again} until it was full again");
    start_again_on_a_full_disk(directory);
}

/// Of a second file: a process fills what is left of the disk and dies; others start on it and
/// die; then space comes back.
fn start_again_on_a_full_disk(directory: &Path) {
    for file in ["x.idem", "x.idem-wal"] {
        std::fs::remove_file(directory.join(file)).unwrap();
    }
    std::fs::write(directory.join("ballast"), vec![0; BALLAST]).unwrap();
    for order in ["fill", "look", "look", "look"] {
        let mut command = crate::life::ourselves("full::dies_on_a_full_disk", None);
        let output = command.env(FILE_VARIABLE, directory).env(ORDER_VARIABLE, order).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("all is there"), "{order}: {said}");
    }
    let full = std::fs::read_to_string(directory.join("full")).unwrap().parse().unwrap();
    let engine = small_options().open(directory.join("y.idem")).unwrap();
    check(&engine, full);
    std::fs::remove_file(directory.join("ballast")).unwrap();
    complete(begin_once_there_is_room(&engine, full), full);
    check(&engine, full + 1);
    engine.close().unwrap();
}

/// Not a test: the process that dies. Returns at once where nobody ordered one.
#[test]
fn dies_on_a_full_disk() {
    let (Some(directory), Ok(order)) = (std::env::var_os(FILE_VARIABLE), std::env::var(ORDER_VARIABLE))
    else {
        return;
    };
    let directory = Path::new(&directory);
    let told = directory.join("full");
    // Its space is taken before the disk is full.
    if order == "fill" {
        std::fs::write(&told, "100000").unwrap();
    }
    let engine = small_options().open(directory.join("y.idem")).unwrap();
    let full = if order == "fill" {
        let full = fill(&engine, 0);
        std::os::unix::fs::FileExt::write_all_at(
            &std::fs::OpenOptions::new().write(true).open(&told).unwrap(),
            format!("{full:06}").as_bytes(),
            0,
        )
        .unwrap();
        full
    } else {
        std::fs::read_to_string(&told).unwrap().parse().unwrap()
    };
    // Not one byte more: whatever is left is taken.
    let mut rest =
        std::fs::OpenOptions::new().append(true).create(true).open(directory.join("rest")).unwrap();
    while std::io::Write::write(&mut rest, &[0; 4_096]).is_ok() {}
    check(&engine, full);
    eprintln!("all is there, of {full}");
    std::process::abort();
}

#[test]
fn a_real_full_disk_refuses_claims_completes_those_that_are_out_and_loses_nothing() {
    let mount = "mount -t tmpfs -o size=10m none \"$0\" && exec \"$@\"";
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["-rm", "sh", "-c", mount, directory.path().to_str().unwrap()];
    if !works("unshare", &[&arguments[..], &["true"]].concat()) {
        println!("SKIPPED: needs the right to mount a file system in memory");
        return;
    }
    let status = Command::new("unshare")
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["full::process", "--exact", "--nocapture"])
        .env(FILE_VARIABLE, directory.path())
        .status();
    assert!(status.unwrap().success());
}
