//! What a key takes in memory: an engine with its bodies on disk, and with them in memory, beside
//! maps from keys to bodies.
//!
//! Each is filled in a process of its own, which tells how many bytes of anonymous memory it took.

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::figures::rounded;
use crate::fill::{fill, in_parallel, open_to_fill, unsynced};
use crate::keys::{as_str, key};
use crate::map::MAPS;
use crate::options::Options;
use crate::plot::Plot;

const SIZES: [usize; 2] = [1_000_000, 10_000_000];
const BODY: [u8; 80] = [b'x'; 80];
/// Tells a process what to hold: name, number of keys, directory.
const CHILD: &str = "PEERS_MEMORY_CHILD";
/// The engine with its bodies on disk: what it takes beside them.
const BESIDE: &str = "idemkv, bodies on disk";
const WITH: &str = "idemkv, bodies in memory";

pub(crate) fn run(options: &Options) {
    if let Ok(told) = env::var(CHILD) {
        child(&told);
        return;
    }
    println!("bytes of memory a key, of 36 bytes, with a body of {}", BODY.len());
    let mut plot = Plot::new("Memory: bytes a key");
    let mut rows = Vec::new();
    for keys in options.sizes_or(&SIZES) {
        println!("{keys} keys");
        let ours = [BESIDE, WITH].into_iter().filter(|name| *name == BESIDE || options.wants("bodies"));
        let maps = MAPS.iter().map(|(name, _)| *name).filter(|name| options.wants(name));
        let figures: Vec<_> = ours.chain(maps).map(|name| (name, measured(name, keys, options))).collect();
        plot.group(
            format!("{keys} keys"),
            figures.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect(),
        );
        let figures: serde_json::Map<_, _> =
            figures.iter().map(|(name, bytes)| ((*name).to_owned(), Value::from(rounded(*bytes)))).collect();
        rows.push(json!({ "keys": keys, "bytes_a_key": figures }));
    }
    plot.write("memory");
    println!("{}", json!({ "memory": rows }));
}

/// Bytes a key.
fn measured(name: &str, keys: usize, options: &Options) -> f64 {
    let scratch = options.scratch();
    if name == BESIDE {
        // What is measured is an engine that finds the records there: filling takes buffers that
        // are not given back.
        let engine = open_to_fill(&scratch.path().join("memory.idem"), 0);
        fill(&engine, 0..keys as u64, |number| options.bodies.of(number));
        engine.close().expect("the engine closes");
    }
    let output = Command::new(env::current_exe().expect("this program has a name"))
        .arg("memory")
        .env(CHILD, format!("{name}:{keys}:{}", scratch.path().display()))
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of bytes");
    println!("{name:>26} {:>8.1}", bytes / keys as f64);
    bytes / keys as f64
}

fn child(told: &str) {
    let mut parts = told.split(':');
    let (Some(name), Some(keys), Some(dir)) = (parts.next(), parts.next(), parts.next()) else {
        panic!("{told}: a name, a number of keys, a directory")
    };
    let (keys, dir): (u64, _) = (keys.parse().expect("a number"), Path::new(dir));
    let before = anonymous_bytes();
    let taken = || anonymous_bytes() - before;
    let bytes = if name == BESIDE {
        let engine = unsynced().cache_bytes(0).open(dir.join("memory.idem")).expect("the engine opens");
        while (engine.stats().entries as u64) < keys {
            std::thread::yield_now();
        }
        taken()
    } else if name == WITH {
        let engine = open_to_fill(&dir.join("memory.idem"), usize::MAX / 2);
        fill(&engine, 0..keys, |_| &BODY);
        engine.checkpoint().expect("the log is moved");
        taken()
    } else {
        let (_, make) = MAPS.iter().find(|(map, _)| *map == name).expect("a map of this name");
        let map = make(keys as usize);
        in_parallel(0..keys, 1_000, |numbers| {
            numbers.for_each(|number| map.insert(as_str(&key(number)).to_owned(), Arc::from(BODY)));
        });
        taken()
    };
    println!("{bytes}");
}

/// Memory of this process that is no file's.
pub(crate) fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a system that tells");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line on it");
    let kibibytes = line.trim().trim_end_matches(" kB");
    1_024 * kibibytes.parse::<usize>().expect("a number of kibibytes")
}
