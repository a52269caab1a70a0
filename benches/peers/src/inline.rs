//! What it would bring to keep records in the table's own memory: two sketches of an index, beside
//! the fastest map.
//!
//! Both do what no lookup can do without (a digest, a lock, finding the record, checking it) and
//! nothing else. `apart` is laid out as the engine is: cells of 32 bytes, each record an
//! allocation. In `inline` references of 8 bytes lead to records that lie in large pieces of
//! memory, so that one cache miss with its walk of the page tables is over early. A lookup copies
//! the record out or, for comparison, only reads a byte of it and gives nothing owned. Records
//! have 256 bytes in both, as the engine's have with names and times; the map keeps bodies of 80
//! bytes, and its keys.

use std::hash::Hasher;
use std::hint::black_box;

use crossbeam_utils::CachePadded;
use parking_lot::RwLock;
use serde_json::json;
use siphasher::sip128::{Hasher128, SipHasher13};
use triomphe::ThinArc;

use crate::figures::Spread;
use crate::keys::{as_str, key};
use crate::lookup::{Order, THREADS, touch};
use crate::map::Map;
use crate::options::Options;

const SIZES: [usize; 3] = [100_000, 1_000_000, 10_000_000];
const SHARDS: usize = 64;
/// Body, names, and what a lookup does not read.
const REST: usize = 176;
/// Records in a piece of memory.
const PIECE: usize = 1_024;

trait Sketch: Sync {
    fn insert(&mut self, digest: u128);
    fn look_up(&self, digest: u128);
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    expires: u64,
    fingerprint: [u8; 32],
    other: [u64; 2],
}

const HEADER: Header = Header { expires: u64::MAX, fingerprint: [7; 32], other: [0; 2] };

impl Header {
    fn check(&self) {
        assert!(self.expires > 5 && self.fingerprint == [7; 32], "the record is another one");
    }
}

/// Cells that lead to records, each with an allocation of its own.
struct Apart(Vec<CachePadded<RwLock<Vec<Cell>>>>);

type Cell = Option<(u128, ThinArc<Header, u8>)>;

impl Apart {
    fn new(keys: usize) -> Self {
        Self((0..SHARDS).map(|_| CachePadded::new(RwLock::new(vec![None; cells(keys)]))).collect())
    }
}

impl Sketch for Apart {
    fn insert(&mut self, digest: u128) {
        let shard = self.0[shard(digest)].get_mut();
        let free = probe(digest, shard.len()).find(|at| shard[*at].is_none()).expect("there is room");
        shard[free] = Some((digest, ThinArc::from_header_and_slice(HEADER, &[b'x'; REST])));
    }

    fn look_up(&self, digest: u128) {
        let shard = self.0[shard(digest)].read();
        let found = probe(digest, shard.len()).find_map(|at| match &shard[at] {
            Some((other, record)) if *other == digest => Some(record.clone()),
            Some(_) => None,
            None => panic!("the key is missing"),
        });
        drop(shard);
        let record = found.expect("the key is there");
        record.header.header.check();
        touch(&record.slice);
        black_box(&record);
    }
}

#[repr(C, align(64))]
struct Entry {
    digest: u128,
    header: Header,
    rest: [u8; REST],
}

struct Inline {
    shards: Vec<CachePadded<RwLock<Pieces>>>,
    is_owned: bool,
}

/// References (32 bits of the digest, then the number of the record from 1 on) and records.
struct Pieces {
    references: Vec<u64>,
    pieces: Vec<Vec<Entry>>,
}

impl Inline {
    fn new(keys: usize) -> Self {
        let shard = || Pieces { references: vec![0; cells(keys)], pieces: Vec::new() };
        Self { shards: (0..SHARDS).map(|_| CachePadded::new(RwLock::new(shard()))).collect(), is_owned: true }
    }
}

