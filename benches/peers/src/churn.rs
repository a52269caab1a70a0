//! Churn: keys expire as fast as new ones come; beside the same load where nothing expires.
//!
//! One thread brings new keys at a steady rate, in batches. A second one looks keys up that are
//! live, a third one takes a key through claim and completion, durably, one after the other; both
//! note how long each call took. The engine without expiry and the one with it take turns.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Begin, Engine};
use serde_json::{Value, json};

use crate::figures::{Spread, rounded};
use crate::fill::{Bodies, REQUEST, body, complete};
use crate::keys::{as_str, key, mixed};
use crate::options::Options;
use crate::plot::Plot;

/// Keys that are live at a time.
const LIVE: [usize; 1] = [200_000];
const ROUNDS: usize = 3;
const WINDOW: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(5);
/// New keys come in portions of this length.
const PORTION: Duration = Duration::from_millis(5);
const KEY_BYTES: u64 = 36;

pub(crate) fn run(options: &Options) {
    println!(
        "microseconds, and file and log as multiples of the live keys and bodies: median, least .. greatest"
    );
    let mut plot = Plot::new("Churn: 99th percentile, microseconds");
    let mut rows = Vec::new();
    for live in options.sizes_or(&LIVE) {
        let row = Row::measure(live, options);
        plot.group(format!("{live} live keys"), row.bars());
        rows.push(row.json());
    }
    plot.write("churn");
    println!("{}", json!({ "churn": rows }));
}

struct Row {
    live: usize,
    without: Vec<Seen>,
    with: Vec<Seen>,
}

/// What a window showed.
struct Seen {
    lookup_p99: f64,
    commit_p99: f64,
    new_keys_a_second: f64,
    /// The greatest length of file and log, and the greatest room that the file system gave them,
    /// to the live payload.
    length: f64,
    room: f64,
}

impl Row {
    fn measure(live: usize, options: &Options) -> Self {
        let mut row = Self { live, without: Vec::new(), with: Vec::new() };
        for _ in 0..options.rounds_or(ROUNDS) {
            row.without.push(seen(live, TTL * 1_000, options));
            row.with.push(seen(live, TTL, options));
        }
        row.print();
        row
    }

    fn print(&self) {
        println!("{} live keys, {} s each", self.live, TTL.as_secs());
        for (name, seen) in [("nothing expires", &self.without), ("churn", &self.with)] {
            let [lookup, commit, rate, length, room] = Self::spreads(seen);
            println!(
                "  {name:<16} lookup p99 {:.1} ({:.1} .. {:.1})   commit p99 {:.0} ({:.0} .. {:.0})   new keys a second {:.0}   length {:.2} x, room {:.2} x",
                lookup.median,
                lookup.min,
                lookup.max,
                commit.median,
                commit.min,
                commit.max,
                rate.median,
                length.median,
                room.median
            );
        }
        let [lookup, commit] = self.ratios();
        println!(
            "  with to without: lookup p99 {:.2} ({:.2} .. {:.2}), commit p99 {:.2} ({:.2} .. {:.2})",
            lookup.median, lookup.min, lookup.max, commit.median, commit.min, commit.max
        );
    }

    fn spreads(seen: &[Seen]) -> [Spread; 5] {
        let of = |figure: fn(&Seen) -> f64| Spread::of(seen.iter().map(figure));
        [
            of(|seen| seen.lookup_p99),
            of(|seen| seen.commit_p99),
            of(|seen| seen.new_keys_a_second),
            of(|seen| seen.length),
            of(|seen| seen.room),
        ]
    }

    /// Of neighbouring windows: lookup and commit.
    fn ratios(&self) -> [Spread; 2] {
        let of = |figure: fn(&Seen) -> f64| {
            Spread::of(
                self.with.iter().zip(&self.without).map(|(with, without)| figure(with) / figure(without)),
            )
        };
        [of(|seen| seen.lookup_p99), of(|seen| seen.commit_p99)]
    }

    fn bars(&self) -> Vec<(String, f64)> {
        let [lookup, commit, ..] = Self::spreads(&self.with);
        let [lookup_without, commit_without, ..] = Self::spreads(&self.without);
        vec![
            ("idemkv lookup, churn".to_owned(), lookup.median),
            ("lookup, no expiry".to_owned(), lookup_without.median),
            ("idemkv commit, churn".to_owned(), commit.median),
            ("commit, no expiry".to_owned(), commit_without.median),
        ]
    }

    fn json(&self) -> Value {
        let of = |seen: &[Seen]| {
            let [lookup, commit, rate, length, room] = Self::spreads(seen);
            json!({
                "lookup_p99_us": lookup.json(), "commit_p99_us": commit.json(), "new_keys_a_second": rate.json(),
                "length_to_live": length.json(), "room_to_live": room.json(),
            })
        };
        let [lookup, commit] = self.ratios();
        json!({
            "live": self.live, "without": of(&self.without), "with": of(&self.with),
            "lookup_p99_to_without": lookup.json(), "commit_p99_to_without": commit.json(),
        })
    }
}

