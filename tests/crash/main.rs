//! Crashes at every write, change of length and sync of a simulated disk, with unsynced writes kept, dropped or torn,
//! and again while recovering; after each, everything acknowledged must be there and nothing else.
//!
//! The engine runs without threads on a manual clock; a script is drawn from a seed, and a failure prints the seed and the
//! operation that crashed.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod oracle;
mod world;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{Engine, Fingerprint, Options, Scope, Status};

use crate::world::World;

const START_MS: u64 = 1_800_000_000_000;
const TTL: Duration = Duration::from_secs(1_800);
const TOMBSTONE_TTL: Duration = Duration::from_secs(3 * 1_800);
const KEYS: u64 = 5;
/// Keys from this one on are of a scope whose claims have leases, once it was declared.
const LEASED_FROM: u64 = 3;
const LEASE: Duration = Duration::from_secs(300);
/// Operations of a script.
const STEPS: u64 = 90;

fn options(disk: &SimDisk, clock: &ManualClock) -> Options {
    Engine::options()
        .disk(disk)
        .clock(clock)
        .stepped()
        .seed(7)
        .ttl(TTL)
        .tombstone_ttl(TOMBSTONE_TTL)
        .max_body_bytes(4_096)
        .reserve_bytes(4_096)
        .batch_bytes(4_096)
        .log_segment_bytes(64 << 10)
        .log_bytes(256 << 10)
        .shards(2)
        .cache_bytes(8 << 10)
}

fn scope(engine: &Engine, key: u64) -> Scope {
    engine.scope(if key < LEASED_FROM { "" } else { "leased" })
}

fn name(key: u64) -> String {
    format!("key {key}")
}

fn fingerprint(key: u64) -> Fingerprint {
    Fingerprint::of(key.to_le_bytes())
}

/// A small generator, so that a seed means the same script everywhere.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

fn crash_kinds(seed: u64) -> [CrashKind; 4] {
    [CrashKind::KeepAll, CrashKind::DropAll, CrashKind::Torn(seed), CrashKind::Torn(!seed)]
}

/// Opens what a crash left; crashes again at the given operations of the recoveries.
fn recover(mut world: World, kind: CrashKind, again: &[u64]) {
    let context = format!("{}, again at {again:?}", world.context.0);
    world.context.0.clone_from(&context);
    for after in again {
        world.disk.crash_at(world.disk.operations() + after);
        let opened = options(&world.disk, &world.clock).open("x.idem");
        if let Ok(engine) = opened {
            drop(engine);
        }
        world.disk.reboot(kind);
    }
    let engine = match options(&world.disk, &world.clock).open("x.idem") {
        Ok(engine) => engine,
        Err(error) => panic!("{context}: does not open: {error}"),
    };
    world.oracle.check(&engine, &context);
    let key = world.random.below(KEYS);
    world.begin(&engine, key, &mut HashMap::new());
}

/// Crashes at one operation of a seed's script, in every way.
fn crash_at(seed: u64, operation: u64, again: &[u64]) -> u64 {
    let mut world = World::new(seed);
    world.context.0 = format!("seed {seed}, crash at operation {operation}");
    world.disk.crash_at(operation);
    world.run(STEPS);
    for kind in crash_kinds(seed ^ operation) {
        recover(world.image(kind), kind, again);
    }
    4
}

fn operations_of(seed: u64) -> u64 {
    let mut world = World::new(seed);
    world.run(STEPS);
    world.disk.operations()
}

/// More seeds for a longer run: set `IDEMKV_SEEDS` to a factor.
fn seeds(default: u64) -> u64 {
    std::env::var("IDEMKV_SEEDS").ok().and_then(|factor| factor.parse::<u64>().ok()).unwrap_or(1) * default
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged_and_invents_nothing() {
    let (mut images, mut met) = (0, BTreeMap::new());
    for seed in 1..=seeds(6) {
        let mut whole = World::new(seed);
        whole.run(STEPS);
        for (what, times) in whole.met {
            *met.entry(what).or_insert(0) += times;
        }
        for operation in 0..whole.disk.operations() {
            images += crash_at(seed, operation, &[]);
        }
    }
    println!("{images} crash images; the scripts met {met:?}");
    let missed: Vec<_> = world::TO_MEET.iter().filter(|what| !met.contains_key(*what)).collect();
    assert!(missed.is_empty(), "no script met {missed:?}");
}

#[test]
fn crashes_during_recovery_three_deep_lose_nothing_either() {
    let mut images = 0;
    for seed in 100..100 + seeds(12) {
        let total = operations_of(seed);
        let mut random = Random(seed);
        for _ in 0..25 {
            let again = [random.below(40), random.below(40), random.below(40)];
            images += crash_at(seed, random.below(total), &again);
        }
    }
    println!("{images} crash images");
}

/// The log knows of the claim and not of its end, and an opening that found it dead anew would remember it for another TTL.
#[test]
fn an_interruption_forgotten_after_its_time_does_not_come_back() {
    let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(START_MS));
    let engine = options(&disk, &clock).open("x.idem").unwrap();
    drop(engine.begin(name(0), fingerprint(0)).unwrap());
    clock.advance(TTL);
    assert!(matches!(engine.get(name(0)), Ok(Status::Vacant)));
    assert!(!engine.forget(name(0)).unwrap());
    let reopened = options(&disk.image(CrashKind::DropAll), &clock).open("x.idem").unwrap();
    assert!(matches!(reopened.get(name(0)), Ok(Status::Vacant)));
}

/// The rig must be able to fail: a disk that ignores syncs loses acknowledged records, and that must be noticed.
#[test]
fn the_rig_notices_a_disk_that_ignores_syncs() {
    let caught = (0..20).filter(|extra| {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(1);
            drop(options(&world.disk, &world.clock).open("x.idem").unwrap());
            world.disk.ignore_syncs();
            world.disk.crash_at(world.disk.operations() + 30 + extra);
            world.run(STEPS);
            recover(world.image(CrashKind::DropAll), CrashKind::DropAll, &[]);
        });
        outcome.is_err()
    });
    assert!(caught.count() > 0, "no crash without syncs was noticed");
}