impl Sketch for Inline {
    fn insert(&mut self, digest: u128) {
        let shard = self.shards[shard(digest)].get_mut();
        if shard.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            shard.pieces.push(Vec::with_capacity(PIECE));
        }
        let piece = shard.pieces.last_mut().expect("there is one");
        piece.push(Entry { digest, header: HEADER, rest: [b'x'; REST] });
        let last = piece.len();
        let number = ((shard.pieces.len() - 1) * PIECE + last) as u64;
        let references = &mut shard.references;
        let free = probe(digest, references.len()).find(|at| references[*at] == 0).expect("there is room");
        references[free] = tag(digest) << 32 | number;
    }

    fn look_up(&self, digest: u128) {
        let shard = self.shards[shard(digest)].read();
        let found = probe(digest, shard.references.len()).find_map(|at| {
            let reference = shard.references[at];
            assert!(reference > 0, "the key is missing");
            let number = (reference & u64::from(u32::MAX)) as usize - 1;
            let entry = || &shard.pieces[number / PIECE][number % PIECE];
            (reference >> 32 == tag(digest)).then(entry).filter(|entry| entry.digest == digest)
        });
        let entry = found.expect("the key is there");
        entry.header.check();
        if self.is_owned {
            let record = ThinArc::from_header_and_slice(entry.header, &entry.rest);
            drop(shard);
            touch(&record.slice);
            black_box(&record);
        } else {
            touch(&entry.rest);
        }
    }
}

pub(crate) fn run(options: &Options) {
    println!("million lookups a second: median of slices");
    let threads = options.threads_or(&THREADS);
    let mut rows = Vec::new();
    for keys in options.sizes_or(&SIZES) {
        let order = Order::new(keys, options);
        let (mut apart, mut inline) = (Apart::new(keys), Inline::new(keys));
        let map = papaya::HashMap::<String, std::sync::Arc<[u8]>>::new();
        for number in 0..keys as u64 {
            let key = key(number);
            apart.insert(digest(&key));
            inline.insert(digest(&key));
            Map::insert(&map, as_str(&key).to_owned(), std::sync::Arc::from([b'x'; 80]));
        }
        for threads in threads.iter().copied() {
            let mut figures = [const { Vec::new() }; 4];
            for round in 0..order.rounds() {
                let slice = |look_up: &(dyn Fn(&[u8; 36]) + Sync)| {
                    order.slice(threads, round, |numbers| {
                        numbers.iter().for_each(|number| look_up(&key(*number)))
                    })
                };
                inline.is_owned = true;
                figures[0].push(slice(&|key| apart.look_up(digest(key))));
                figures[1].push(slice(&|key| inline.look_up(digest(key))));
                figures[3].push(slice(&|key| touch(&Map::get(&map, as_str(key)).expect("the key is there"))));
                inline.is_owned = false;
                figures[2].push(slice(&|key| inline.look_up(digest(key))));
            }
            let [apart, inline, not_owned, papaya] = figures.map(Spread::of);
            println!(
                "{keys:>10} keys, {threads} threads: apart {:.2}, inline {:.2} (not owned {:.2}), papaya {:.2}",
                apart.median, inline.median, not_owned.median, papaya.median
            );
            rows.push(json!({
                "keys": keys, "threads": threads, "apart": apart.json(), "inline": inline.json(),
                "inline_not_owned": not_owned.json(), "papaya": papaya.json(),
            }));
        }
    }
    println!("{}", json!({ "inline": rows }));
}

fn digest(key: &[u8; 36]) -> u128 {
    let mut hasher = SipHasher13::new_with_keys(3, 7);
    hasher.write(key);
    hasher.finish128().as_u128()
}

fn shard(digest: u128) -> usize {
    digest as usize % SHARDS
}

fn tag(digest: u128) -> u64 {
    u64::from((digest >> 32) as u32)
}

/// Cells of a shard that is as full as those of the engine are in the mean.
fn cells(keys: usize) -> usize {
    keys / SHARDS * 3 / 2 + 16
}

/// The cells where a key may be, in order.
fn probe(digest: u128, cells: usize) -> impl Iterator<Item = usize> {
    let home = ((digest >> 64) * cells as u128 >> 64) as usize;
    (home..cells).chain(0..home)
}
