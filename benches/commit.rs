//! Durable lifecycles (a begin that is granted, and its completion) beside the disk's own limit in the same run.
//!
//! The limit is a bare loop that appends and syncs the same groups: as many as the engine committed in its slice, each of
//! their mean size, into a file of written zeros. Slices of the engine and of the bare loop alternate, so that the machine's
//! moods hit both; a ratio of 1 is the limit.
//!
//! Lifecycles are in flight as threads that call `begin` and `complete`, and as tasks of one executor thread that await
//! `begin_async` and `complete_async`.
//!
//! ```text
//! cargo bench --bench commit
//! cargo bench --bench commit -- 1 64      # in flight
//! cargo bench --bench commit -- --tasks   # or --threads
//! BENCH_DIR=/some/disk cargo bench --bench commit
//! ```

#![allow(clippy::print_stdout, reason = "a benchmark says what it found")]
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures time, and sets the stacks of its threads"
)]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on stops")]
#![allow(clippy::cast_precision_loss, reason = "counts are far below the precision of a float")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{REQUEST, Spread, as_str, key, millis, mixed, now, rounded, verdict};
use futures_executor::block_on;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use idemkv::{Begin, Engine, Stats};
use serde_json::json;

mod common;

const IN_FLIGHT: [usize; 5] = [1, 16, 64, 256, 1_024];
const SLICES: usize = 5;
const SLICE: Duration = Duration::from_millis(600);
/// Before the first slice of a row: the log grows to what so many claims need.
const WARM_UP: Duration = Duration::from_millis(500);
/// Before every slice, until all threads are on their way; and after it, for the background to come to rest.
const PAUSE: Duration = Duration::from_millis(100);
const STACK: usize = 256 << 10;
/// A lone caller may take this many times two bare syncs.
const BAR_ALONE: f64 = 1.3;
/// From 64 in flight on, this much of the limit.
const BAR_MANY: f64 = 0.6;

fn main() {
    let wanted: Vec<usize> = common::arguments()
        .iter()
        .map(|arg| arg.parse().unwrap_or_else(|_| panic!("{arg}: not a number in flight")))
        .collect();
    let rows = if wanted.is_empty() { IN_FLIGHT.to_vec() } else { wanted };

    let scratch = common::scratch();
    println!("disk: begin + complete, both durable; {SLICES} slices of {} ms", SLICE.as_millis());
    let disk = section(scratch.path(), &rows);
    let bars = bars(&disk);
    drop(scratch);

    let memory = Path::new("/dev/shm");
    let mut tmpfs = Vec::new();
    if memory.is_dir() {
        println!("tmpfs: the same where a sync is free: the processor's share alone");
        let scratch = common::scratch_in(memory);
        tmpfs = section(scratch.path(), &rows);
    }
    let figures = |rows: &[Row]| rows.iter().map(Row::json).collect::<Vec<_>>();
    println!("{}", json!({ "disk": figures(&disk), "tmpfs": figures(&tmpfs), "bars": bars }));
}

fn section(dir: &Path, rows: &[usize]) -> Vec<Row> {
    println!(
        "  {:>7} {:>9} {:>12} {:>12} {:>8} {:>11} {:>11} {:>11} {:>7} {:>15}",
        "as",
        "in flight",
        "lifecycles/s",
        "limit",
        "entries",
        "ms a commit",
        "of it disk",
        "ms bare",
        "ratio",
        "min .. max"
    );
    let mut done = Vec::new();
    let kinds = [Kind::Threads, Kind::Tasks].into_iter().filter(|kind| kind.is_wanted());
    for (kind, in_flight) in kinds.flat_map(|kind| rows.iter().map(move |in_flight| (kind, *in_flight))) {
        let row = Row::measure(dir, kind, in_flight);
        println!(
            "  {:>7} {:>9} {:>12.0} {:>12.0} {:>8.1} {:>11.3} {:>11.3} {:>11.3} {:>7.2} {:>6.2} .. {:<5.2}",
            row.kind.name(),
            row.in_flight,
            row.per_second(),
            row.per_second() / row.ratio().median,
            row.entries_a_commit(),
            row.millis_a_commit(|slice| slice.engine),
            row.millis_a_commit(|slice| slice.on_disk),
            row.millis_a_commit(|slice| slice.bare),
            row.ratio().median,
            row.ratio().min,
            row.ratio().max,
        );
        done.push(row);
    }
    println!();
    done
}

