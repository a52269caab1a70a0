//! Replay of what is done: `begin` and `begin_many` beside the gets of concurrent maps.
//!
//! Engine and map hold the same keys and bodies and are asked in the same random order; both give
//! something owned, of which a byte is read. The engine checks expiry and fingerprint as well.
//! Slices of them take turns, and ratios are of neighbouring slices.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Begin, Engine};
use serde_json::{Value, json};

use crate::figures::Spread;
use crate::fill::{REQUEST, fill, in_parallel, open_to_fill};
use crate::keys::{as_str, key, mixed};
use crate::map::{MAPS, Map};
use crate::options::Options;
use crate::plot::Plot;

const SIZES: [usize; 3] = [100_000, 1_000_000, 10_000_000];
pub(crate) const THREADS: [usize; 2] = [1, 2];
const ROUNDS: usize = 7;
const SLICE: Duration = Duration::from_millis(400);
const BODY: [u8; 80] = [b'x'; 80];
/// Keys in a batch.
const BATCH: usize = 32;
/// Lookups between two looks at whether the slice is over.
const CHUNK: usize = 8 * BATCH;

pub(crate) fn run(options: &Options) {
    let threads = options.threads_or(&THREADS);
    println!("million lookups a second (median of slices), and ours to theirs (median, least .. greatest)");
    let mut plot = Plot::new("Replay: million lookups a second");
    let mut rows = Vec::new();
    for keys in options.sizes_or(&SIZES) {
        let work = Work::new(keys, options);
        for row in work.rows(&threads, options) {
            plot.group(row.title(), row.bars());
            rows.push(row.json());
        }
    }
    plot.write("lookup");
    println!("{}", json!({ "lookup": rows }));
}

/// An engine that has done all its keys, and the order in which they are asked for.
struct Work {
    engine: Engine,
    order: Order,
    _scratch: tempfile::TempDir,
}

/// In which order keys are asked for, how often, and for how long.
pub(crate) struct Order {
    numbers: Vec<u64>,
    rounds: usize,
    slice: Duration,
}

/// One size with so many threads.
struct Row {
    keys: usize,
    threads: usize,
    single: Spread,
    batch: Spread,
    hot: Spread,
    /// Of each map: its figure, and ours to it, singly and in batches.
    maps: Vec<(&'static str, Spread, Spread, Spread)>,
}

impl Work {
    fn new(keys: usize, options: &Options) -> Self {
        let scratch = options.scratch();
        let engine = open_to_fill(&scratch.path().join("lookup.idem"), usize::MAX / 2);
        fill(&engine, 0..keys as u64, |_| &BODY);
        engine.checkpoint().expect("the log is moved");
        Self { engine, order: Order::new(keys, options), _scratch: scratch }
    }

    fn rows(&self, threads: &[usize], options: &Options) -> Vec<Row> {
        let keys = self.order.numbers.len();
        let mut rows: Vec<Row> = threads.iter().map(|threads| self.row_alone(*threads)).collect();
        for (name, make) in MAPS.iter().filter(|(name, _)| options.wants(name)) {
            let map = make(keys);
            in_parallel(0..keys as u64, CHUNK as u64, |numbers| {
                numbers.for_each(|number| map.insert(as_str(&key(number)).to_owned(), Arc::from(BODY)));
            });
            for row in &mut rows {
                row.beside(self, name, map.as_ref());
            }
        }
        assert_eq!(self.engine.stats().loaded, 0, "not all records were in memory");
        rows
    }

    fn row_alone(&self, threads: usize) -> Row {
        let [single, batch, hot] = [Asked::Singly, Asked::InBatches, Asked::ForOne].map(|asked| {
            Spread::of((0..self.order.rounds).map(|round| self.engine_slice(threads, round, asked)))
        });
        let row = Row { keys: self.order.numbers.len(), threads, single, batch, hot, maps: Vec::new() };
        println!(
            "{:>10} keys, {threads} threads: begin {:.2}, batches of {BATCH} {:.2}, one hot key {:.2}",
            row.keys, single.median, batch.median, hot.median
        );
        row
    }

    fn engine_slice(&self, threads: usize, round: usize, asked: Asked) -> f64 {
        match asked {
            Asked::Singly => self
                .order
                .slice(threads, round, |numbers| numbers.iter().for_each(|number| self.begin(*number))),
            Asked::ForOne => {
                self.order.slice(threads, round, |numbers| numbers.iter().for_each(|_| self.begin(0)))
            }
            Asked::InBatches => self.order.slice(threads, round, |numbers| self.begin_many(numbers)),
        }
    }

    fn begin(&self, number: u64) {
        match self.engine.default_scope().begin(as_str(&key(number)), REQUEST) {
            Ok(Begin::Done(record)) => touch(record.body()),
            other => panic!("key {number} was {other:?}"),
        }
    }

