//! Opening: a file of so many records, after a clean close and after a kill; beside what redb
//! needs to read the same rows.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, abort};
use std::time::{Duration, Instant};

use idemkv::{Begin, Engine};
use redb::{ReadableDatabase, ReadableTable};
use serde_json::{Value, json};

use crate::figures::{Spread, millis, rounded};
use crate::fill::{REQUEST, body, fill, open_to_fill, unsynced};
use crate::keys::{as_str, key};
use crate::options::Options;
use crate::plot::Plot;

const SIZES: [usize; 2] = [1_000_000, 10_000_000];
const ROUNDS: usize = 5;
/// Completed by a process that is killed before a checkpoint.
const MORE: u64 = 5_000;
/// Names the file to the process that is to be killed over it.
const CHILD: &str = "PEERS_OPEN_CHILD";
/// Where an engine keeps what an opening reads.
const INDEX: redb::TableDefinition<'_, (u64, u64), &[u8]> = redb::TableDefinition::new("idemkv.index");

pub(crate) fn run(options: &Options) {
    if let Ok(told) = env::var(CHILD) {
        child(&told);
    }
    let mut plot = Plot::new("Opening: million keys a second");
    let mut rows = Vec::new();
    println!("million keys a second, and ms until the first begin is answered: median, least .. greatest");
    for keys in options.sizes_or(&SIZES) {
        let row = Row::measure(keys as u64, options);
        plot.group(format!("{keys} keys"), row.bars());
        rows.push(row.json());
    }
    plot.write("open");
    println!("{}", json!({ "open": rows }));
}

struct Row {
    keys: u64,
    file_bytes: u64,
    clean: Opened,
    killed: Opened,
    /// redb alone: it opens the file, and reads the same rows.
    rows_read: Spread,
}

struct Opened {
    keys_a_second: Spread,
    first_begin_ms: Spread,
}

impl Row {
    fn measure(keys: u64, options: &Options) -> Self {
        let scratch = options.scratch();
        let path = scratch.path().join("open.idem");
        let engine = open_to_fill(&path, 0);
        fill(&engine, 0..keys, |number| options.bodies.of(number));
        engine.close().expect("the engine closes");
        let file_bytes = fs::metadata(&path).expect("the file is there").len();
        let rounds = options.rounds_or(ROUNDS);
        println!("{keys} keys, a file of {} MB", file_bytes / 1_000_000);
        let (mut clean, mut rows_read) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            clean.push(timed(&path, keys));
            rows_read.push(keys as f64 / read_rows(&path, keys).as_secs_f64() / 1e6);
        }
        let killed = (0..rounds as u64).map(|round| {
            let from = keys + round * MORE;
            kill_over(&path, from);
            timed(&path, from + MORE)
        });
        let killed = Opened::of(killed.collect());
        let row =
            Self { keys, file_bytes, clean: Opened::of(clean), killed, rows_read: Spread::of(rows_read) };
        row.print();
        row
    }

    fn print(&self) {
        for (after, opened) in [("a clean close", &self.clean), ("a kill", &self.killed)] {
            let (rate, first) = (opened.keys_a_second, opened.first_begin_ms);
            println!(
                "  after {after:<14} {:>7.2} ({:.2} .. {:.2})   first begin {:.0} ms ({:.0} .. {:.0})   {:.2} of redb's reading",
                rate.median,
                rate.min,
                rate.max,
                first.median,
                first.min,
                first.max,
                rate.median / self.rows_read.median
            );
        }
        let rows = self.rows_read;
        println!("  redb reads the rows  {:>7.2} ({:.2} .. {:.2})", rows.median, rows.min, rows.max);
    }

    fn bars(&self) -> Vec<(String, f64)> {
        vec![
            ("idemkv, clean close".to_owned(), self.clean.keys_a_second.median),
            ("idemkv, kill".to_owned(), self.killed.keys_a_second.median),
            ("redb, the same rows".to_owned(), self.rows_read.median),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "keys": self.keys, "file_bytes": self.file_bytes, "clean": self.clean.json(), "killed": self.killed.json(),
            "redb_reads_rows": self.rows_read.json(),
            "ours_to_reading": rounded(self.clean.keys_a_second.median / self.rows_read.median),
        })
    }
}

impl Opened {
    fn of(rounds: Vec<Timed>) -> Self {
        Self {
            keys_a_second: Spread::of(
                rounds.iter().map(|timed| timed.keys as f64 / timed.opened.as_secs_f64() / 1e6),
            ),
            first_begin_ms: Spread::of(rounds.iter().map(|timed| millis(timed.answered))),
        }
    }

    fn json(&self) -> Value {
        json!({ "million_keys_a_second": self.keys_a_second.json(), "first_begin_ms": self.first_begin_ms.json() })
    }
}

struct Timed {
    keys: u64,
    /// Until every key was there.
    opened: Duration,
    /// Until the first begin was answered.
    answered: Duration,
}

fn timed(path: &Path, keys: u64) -> Timed {
    let started = Instant::now();
    let engine = unsynced().open(path).expect("the engine opens");
    let is_done =
        |number| matches!(engine.default_scope().begin(as_str(&key(number)), REQUEST), Ok(Begin::Done(_)));
    assert!(is_done(keys / 3), "a key that was done is not");
    let answered = started.elapsed();
    while (engine.stats().entries as u64) < keys {
        std::thread::yield_now();
    }
    let opened = started.elapsed();
    assert!([0, keys / 2, keys - 1].into_iter().all(is_done), "a key that was done is not");
    engine.close().expect("the engine closes");
    Timed { keys, opened, answered }
}

/// The time redb takes to open the file and to read every byte of the rows that an engine has to
/// read.
fn read_rows(path: &Path, keys: u64) -> Duration {
    let started = Instant::now();
    let database = redb::Database::open(path).expect("redb opens the file");
    let table = database.begin_read().and_then(|read| Ok(read.open_table(INDEX))).expect("a transaction");
    let mut bytes = 0;
    let mut sum = 0_u64;
    for row in table.expect("the table is there").iter().expect("it can be read") {
        let (_, row) = row.expect("a row");
        bytes += row.value().len() as u64;
        sum = row.value().iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
    }
    std::hint::black_box(sum);
    assert!(bytes > 26 * keys, "these are not the rows that an opening reads");
    started.elapsed()
}

/// Has a process open the file, complete some more, and die over it.
fn kill_over(path: &Path, from: u64) {
    let output = Command::new(env::current_exe().expect("this program has a name"))
        .arg("open")
        .env(CHILD, format!("{from} {}", path.display()))
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !said.contains("panicked"), "{}: {said}", output.status);
}

fn child(told: &str) -> ! {
    let (from, path) = told.split_once(' ').expect("a number and a path");
    let (from, path) = (from.parse::<u64>().expect("a number"), PathBuf::from(path));
    let engine: Engine = unsynced().open(path).expect("the engine opens");
    fill(&engine, from..from + MORE, body);
    abort()
}
