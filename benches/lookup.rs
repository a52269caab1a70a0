//! `begin` on a key that is done, and `begin_many` of 32 such keys, beside `DashMap<String, Arc<[u8]>>::get`, in the same run.
//!
//! Engine and map hold the same keys and bodies, are asked in the same random order, and have a byte of the body read; the
//! engine checks expiry and fingerprint as well. Slices of the three alternate.
//!
//! ```text
//! cargo bench --bench lookup
//! cargo bench --bench lookup -- --quick      # without the largest
//! cargo bench --bench lookup -- 1000000      # keys
//! ```

#![allow(clippy::print_stdout, reason = "a benchmark says what it found")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on stops")]
#![allow(clippy::cast_precision_loss, reason = "counts are far below the precision of a float")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use common::{REQUEST, Spread, as_str, key, mixed, now, rounded, verdict};
use dashmap::DashMap;
use idemkv::{Begin, CommitMode, Durability, Engine};
use serde_json::json;

mod common;

const SIZES: [u32; 3] = [100_000, 1_000_000, 10_000_000];
const THREADS: [usize; 2] = [1, 2];
const SLICES: usize = 11;
const SLICE: Duration = Duration::from_millis(500);
const BODY: [u8; 80] = [b'x'; 80];
/// Single begins to the map.
const BAR: f64 = 1.0;
/// Batches to single begins, where the index is larger than the processor's caches.
const BATCH_BAR: f64 = 2.0;
const BATCH_BAR_FROM: u32 = 1_000_000;
/// Lookups between two looks at whether the slice is over.
const CHUNK: usize = 256;
/// Keys in a batch.
const BATCH: usize = 32;

fn main() {
    let wanted: Vec<u32> = common::arguments()
        .iter()
        .map(|arg| arg.parse().unwrap_or_else(|_| panic!("{arg}: not a number of keys")))
        .collect();
    let sizes = match (wanted.as_slice(), common::flag("--quick"), &SIZES) {
        ([], true, [small, middle, _]) => vec![*small, *middle],
        ([], false, all) => all.to_vec(),
        (wanted, ..) => wanted.to_vec(),
    };
    println!(
        "begin on Done, and begin_many of {BATCH}, beside DashMap::get, {SLICES} slices of {} ms each; M lookups a second",
        SLICE.as_millis()
    );
    println!(
        "  {:>10} {:>7} {:>8} {:>8} {:>8} {:>22}  {:<6} {:>22}  {:<6} {:>22} {:>10}",
        "keys",
        "threads",
        "begin",
        "batch",
        "dashmap",
        "begin/dashmap",
        format!("{BAR:.1}"),
        "batch/begin",
        format!("{BATCH_BAR:.1}"),
        "batch/dashmap",
        "keys alone"
    );
    let mut rows = Vec::new();
    for keys in sizes {
        rows.extend(Pair::filled(keys).rows());
    }
    println!("{}", json!({ "bar": BAR, "batch_bar": BATCH_BAR, "rows": rows }));
}

/// The two that are compared, with the order in which both are asked.
struct Pair {
    engine: Engine,
    map: DashMap<String, Arc<[u8]>>,
    order: Vec<u32>,
    keys: u32,
    _scratch: tempfile::TempDir,
}

impl Pair {
    fn filled(keys: u32) -> Self {
        let scratch = common::scratch();
        let engine = Engine::options()
            .cache_bytes(16 << 30)
            .log_segment_bytes(64 << 20)
            .log_bytes(1 << 30)
            .durability(Durability::Completions)
            .commit_mode(CommitMode::Buffered)
            .open(scratch.path().join("lookup.idem"))
            .unwrap();
        let map = DashMap::new();
        let started = now();
        in_parallel(keys, |number| complete(&engine, number));
        engine.checkpoint().unwrap();
        let engine_took = started.elapsed();
        let started = now();
        in_parallel(keys, |number| {
            map.insert(as_str(&key(number)).to_owned(), Arc::from(BODY));
        });
        let map_took = started.elapsed();
        let stats = engine.stats();
        println!(
            "  {keys:>10} filled: engine {:.1} s ({:.0} MB of records, {:.0} MB of index), dashmap {:.1} s",
            engine_took.as_secs_f64(),
            stats.cached_bytes as f64 / 1e6,
            stats.index_bytes as f64 / 1e6,
            map_took.as_secs_f64(),
        );
        Self { engine, map, order: shuffled(keys), keys, _scratch: scratch }
    }

    fn rows(&self) -> Vec<serde_json::Value> {
        let rows = THREADS.iter().map(|threads| self.row(*threads)).collect();
        assert_eq!(self.engine.stats().loaded, 0, "not all records were in memory");
        rows
    }