    fn begin_many(&self, numbers: &[u64]) {
        let mut requests = [([0; 36], REQUEST); BATCH];
        for numbers in numbers.chunks_exact(BATCH) {
            requests.iter_mut().zip(numbers).for_each(|((to, _), number)| *to = key(*number));
            for result in self.engine.default_scope().begin_many(&requests) {
                match result {
                    Ok(Begin::Done(record)) => touch(record.body()),
                    other => panic!("a key was {other:?}"),
                }
            }
        }
    }
}

impl Order {
    pub(crate) fn new(keys: usize, options: &Options) -> Self {
        Self { numbers: shuffled(keys), rounds: options.rounds_or(ROUNDS), slice: options.time_or(SLICE) }
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds
    }

    /// Looks up for the time of a slice; gives millions a second. Every round and thread starts
    /// somewhere else in the order.
    pub(crate) fn slice(&self, threads: usize, round: usize, lookup: impl Fn(&[u64]) + Sync) -> f64 {
        let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let start = Barrier::new(threads + 1);
        let took = thread::scope(|scope| {
            for thread in 0..threads {
                let (done, stop, start, lookup) = (&done, &stop, &start, &lookup);
                let from = self.numbers.len() / (threads * self.rounds) * (thread * self.rounds + round);
                scope.spawn(move || {
                    let (before, behind) = self.numbers.split_at(from);
                    let mut chunks = behind.chunks_exact(CHUNK).chain(before.chunks_exact(CHUNK)).cycle();
                    let mut count = 0;
                    start.wait();
                    while !stop.load(Ordering::Relaxed) {
                        let numbers = chunks.next().expect("there are keys enough for a chunk");
                        lookup(numbers);
                        count += numbers.len() as u64;
                    }
                    done.fetch_add(count, Ordering::Relaxed);
                });
            }
            start.wait();
            let started = Instant::now();
            thread::sleep(self.slice);
            stop.store(true, Ordering::Relaxed);
            started.elapsed()
        });
        done.into_inner() as f64 / took.as_secs_f64() / 1e6
    }
}

/// How the engine is asked.
#[derive(Clone, Copy)]
enum Asked {
    Singly,
    InBatches,
    /// All for the same key.
    ForOne,
}

impl Row {
    fn beside(&mut self, work: &Work, name: &'static str, map: &dyn Map) {
        let (mut theirs, mut single, mut batch) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..work.order.rounds {
            let ours = work.engine_slice(self.threads, round, Asked::Singly);
            let map = work.order.slice(self.threads, round, |numbers| {
                for number in numbers {
                    touch(&map.get(as_str(&key(*number))).expect("the map has every key"));
                }
            });
            let batches = work.engine_slice(self.threads, round, Asked::InBatches);
            theirs.push(map);
            single.push(ours / map);
            batch.push(batches / map);
        }
        let [theirs, single, batch] = [theirs, single, batch].map(Spread::of);
        println!(
            "{:>16} {:>6.2}   begin to it {:.2} ({:.2} .. {:.2}), batches to it {:.2} ({:.2} .. {:.2})",
            name, theirs.median, single.median, single.min, single.max, batch.median, batch.min, batch.max
        );
        self.maps.push((name, theirs, single, batch));
    }

    fn title(&self) -> String {
        format!("{} keys, {} threads", self.keys, self.threads)
    }

    fn bars(&self) -> Vec<(String, f64)> {
        let ours = [("idemkv begin_many", self.batch), ("idemkv begin", self.single)];
        let maps = self.maps.iter().map(|(name, theirs, ..)| (*name, *theirs));
        ours.into_iter().chain(maps).map(|(name, figure)| (name.to_owned(), figure.median)).collect()
    }

    fn json(&self) -> Value {
        let least =
            |of: fn(&(&str, Spread, Spread, Spread)) -> f64| self.maps.iter().map(of).min_by(f64::total_cmp);
        let maps: serde_json::Map<_, _> = self
            .maps
            .iter()
            .map(|(name, theirs, single, batch)| {
                let row = json!({ "figure": theirs.json(), "begin_to_it": single.json(), "batch_to_it": batch.json() });
                ((*name).to_owned(), row)
            })
            .collect();
        json!({
            "keys": self.keys, "threads": self.threads, "begin": self.single.json(), "batch": self.batch.json(),
            "one_hot_key": self.hot.json(), "maps": maps,
            "begin_to_fastest_map": least(|map| map.2.median), "batch_to_fastest_map": least(|map| map.3.median),
        })
    }
}

/// Reads what was found.
#[inline]
pub(crate) fn touch(body: &[u8]) {
    black_box(body.first());
}

/// The numbers below `keys` in a random order, the same in every run.
pub(crate) fn shuffled(keys: usize) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..keys as u64).collect();
    for at in (1..numbers.len()).rev() {
        let other = (u128::from(mixed(at as u64)) * (at as u128 + 1)) >> 64;
        numbers.swap(at, other as usize);
    }
    numbers
}
