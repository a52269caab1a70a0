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

#[path = "../common/budget.rs"]
#[allow(unreachable_pub, reason = "other rigs use it too")]
mod budget;
mod exhaustive;
mod moments;
mod oracle;
mod script;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{Engine, Fingerprint, Options, Scope, Status};

use crate::budget::Budget;
use crate::moments::Watch;
use crate::script::{Random, Script};
use crate::world::World;

const START_MS: u64 = 1_800_000_000_000;
const TTL: Duration = Duration::from_secs(1_800);
const TOMBSTONE_TTL: Duration = Duration::from_secs(3 * 1_800);
const KEYS: u64 = 5;
/// Keys from this one on are of a scope whose claims have leases, once it was declared.
const LEASED_FROM: u64 = 3;
const LEASE: Duration = Duration::from_secs(300);
/// Operations of a script.
const STEPS: usize = 90;

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

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged_and_invents_nothing() {
    let rig = "sim::a_crash_at_any_operation_loses_nothing_acknowledged_and_invents_nothing";
    let mut budget = Budget::new(rig, "crash images", 8);
    let mut met = BTreeMap::new();
    while let Some(seed) = budget.next_seed() {
        let mut world = World::new(Watch::every_operation(seed));
        world.run(&Script::draw(seed, STEPS));
        budget.count(world.watch.images);
        for (what, times) in world.met {
            *met.entry(what).or_insert(0) += times;
        }
    }
    let missed: Vec<_> = world::TO_MEET.iter().filter(|what| !met.contains_key(*what)).collect();
    assert!(missed.is_empty(), "no script met {missed:?}, only {met:?}");
}

#[test]
fn crashes_during_recovery_three_deep_lose_nothing_either() {
    let rig = "sim::crashes_during_recovery_three_deep_lose_nothing_either";
    let mut budget = Budget::new(rig, "crash images", 12);
    while let Some(seed) = budget.next_seed() {
        let mut world = World::new(Watch::recoveries(seed));
        world.run(&Script::draw(seed, STEPS));
        budget.count(world.watch.images);
    }
}

/// The engine goes through the crash itself, in the middle of a call, and is dropped after it.
#[test]
fn an_engine_that_loses_its_disk_in_the_middle_of_a_call_does_no_harm() {
    let rig = "sim::an_engine_that_loses_its_disk_in_the_middle_of_a_call_does_no_harm";
    let mut budget = Budget::new(rig, "crash images", 12);
    while let Some(seed) = budget.next_seed() {
        let (script, mut random) = (Script::draw(seed, STEPS), Random::new(seed));
        let mut whole = World::new(Watch::nothing());
        whole.run(&script);
        for _ in 0..20 {
            let mut world = World::new(Watch::nothing());
            world.disk.crash_at(random.below(whole.disk.operations()));
            world.run(&script);
            world.disk.reboot(CrashKind::Torn(random.below(1 << 32)));
            world.recover(random.below(1 << 32));
            budget.count(1);
        }
    }
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
    for suffix in ["", "-wal", ".idem"] {
        let caught = (1..=3).filter(|seed| {
            let outcome = std::panic::catch_unwind(|| {
                let mut world = World::new(Watch::every_operation(*seed));
                drop(options(&world.disk, &world.clock).open("x.idem").unwrap());
                world.disk.ignore_syncs(suffix);
                world.run(&Script::draw(*seed, STEPS));
            });
            outcome.is_err()
        });
        assert!(caught.count() > 0, "no crash was noticed where syncs of `{suffix}` do nothing");
    }
}