fn bars(rows: &[Row]) -> Vec<serde_json::Value> {
    let mut bars = Vec::new();
    for row in rows {
        let (name, is, bar, met) = match row.in_flight {
            1 if row.kind == Kind::Threads => {
                let is = row.against_two_syncs().median;
                ("a lifecycle / two bare syncs, at most", is, BAR_ALONE, is <= BAR_ALONE)
            }
            64.. => {
                let is = row.ratio().median;
                ("share of the limit, at least", is, BAR_MANY, is >= BAR_MANY)
            }
            _ => continue,
        };
        let (kind, in_flight) = (row.kind.name(), row.in_flight);
        println!("  bar: {in_flight:>4} {kind} in flight, {name} {bar}: {is:.2}, {}", verdict(met));
        bars.push(json!({
            "as": kind, "in_flight": in_flight, "bar": name, "limit": bar, "is": rounded(is), "met": met,
        }));
    }
    println!();
    bars
}

/// What one slice of the engine did, and how long the bare loop took for the same.
struct Slice {
    lifecycles: u64,
    commits: u64,
    entries: u64,
    engine: Duration,
    /// The part of it that the engine's leaders were writing and syncing.
    on_disk: Duration,
    bare: Duration,
}

/// What a lifecycle in flight is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A thread that blocks.
    Threads,
    /// A task; all of them run on one thread.
    Tasks,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Tasks => "tasks",
        }
    }

    fn is_wanted(self) -> bool {
        let (threads, tasks) = (common::flag("--threads"), common::flag("--tasks"));
        threads == tasks || (self == Self::Threads) == threads
    }
}

struct Row {
    kind: Kind,
    in_flight: usize,
    slices: Vec<Slice>,
}

impl Row {
    fn measure(dir: &Path, kind: Kind, in_flight: usize) -> Self {
        let dir = common::scratch_in(dir);
        let engine = Engine::open(dir.path().join("commit.idem")).unwrap();
        let bare = Bare::new(&dir.path().join("bare"));
        let load = Load { engine, kind, in_flight, next: AtomicU64::new(0) };
        load.run(WARM_UP);
        let slices = (0..SLICES).map(|_| load.run(SLICE).beside(&bare)).collect();
        load.engine.close().unwrap();
        Self { kind, in_flight, slices }
    }

    fn per_second(&self) -> f64 {
        Spread::of(self.slices.iter().map(|slice| slice.lifecycles as f64 / slice.engine.as_secs_f64()))
            .median
    }

    fn entries_a_commit(&self) -> f64 {
        let sum = |of: fn(&Slice) -> u64| self.slices.iter().map(of).sum::<u64>() as f64;
        sum(|slice| slice.entries) / sum(|slice| slice.commits)
    }

    fn millis_a_commit(&self, of: fn(&Slice) -> Duration) -> f64 {
        Spread::of(self.slices.iter().map(|slice| millis(of(slice)) / slice.commits as f64)).median
    }

    fn ratio(&self) -> Spread {
        Spread::of(self.slices.iter().map(|slice| slice.bare.as_secs_f64() / slice.engine.as_secs_f64()))
    }

    fn against_two_syncs(&self) -> Spread {
        Spread::of(self.slices.iter().map(|slice| {
            let lifecycle = slice.engine.as_secs_f64() / slice.lifecycles as f64;
            lifecycle / (2.0 * slice.bare.as_secs_f64() / slice.commits as f64)
        }))
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "as": self.kind.name(),
            "in_flight": self.in_flight,
            "lifecycles_per_second": self.per_second().round(),
            "entries_a_commit": rounded(self.entries_a_commit()),
            "ms_a_commit": rounded(self.millis_a_commit(|slice| slice.engine)),
            "ms_a_commit_on_disk": rounded(self.millis_a_commit(|slice| slice.on_disk)),
            "ms_bare": rounded(self.millis_a_commit(|slice| slice.bare)),
            "ratio": self.ratio().json(),
            "lifecycle_over_two_syncs": self.against_two_syncs().json(),
        })
    }
}