    fn row(&self, threads: usize) -> serde_json::Value {
        let engine = |number: u32| match self.engine.begin(as_str(&key(number.into())), REQUEST) {
            Ok(Begin::Done(record)) => byte_of(record.body()),
            other => panic!("key {number} was {other:?}"),
        };
        let batch = |numbers: &[u32]| {
            let mut requests = [([0; 36], REQUEST); BATCH];
            numbers.chunks(BATCH).fold(0, |sum, numbers| {
                requests.iter_mut().zip(numbers).for_each(|((to, _), number)| *to = key((*number).into()));
                let results = self.engine.begin_many(&requests);
                sum ^ results.iter().fold(0, |sum, result| match result {
                    Ok(Begin::Done(record)) => sum ^ byte_of(record.body()),
                    other => panic!("a key was {other:?}"),
                })
            })
        };
        let map = |number: u32| match self.map.get(as_str(&key(number.into()))) {
            Some(body) => byte_of(&body),
            None => panic!("key {number} was not there"),
        };
        let text_alone = |number: u32| byte_of(as_str(&key(number.into())).as_bytes());
        let (mut engines, mut batches, mut maps, mut texts) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for slice in 0..SLICES {
            engines.push(self.slice(threads, slice, each(engine)));
            batches.push(self.slice(threads, slice, batch));
            maps.push(self.slice(threads, slice, each(map)));
            if slice % 3 == 0 {
                texts.push(self.slice(threads, slice, each(text_alone)));
            }
        }
        let ratio = ratios(&engines, &maps);
        let gain = ratios(&batches, &engines);
        let batch_ratio = ratios(&batches, &maps);
        let [engine, batch, map, texts] = [engines, batches, maps, texts].map(Spread::of);
        let met = ratio.median >= BAR;
        let batch_met = (self.keys >= BATCH_BAR_FROM).then_some(gain.median >= BATCH_BAR);
        println!(
            "  {:>10} {threads:>7} {:>8.2} {:>8.2} {:>8.2} {:>22}  {:<6} {:>22}  {:<6} {:>22} {:>10.1}",
            self.keys,
            engine.median,
            batch.median,
            map.median,
            in_words(ratio),
            verdict(met),
            in_words(gain),
            batch_met.map_or("no bar", verdict),
            in_words(batch_ratio),
            texts.median,
        );
        json!({
            "keys": self.keys, "threads": threads, "engine_millions_per_second": engine.json(),
            "batch_millions_per_second": batch.json(), "dashmap_millions_per_second": map.json(),
            "ratio": ratio.json(), "batch_to_single": gain.json(), "batch_to_dashmap": batch_ratio.json(),
            "keys_alone_millions_per_second": rounded(texts.median), "met": met, "batch_met": batch_met,
        })
    }

    /// Looks up for the time of a slice; gives millions a second. Every slice and thread starts somewhere else in the order.
    fn slice(&self, threads: usize, slice: usize, lookup: impl Fn(&[u32]) -> u8 + Sync) -> f64 {
        let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let start = Barrier::new(threads + 1);
        let took = thread::scope(|scope| {
            for thread in 0..threads {
                let (done, stop, start, lookup) = (&done, &stop, &start, &lookup);
                let from = self.order.len() / (threads * SLICES) * (thread * SLICES + slice);
                scope.spawn(move || {
                    let (before, behind) = self.order.split_at(from);
                    let mut chunks = behind.chunks_exact(CHUNK).chain(before.chunks_exact(CHUNK)).cycle();
                    let mut count = 0;
                    start.wait();
                    while !stop.load(Ordering::Relaxed) {
                        if let Some(numbers) = chunks.next() {
                            black_box(lookup(numbers));
                            count += numbers.len() as u64;
                        }
                    }
                    done.fetch_add(count, Ordering::Relaxed);
                });
            }
            start.wait();
            let started = now();
            thread::sleep(SLICE);
            stop.store(true, Ordering::Relaxed);
            started.elapsed()
        });
        done.into_inner() as f64 / took.as_secs_f64() / 1e6
    }
}

/// The ratios of figures that were taken one after the other.
fn ratios(of: &[f64], to: &[f64]) -> Spread {
    Spread::of(of.iter().zip(to).map(|(of, to)| of / to))
}

fn in_words(ratio: Spread) -> String {
    format!("{:.2} ({:.2} .. {:.2})", ratio.median, ratio.min, ratio.max)
}

/// Looks numbers up one after the other.
fn each(lookup: impl Fn(u32) -> u8 + Sync) -> impl Fn(&[u32]) -> u8 + Sync {
    move |numbers| numbers.iter().fold(0, |_, number| black_box(lookup(*number)))
}

#[inline]
fn byte_of(body: &[u8]) -> u8 {
    body.first().copied().unwrap_or_default()
}

fn complete(engine: &Engine, number: u64) {
    match engine.begin(as_str(&key(number)), REQUEST).unwrap() {
        Begin::Fresh(claim) => drop(claim.complete(BODY).unwrap()),
        other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
    }
}

/// Calls `each` with every number below `keys`, from as many threads as there are processors.
fn in_parallel(keys: u32, each: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(1_000, Ordering::Relaxed);
                    if from >= keys.into() {
                        break;
                    }
                    (from..(from + 1_000).min(keys.into())).for_each(&each);
                }
            });
        }
    });
}

/// The numbers below `keys` in a random order, the same in every run.
fn shuffled(keys: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..keys).collect();
    for at in (1..numbers.len()).rev() {
        let other = (u128::from(mixed(at as u64)) * (at as u128 + 1)) >> 64;
        numbers.swap(at, usize::try_from(other).unwrap());
    }
    numbers
}
