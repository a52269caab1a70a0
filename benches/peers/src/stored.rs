//! Replay of records that are on disk alone, in the page cache; beside redb's get of the same
//! bodies by a digest of the key.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use idemkv::{Begin, Engine};
use redb::{ReadOnlyTable, ReadableDatabase};
use serde_json::json;

use crate::figures::Spread;
use crate::fill::{Bodies, REQUEST, fill, open_to_fill, unsynced};
use crate::keys::{as_str, key, mixed};
use crate::lookup::{shuffled, touch};
use crate::options::Options;
use crate::plot::Plot;

const SIZES: [usize; 1] = [1_000_000];
const ROUNDS: usize = 7;
const SLICE: Duration = Duration::from_millis(400);
const TABLE: redb::TableDefinition<'_, u128, &[u8]> = redb::TableDefinition::new("bodies");

pub(crate) fn run(options: &Options) {
    let mut plot = Plot::new("Replay from disk: thousand a second");
    let mut rows = Vec::new();
    println!("thousand replays a second, one thread: median, least .. greatest");
    for keys in options.sizes_or(&SIZES) {
        let scratch = options.scratch();
        let engine = filled_engine(scratch.path(), keys, options.bodies);
        let database = filled_redb(scratch.path(), keys, options.bodies);
        let table = database.begin_read().and_then(|read| Ok(read.open_table(TABLE)));
        let table = table.expect("a transaction").expect("the table");
        let order = shuffled(keys);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..options.rounds_or(ROUNDS) {
            let from = order.len() / options.rounds_or(ROUNDS) * round;
            let slice = |each: &dyn Fn(u64)| slice(&order[from..], options.time_or(SLICE), each);
            ours.push(slice(&|number| begin(&engine, number)));
            theirs.push(slice(&|number| get(&table, number)));
        }
        assert!(engine.stats().loaded > engine.stats().replayed / 2, "most records were in memory");
        let ratio = Spread::of(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs));
        let (ours, theirs) = (Spread::of(ours), Spread::of(theirs));
        println!("{keys} keys");
        for (name, figure) in [("idemkv", ours), ("redb", theirs)] {
            println!("{name:>16} {:>8.0} ({:.0} .. {:.0})", figure.median, figure.min, figure.max);
        }
        println!("   ours to redb's: {:.2} ({:.2} .. {:.2})", ratio.median, ratio.min, ratio.max);
        plot.group(
            format!("{keys} keys"),
            vec![("idemkv".to_owned(), ours.median), ("redb".to_owned(), theirs.median)],
        );
        rows.push(
            json!({ "keys": keys, "ours": ours.json(), "redb": theirs.json(), "ours_to_redb": ratio.json() }),
        );
        engine.close().expect("the engine closes");
    }
    plot.write("stored");
    println!("{}", json!({ "stored": rows }));
}

/// An engine that keeps no bodies in memory; redb's own cache under it is as large as beside it.
fn filled_engine(dir: &Path, keys: usize, bodies: Bodies) -> Engine {
    let path = dir.join("stored.idem");
    let engine = open_to_fill(&path, 0);
    fill(&engine, 0..keys as u64, |number| bodies.of(number));
    engine.close().expect("the engine closes");
    unsynced().cache_bytes(0).open(path).expect("the engine opens")
}

fn filled_redb(dir: &Path, keys: usize, bodies: Bodies) -> redb::Database {
    let path = dir.join("redb");
    let database = redb::Database::create(&path).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    let mut table = transaction.open_table(TABLE).expect("a table");
    for number in 0..keys as u64 {
        table.insert(digest(number), bodies.of(number)).expect("a row");
    }
    drop(table);
    transaction.commit().expect("a commit");
    drop(database);
    // As much as an engine that keeps no bodies gives it.
    let ours = fs::metadata(dir.join("stored.idem")).expect("an engine was filled before").len() as usize;
    redb::Builder::new()
        .set_cache_size((ours / 128).clamp(1 << 20, 64 << 20))
        .open(path)
        .expect("it opens again")
}

/// What stands for a digest; it costs nothing to make.
fn digest(number: u64) -> u128 {
    u128::from(mixed(number)) << 64 | u128::from(mixed(!number))
}

fn begin(engine: &Engine, number: u64) {
    match engine.default_scope().begin(as_str(&key(number)), REQUEST) {
        Ok(Begin::Done(record)) => touch(record.body()),
        other => panic!("key {number} was {other:?}"),
    }
}

fn get(table: &ReadOnlyTable<u128, &[u8]>, number: u64) {
    let row = table.get(digest(number)).expect("redb reads").expect("a row");
    // Owned, as a record is.
    touch(&black_box(row.value().to_vec()));
}

/// Thousands a second.
fn slice(order: &[u64], time: Duration, each: &dyn Fn(u64)) -> f64 {
    let (started, mut done) = (Instant::now(), 0);
    for numbers in order.chunks(100).cycle() {
        numbers.iter().for_each(|number| each(*number));
        done += numbers.len();
        if started.elapsed() >= time {
            break;
        }
    }
    done as f64 / started.elapsed().as_secs_f64() / 1e3
}