/// So many threads or tasks with a claim each, over and over.
struct Load {
    engine: Engine,
    kind: Kind,
    in_flight: usize,
    next: AtomicU64,
}

/// A window in the middle of a run: what went on in it, and for how long.
struct Window {
    lifecycles: u64,
    before: Stats,
    after: Stats,
    took: Duration,
}

impl Load {
    fn run(&self, window: Duration) -> Window {
        let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let threads = match self.kind {
            Kind::Threads => self.in_flight,
            Kind::Tasks => 1,
        };
        let start = Barrier::new(threads + 1);
        let goes_on = || !stop.load(Ordering::Relaxed);
        let thread = || {
            start.wait();
            while goes_on() {
                self.lifecycle();
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        let task = async || {
            while goes_on() {
                self.lifecycle_async().await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        let executor = || {
            start.wait();
            let tasks: FuturesUnordered<_> = (0..self.in_flight).map(|_| task()).collect();
            block_on(tasks.collect::<()>());
        };
        thread::scope(|scope| {
            for _ in 0..threads {
                let builder = thread::Builder::new().stack_size(STACK);
                match self.kind {
                    Kind::Threads => builder.spawn_scoped(scope, thread).unwrap(),
                    Kind::Tasks => builder.spawn_scoped(scope, executor).unwrap(),
                };
            }
            start.wait();
            thread::sleep(PAUSE);
            let (started, before, first) = (now(), self.engine.stats(), done.load(Ordering::Relaxed));
            thread::sleep(window);
            let (took, after, last) = (started.elapsed(), self.engine.stats(), done.load(Ordering::Relaxed));
            stop.store(true, Ordering::Relaxed);
            Window { lifecycles: last - first, before, after, took }
        })
    }

    /// A new key, and the body of its completion.
    fn next(&self) -> ([u8; 36], &'static [u8]) {
        static BODY: [u8; 200] = [b'x'; 200];
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let len = 80 + usize::try_from(mixed(!number) % 121).unwrap();
        (key(number), BODY.split_at(len).0)
    }

    fn lifecycle(&self) {
        let (key, body) = self.next();
        match self.engine.begin(as_str(&key), REQUEST).unwrap() {
            Begin::Fresh(claim) => drop(claim.complete(body).unwrap()),
            other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
        }
    }

    async fn lifecycle_async(&self) {
        let (key, body) = self.next();
        match self.engine.begin_async(as_str(&key), REQUEST).await.unwrap() {
            Begin::Fresh(claim) => drop(claim.complete_async(body).await.unwrap()),
            other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
        }
    }
}

impl Window {
    /// Lets the bare loop do the same.
    fn beside(self, bare: &Bare) -> Slice {
        thread::sleep(PAUSE);
        let commits = self.after.commits - self.before.commits;
        let bytes = self.after.committed_bytes - self.before.committed_bytes;
        assert!(commits > 0, "no commit in a slice");
        Slice {
            lifecycles: self.lifecycles,
            commits,
            entries: self.after.committed_entries - self.before.committed_entries,
            engine: self.took,
            on_disk: self.after.commit_time_total.saturating_sub(self.before.commit_time_total),
            bare: bare.append(commits, usize::try_from(bytes / commits).unwrap()),
        }
    }
}

/// The disk with nothing in front of it.
struct Bare {
    file: File,
}

impl Bare {
    const FILE: usize = 64 << 20;
    /// What a frame of the log has in front of its entries, and what it is padded to.
    const HEADER: usize = 56;
    const SECTOR: usize = 512;

    fn new(path: &Path) -> Self {
        let file = File::create_new(path).unwrap();
        file.write_all_at(&vec![0; Self::FILE], 0).unwrap();
        file.sync_all().unwrap();
        Self { file }
    }

    /// Appends and syncs so many groups of so many bytes; gives the time.
    fn append(&self, groups: u64, bytes: usize) -> Duration {
        let frame = vec![b'x'; (Self::HEADER + bytes).next_multiple_of(Self::SECTOR)];
        let mut at = 0;
        let started = now();
        for _ in 0..groups {
            if at + frame.len() > Self::FILE {
                at = 0;
            }
            self.file.write_all_at(&frame, at as u64).unwrap();
            self.file.sync_data().unwrap();
            at += frame.len();
        }
        started.elapsed()
    }
}