/// Lives through two TTLs, and then looks for the time of a window.
fn seen(live: usize, ttl: Duration, options: &Options) -> Seen {
    let scratch = options.scratch();
    let path = scratch.path().join("churn.idem");
    let engine = Engine::options().ttl(ttl).open(&path).expect("the engine opens");
    let window = options.time_or(WINDOW);
    // The live set changes once in this time, whether it expires or not.
    let portion = (live as f64 * PORTION.as_secs_f64() / TTL.as_secs_f64()) as u64;
    let (next, stop, counts) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let goes_on = || !stop.load(Ordering::Relaxed);
    let mut seen = thread::scope(|threads| {
        threads.spawn(|| bring(&engine, portion, options.bodies, &next, &goes_on));
        let lookups = threads.spawn(|| look_up(&engine, &next, live as u64, &counts, &goes_on));
        let commits = threads.spawn(|| commit(&engine, &counts, &goes_on));
        thread::sleep(2 * TTL);
        counts.store(true, Ordering::Relaxed);
        let (started, first) = (Instant::now(), next.load(Ordering::Relaxed));
        let (mut length, mut room) = (0, 0);
        while started.elapsed() < window {
            thread::sleep(Duration::from_millis(100));
            let (long, takes) = on_disk(&path);
            (length, room) = (length.max(long), room.max(takes));
        }
        let new = next.load(Ordering::Relaxed) - first;
        let took = started.elapsed();
        stop.store(true, Ordering::Relaxed);
        let mut lookups = lookups.join().expect("no lookup fails");
        let mut commits = commits.join().expect("no commit fails");
        Seen {
            lookup_p99: p99(&mut lookups),
            commit_p99: p99(&mut commits),
            new_keys_a_second: new as f64 / took.as_secs_f64(),
            length: length as f64,
            room: room as f64,
        }
    });
    let last = next.into_inner();
    let payload: u64 = (last.saturating_sub(live as u64)..last)
        .map(|number| KEY_BYTES + options.bodies.of(number).len() as u64)
        .sum();
    seen.length = rounded(seen.length / payload as f64);
    seen.room = rounded(seen.room / payload as f64);
    engine.close().expect("the engine closes");
    seen
}

/// New keys, so many in each portion of time.
fn bring(engine: &Engine, portion: u64, bodies: Bodies, next: &AtomicU64, goes_on: &dyn Fn() -> bool) {
    let started = Instant::now();
    let mut portions = 0;
    while goes_on() {
        let from = next.load(Ordering::Relaxed);
        complete(engine, from..from + portion, |number| bodies.of(number));
        next.store(from + portion, Ordering::Relaxed);
        portions += 1;
        let due = PORTION * portions;
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
}

/// How long each lookup of a live key took, in nanoseconds.
fn look_up(
    engine: &Engine,
    next: &AtomicU64,
    live: u64,
    counts: &AtomicBool,
    goes_on: &dyn Fn() -> bool,
) -> Vec<u64> {
    let (mut took, mut draw) = (Vec::new(), 0);
    while goes_on() {
        let last = next.load(Ordering::Relaxed);
        // Of the younger half of the live set: they are live still when they are asked for.
        let back = mixed(draw) % (live / 2);
        draw += 1;
        let Some(number) = last.checked_sub(back + 1) else { continue };
        let key = key(number);
        let started = Instant::now();
        let begun = engine.default_scope().begin(as_str(&key), REQUEST);
        let nanos = started.elapsed().as_nanos() as u64;
        assert!(matches!(begun, Ok(Begin::Done(_))), "a live key was {begun:?}");
        if counts.load(Ordering::Relaxed) {
            took.push(nanos);
        }
        if draw.is_multiple_of(64) {
            // About as busy as a service is; a thread that never sleeps leaves nothing to the
            // others.
            thread::sleep(Duration::from_micros(100));
        }
    }
    took
}

/// How long each claim and completion took together, in nanoseconds.
fn commit(engine: &Engine, counts: &AtomicBool, goes_on: &dyn Fn() -> bool) -> Vec<u64> {
    let (mut took, mut number) = (Vec::new(), u64::MAX / 2);
    while goes_on() {
        number += 1;
        let key = key(number);
        let started = Instant::now();
        match engine.default_scope().begin(as_str(&key), REQUEST).expect("an engine at rest grants") {
            Begin::Fresh(claim) => drop(claim.complete(body(number)).expect("a granted claim completes")),
            other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
        }
        if counts.load(Ordering::Relaxed) {
            took.push(started.elapsed().as_nanos() as u64);
        }
        thread::sleep(Duration::from_micros(500));
    }
    took
}

/// In microseconds.
fn p99(nanos: &mut [u64]) -> f64 {
    nanos.sort_unstable();
    let at = (nanos.len() * 99 / 100).min(nanos.len() - 1);
    nanos[at] as f64 / 1e3
}

/// Length of file and log, and what the file system gave them.
fn on_disk(path: &Path) -> (u64, u64) {
    let log = PathBuf::from(format!("{}-wal", path.display()));
    [path, &log]
        .into_iter()
        .filter_map(|path| fs::metadata(path).ok())
        .fold((0, 0), |(length, room), file| (length + file.len(), room + file.blocks() * 512))
}
