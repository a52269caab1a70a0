//! An engine with very many keys: what filling, opening, memory and lookups come to. Nothing
//! beside it: no map would hold them.
//!
//! Filled in a process of its own, for that takes buffers that are not given back.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use idemkv::{Begin, Engine, Status};
use serde_json::json;

use crate::figures::rounded;
use crate::fill::{Bodies, REQUEST, fill, open_to_fill, unsynced};
use crate::keys::{as_str, key, mixed};
use crate::lookup::touch;
use crate::memory::anonymous_bytes;
use crate::options::Options;
use crate::plot::Plot;

const SIZES: [usize; 1] = [100_000_000];
const WINDOW: Duration = Duration::from_secs(5);
/// Tells a process what to fill: number of keys, length of bodies, path.
const CHILD: &str = "PEERS_LARGE_CHILD";
/// Keys that are asked for again and again, and are in memory then.
const RECENT: u64 = 100_000;

pub(crate) fn run(options: &Options) {
    if let Ok(told) = env::var(CHILD) {
        child(&told);
        return;
    }
    let mut plot = Plot::new("Very many keys: lookups a second");
    let mut rows = Vec::new();
    for keys in options.sizes_or(&SIZES) {
        let scratch = options.scratch();
        let path = scratch.path().join("large.idem");
        let started = Instant::now();
        filled(&path, keys, options.bodies);
        let filled_a_second = keys as f64 / started.elapsed().as_secs_f64();
        let file_bytes = fs::metadata(&path).expect("the file is there").len();
        println!("{keys} keys, {filled_a_second:.0} a second; a file of {} MB", file_bytes / 1_000_000);

        let before = anonymous_bytes();
        let started = Instant::now();
        let engine = unsynced().open(&path).expect("the engine opens");
        let opened = started.elapsed();
        let bytes_a_key = (anonymous_bytes() - before) as f64 / keys as f64;
        println!("  opened in {:.2} s, {:.1} bytes of memory a key", opened.as_secs_f64(), bytes_a_key);

        let keys = keys as u64;
        let figures = [
            ("records on disk", per_second(options, |draw| replayed(&engine, mixed(draw) % keys))),
            ("records in memory", per_second(options, |draw| replayed(&engine, mixed(draw) % RECENT))),
            ("vacant keys", per_second(options, |draw| vacant(&engine, keys + draw))),
        ];
        figures.iter().for_each(|(name, figure)| println!("  {name:<18} {figure:>10.0} a second"));
        plot.group(
            format!("{keys} keys"),
            figures.iter().map(|(name, figure)| ((*name).to_owned(), *figure)).collect(),
        );
        let lookups: serde_json::Map<_, _> =
            figures.iter().map(|(name, figure)| ((*name).to_owned(), rounded(*figure).into())).collect();
        rows.push(json!({
            "keys": keys, "filled_a_second": rounded(filled_a_second), "file_bytes": file_bytes,
            "open_s": rounded(opened.as_secs_f64()), "bytes_a_key": rounded(bytes_a_key), "lookups_a_second": lookups,
        }));
        engine.close().expect("the engine closes");
    }
    plot.write("large");
    println!("{}", json!({ "large": rows }));
}

fn filled(path: &Path, keys: usize, bodies: Bodies) {
    let body = bodies.bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
    let status = Command::new(env::current_exe().expect("this program has a name"))
        .arg("large")
        .env(CHILD, format!("{keys} {body} {}", path.display()))
        .status()
        .expect("the program starts");
    assert!(status.success(), "filling failed");
}

fn child(told: &str) {
    let mut parts = told.splitn(3, ' ');
    let (Some(keys), Some(body), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        panic!("{told}: a number of keys, a length, a path")
    };
    let bodies = Bodies { bytes: body.parse().ok() };
    let engine = open_to_fill(&PathBuf::from(path), 0);
    fill(&engine, 0..keys.parse().expect("a number"), |number| bodies.of(number));
    engine.close().expect("the engine closes");
}

fn per_second(options: &Options, each: impl Fn(u64)) -> f64 {
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < options.time_or(WINDOW) {
        (done..done + 100).for_each(&each);
        done += 100;
    }
    done as f64 / started.elapsed().as_secs_f64()
}

fn replayed(engine: &Engine, number: u64) {
    match engine.default_scope().begin(as_str(&key(number)), REQUEST) {
        Ok(Begin::Done(record)) => touch(record.body()),
        other => panic!("key {number} was {other:?}"),
    }
}

fn vacant(engine: &Engine, number: u64) {
    assert!(
        matches!(engine.default_scope().get(as_str(&key(number))), Ok(Status::Vacant)),
        "key {number} was never used"
    );
}
