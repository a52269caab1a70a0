//! A small engine is small: what a new file takes, and what a hundred of them in one process do.

#![allow(clippy::unwrap_used, reason = "a test that can't go on stops")]

use std::fs;
use std::path::Path;

use idemkv::{Begin, Engine, Fingerprint};

const MIB: u64 = 1 << 20;

fn complete(engine: &Engine, key: &str) {
    match engine.default_scope().begin(key, Fingerprint::of("request")).unwrap() {
        Begin::Fresh(claim) => drop(claim.complete("reply").unwrap()),
        other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("{key} was {other:?}"),
    }
}

/// Bytes of the file and its log.
fn bytes(path: &Path) -> u64 {
    let log = format!("{}-wal", path.display());
    fs::metadata(path).unwrap().len() + fs::metadata(log).unwrap().len()
}

#[test]
fn a_new_file_and_its_log_take_less_than_a_mebibyte_and_grow_with_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    complete(&engine, "first");
    let new = bytes(&path);
    assert!(new < MIB, "{new} bytes");
    for key in 0..2_000 {
        complete(&engine, &key.to_string());
    }
    let used = bytes(&path);
    assert!(used > new && used < 8 * MIB, "{used} bytes after 2,000 keys, {new} before");
}

#[cfg(target_os = "linux")]
#[test]
fn a_hundred_engines_in_one_process_have_a_thread_each_and_a_mebibyte() {
    let status = |what: &str| -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap().to_owned();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let (threads, resident_kb) = (status("Threads:"), status("VmRSS:"));
    let engines: Vec<_> =
        (0..100).map(|n| Engine::open(dir.path().join(format!("{n}.idem"))).unwrap()).collect();
    for engine in &engines {
        complete(engine, "key");
    }
    // Other tests of this process have some as well.
    let more = status("Threads:").saturating_sub(threads);
    assert!(more < 120, "{more} threads");
    let taken = status("VmRSS:").saturating_sub(resident_kb) / 100;
    assert!(taken < 1_024, "{taken} KiB each");
    let files: u64 = (0..100).map(|n| bytes(&dir.path().join(format!("{n}.idem")))).sum();
    assert!(files < 100 * MIB, "{files} bytes");
    println!("{more} threads, {taken} KiB of memory and {} KiB of files each", files / 102_400);
}
