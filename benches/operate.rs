//! What an operator's calls cost, and what they cost everybody else.
//!
//! ```text
//! cargo bench --bench operate -- lists            # 300,000 keys, 6 of them interrupted: how long a list takes
//! cargo bench --bench operate -- backup 2048      # a file of 2,048 MB under load: claims with and without a backup
//! cargo bench --bench operate -- backup 2048 4000 # the same with 4,000 claims a second instead of 400
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that can't go on stops")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "counts are far below the limits"
)]
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::env;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{REQUEST, body, fill, key, scratch, unsynced};
use idemkv::{Begin, Engine};

mod common;

const KEYS: u64 = 300_000;
const LOST: u64 = 6;
/// Time for the disk to come to rest.
const SETTLE: Duration = Duration::from_secs(15);
/// Callers at the same time.
const CALLERS: u64 = 4;
/// Claims that all callers begin a second: a load that the machine can carry, so that waiting
/// shows.
const RATE: u64 = 400;

fn main() {
    let mut words = env::args().skip(1).filter(|word| !word.starts_with("--"));
    match words.next().as_deref() {
        Some("lists") => lists(),
        Some("backup") => {
            let mut number = |default| words.next().and_then(|word| word.parse().ok()).unwrap_or(default);
            backup(number(256), number(RATE));
        }
        _ => {
            lists();
            backup(64, RATE);
        }
    }
}

fn lists() {
    let scratch = scratch();
    let engine = unsynced().open(scratch.path().join("lists.idem")).unwrap();
    fill(&engine, 0..KEYS, body);
    for number in KEYS..KEYS + LOST {
        drop(engine.default_scope().begin(key(number), REQUEST).unwrap());
    }
    let held: Vec<_> = (KEYS + LOST..KEYS + 2 * LOST)
        .map(|number| engine.default_scope().begin(key(number), REQUEST))
        .collect();
    for (name, list) in [("interrupted", true), ("in flight", false)] {
        let mut times: Vec<_> = (0..101)
            .map(|_| {
                let started = Instant::now();
                let listing = if list { engine.interrupted() } else { engine.in_flight() };
                let found = listing.get().unwrap();
                assert_eq!(found.len() as u64, LOST);
                started.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{name}: {LOST} of {KEYS} keys, median {:?}, longest {:?}", times[50], times[100]);
    }
    let started = Instant::now();
    let stats = engine.stats();
    println!("stats: {:?} ({} interrupted)", started.elapsed(), stats.entries);
    drop(held);
}

/// How long claims took: begin and complete, each durable.
struct Load<'e> {
    engine: &'e Engine,
    /// Claims a second.
    rate: u64,
    next: AtomicU64,
    is_over: AtomicBool,
    times: Mutex<Vec<Duration>>,
}

impl Load<'_> {
    fn call(&self) {
        let every = Duration::from_secs(CALLERS) / self.rate as u32;
        let mut due = Instant::now();
        while !self.is_over.load(Ordering::Acquire) {
            // By the clock, not by the last answer: a call that is late makes the next ones late,
            // as clients would see.
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            match self.engine.default_scope().begin(key(number), REQUEST).unwrap() {
                Begin::Fresh(claim) => drop(claim.complete(body(number)).unwrap()),
                other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
            }
            self.times.lock().unwrap().push(due.elapsed());
            due += every;
        }
    }

    /// Claims since the last call, sorted.
    fn take(&self) -> Vec<Duration> {
        let mut times = std::mem::take(&mut *self.times.lock().unwrap());
        times.sort_unstable();
        times
    }
}

fn print(name: &str, times: &[Duration]) -> Duration {
    let at = |share: usize| times[(times.len() - 1) * share / 1_000];
    println!(
        "{name}: {} claims, p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}",
        times.len(),
        at(500),
        at(990),
        at(999),
        at(1_000)
    );
    at(990)
}

fn backup(megabytes: u64, rate: u64) {
    let scratch = scratch();
    let path = scratch.path().join("backup.idem");
    let big = vec![b'x'; 60_000];
    let engine = unsynced().cache_bytes(64 << 20).open(&path).unwrap();
    let mut number = 1 << 40;
    while (number - (1 << 40)) * 60_000 < megabytes << 20 {
        let claims = (number..number + 100).map(|number| {
            match engine.default_scope().begin(key(number), REQUEST).unwrap() {
                Begin::Fresh(claim) => (claim, &big),
                other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
            }
        });
        assert!(engine.complete_many(claims.collect()).iter().all(Result::is_ok));
        number += 100;
    }
    engine.close().unwrap();
    let engine = Engine::options().cache_bytes(64 << 20).open(&path).unwrap();
    println!("file: {} MB", engine.stats().file_bytes >> 20);
    let load = Load {
        engine: &engine,
        rate,
        next: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        times: Mutex::default(),
    };
    thread::scope(|threads| {
        for _ in 0..CALLERS {
            threads.spawn(|| load.call());
        }
        for round in 0..3 {
            // What filling the file, or removing the copy before this one, left for the disk to
            // do.
            thread::sleep(SETTLE);
            drop(load.take());
            thread::sleep(Duration::from_secs(20));
            let without = print("without", &load.take());
            let started = Instant::now();
            let made = engine.backup(scratch.path().join(format!("copy {round}"))).unwrap();
            let took = started.elapsed();
            let with = print("during a backup", &load.take());
            println!(
                "backup: {} MB in {took:?}; p99 {:.2} times that without",
                made.bytes >> 20,
                with.as_secs_f64() / without.as_secs_f64()
            );
            std::fs::remove_file(scratch.path().join(format!("copy {round}"))).unwrap();
        }
        load.is_over.store(true, Ordering::Release);
    });
}
