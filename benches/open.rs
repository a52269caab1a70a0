//! How long it takes to open a million records, after a clean close and after the process was killed.
//!
//! ```text
//! cargo bench --bench open
//! cargo bench --bench open -- 100000      # records
//! ```

#![allow(clippy::print_stdout, reason = "a benchmark says what it found")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on stops")]
#![allow(clippy::cast_precision_loss, reason = "counts are far below the precision of a float")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, abort};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{REQUEST, Spread, as_str, key, millis, mixed, now, rounded, verdict};
use idemkv::{Begin, CommitMode, Durability, Engine};
use serde_json::json;

mod common;

const RECORDS: u64 = 1_000_000;
const ROUNDS: u64 = 5;
/// Completed by a process that is killed before a checkpoint.
const MORE: u64 = 5_000;
const BAR: Duration = Duration::from_secs(1);
/// Names the file to the process that is to be killed over it.
const CHILD: &str = "BENCH_OPEN_CHILD";

fn main() {
    if let Ok(told) = env::var(CHILD) {
        child(&told);
    }
    let records = match common::arguments().as_slice() {
        [] => RECORDS,
        [records] => records.parse().unwrap(),
        more => panic!("{more:?}: one number of records is enough"),
    };
    let scratch = common::scratch();
    let path = scratch.path().join("open.idem");
    let started = now();
    let engine = open(&path);
    complete(&engine, 0..records);
    engine.close().unwrap();
    println!(
        "opening {records} records, a file of {} MB in the page cache (filled in {:.1} s); {ROUNDS} rounds",
        fs::metadata(&path).unwrap().len() / 1_000_000,
        started.elapsed().as_secs_f64()
    );
    println!(
        "  {:<24} {:>8} {:>17} {:>12}  bar {} ms",
        "after",
        "ms",
        "min .. max",
        "M keys/s",
        BAR.as_millis()
    );
    let clean = row("a clean close", (0..ROUNDS).map(|_| timed(&path, records)));
    let killed = row(
        "a kill",
        (0..ROUNDS).map(|round| {
            let from = records + round * MORE;
            killed_over(&path, from);
            timed(&path, from + MORE)
        }),
    );
    println!("{}", json!({ "records": records, "bar_ms": millis(BAR), "rows": [clean, killed] }));
}

/// The time of an opening, and the number of keys that were there.
fn timed(path: &Path, keys: u64) -> (Duration, u64) {
    let started = now();
    let engine = open(path);
    let took = started.elapsed();
    assert_eq!(engine.stats().entries as u64, keys);
    for number in [0, keys / 2, keys - 1] {
        assert!(matches!(engine.begin(as_str(&key(number)), REQUEST).unwrap(), Begin::Done(_)));
    }
    engine.close().unwrap();
    (took, keys)
}

fn row(after: &str, rounds: impl Iterator<Item = (Duration, u64)>) -> serde_json::Value {
    let rounds: Vec<_> = rounds.collect();
    let time = Spread::of(rounds.iter().map(|(took, _)| millis(*took)));
    let rate = Spread::of(rounds.iter().map(|(took, keys)| *keys as f64 / took.as_secs_f64() / 1e6));
    let met = time.median < millis(BAR);
    println!(
        "  {after:<24} {:>8.1} {:>7.1} .. {:<6.1} {:>12.2}  {}",
        time.median,
        time.min,
        time.max,
        rate.median,
        verdict(met)
    );
    json!({
        "after": after, "ms": time.json(), "millions_of_keys_per_second": rounded(rate.median), "met": met,
    })
}

/// Has a process open the file, complete some more, and die over it.
fn killed_over(path: &Path, from: u64) {
    let output = Command::new(env::current_exe().unwrap())
        .env(CHILD, format!("{from} {}", path.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !said.contains("panicked"), "{}: {said}", output.status);
}

fn child(told: &str) -> ! {
    let (from, path) = told.split_once(' ').unwrap();
    let (from, path) = (from.parse::<u64>().unwrap(), PathBuf::from(path));
    let engine = open(&path);
    complete(&engine, from..from + MORE);
    abort()
}

fn open(path: &Path) -> Engine {
    Engine::options()
        .durability(Durability::Completions)
        .commit_mode(CommitMode::Buffered)
        .open(path)
        .unwrap()
}

fn complete(engine: &Engine, numbers: std::ops::Range<u64>) {
    const BODY: [u8; 200] = [b'x'; 200];
    let next = AtomicU64::new(numbers.start);
    let caller = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                break;
            }
            let len = 80 + usize::try_from(mixed(!number) % 121).unwrap();
            match engine.begin(as_str(&key(number)), REQUEST).unwrap() {
                Begin::Fresh(claim) => drop(claim.complete(BODY.split_at(len).0).unwrap()),
                other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(caller);
        }
    });
}
