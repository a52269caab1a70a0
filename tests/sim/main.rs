//! A simulated world: a disk, a clock, an engine without threads and its callers, all driven by
//! one seed.
//!
//! Scripts run on a disk that records, so that a crash at every write, change of length and sync
//! can be looked at, with unsynced writes kept, dropped or torn, and again while recovering; on
//! disks that fail, fill up and flip bits; and on clocks that jump. After each crash everything
//! acknowledged must be there and nothing else. A failure prints the seed, and the smallest script
//! that still fails.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

#[path = "../common/budget.rs"]
mod budget;
mod calls;
mod ending;
mod exhaustive;
mod flip;
mod harm;
mod moments;
mod oracle;
mod script;
mod setting;
mod shrink;
mod tasks;
mod world;

use std::collections::BTreeMap;

use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{Engine, Status};

use crate::budget::Budget;
use crate::flip::Flips;
use crate::harm::Harm;
use crate::moments::Watch;
use crate::script::{Random, Script};
use crate::setting::{START_MS, TTL, fingerprint, name, options};
use crate::shrink::{attempt, examine, shrink};
use crate::world::World;

/// Operations of a script.
const STEPS: usize = 120;

/// Runs a script, and looks at what a crash at each of the disk's operations leaves.
fn crash_everywhere(script: &Script) -> World {
    let mut world = World::new(Watch::every_operation(script.seed));
    world.run(script);
    world
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged_and_invents_nothing() {
    let rig = "sim::a_crash_at_any_operation_loses_nothing_acknowledged_and_invents_nothing";
    let mut budget = Budget::new(rig, "crash images", 9);
    let mut met = BTreeMap::new();
    while let Some(seed) = budget.next_seed() {
        let world = examine(&Script::draw(seed, STEPS), crash_everywhere);
        budget.count(world.watch.images);
        for (what, times) in &world.met {
            *met.entry(*what).or_insert(0) += times;
        }
    }
    let missed: Vec<_> = world::TO_MEET.iter().filter(|what| !met.contains_key(*what)).collect();
    assert!(missed.is_empty(), "no script met {missed:?}, only {met:?}");
}

#[test]
fn a_file_made_at_the_edges_of_time_loses_nothing_either() {
    let rig = "sim::a_file_made_at_the_edges_of_time_loses_nothing_either";
    let mut budget = Budget::new(rig, "crash images", 3);
    while let Some(seed) = budget.next_seed() {
        let world = examine(&Script::draw_at_an_edge(seed, STEPS / 2), crash_everywhere);
        budget.count(world.watch.images);
    }
}

#[test]
fn crashes_during_recovery_three_deep_lose_nothing_either() {
    let rig = "sim::crashes_during_recovery_three_deep_lose_nothing_either";
    let mut budget = Budget::new(rig, "crash images", 8);
    while let Some(seed) = budget.next_seed() {
        let images = examine(&Script::draw(seed, STEPS), |script| {
            let mut world = World::new(Watch::recoveries(script.seed));
            world.run(script);
            world.watch.images
        });
        budget.count(images);
    }
}

/// The engine goes through the crash itself, in the middle of a call, and is dropped after it.
#[test]
fn an_engine_that_loses_its_disk_in_the_middle_of_a_call_does_no_harm() {
    let rig = "sim::an_engine_that_loses_its_disk_in_the_middle_of_a_call_does_no_harm";
    let mut budget = Budget::new(rig, "crash images", 8);
    while let Some(seed) = budget.next_seed() {
        let images = examine(&Script::draw(seed, STEPS), |script| {
            let mut random = Random::new(script.seed);
            let mut whole = World::new(Watch::nothing());
            whole.run(script);
            for _ in 0..20 {
                let mut world = World::new(Watch::nothing());
                world.disk.crash_at(random.below(whole.disk.operations()));
                world.run(script);
                world.disk.reboot(CrashKind::Torn(random.below(1 << 32)));
                world.recover(random.below(1 << 32));
            }
            20
        });
        budget.count(images);
    }
}

#[test]
fn a_fault_at_any_operation_of_the_disk_loses_nothing_acknowledged() {
    let rig = "sim::a_fault_at_any_operation_of_the_disk_loses_nothing_acknowledged";
    let mut budget = Budget::new(rig, "crash images", 8);
    while let Some(seed) = budget.next_seed() {
        let script = Script::draw(seed, STEPS);
        let mut whole = World::new(Watch::list());
        whole.run(&script);
        let mut random = Random::new(seed);
        for _ in 0..40 {
            let chosen = random.below(whole.watch.operations.len() as u64);
            let (at, operation) = whole.watch.operations[usize::try_from(chosen).unwrap()];
            let harm = match random.below(8) {
                0 => Harm::Read { at: random.below(whole.disk.reads()) },
                _ => Harm::draw(&mut random, at, operation),
            };
            budget.count(examine(&script, |script| {
                let mut world = World::harmed(harm);
                world.run(script);
                world.watch.images
            }));
        }
    }
}

#[test]
fn a_bit_that_flips_after_a_crash_gives_the_right_record_or_an_error_with_the_place() {
    let rig = "sim::a_bit_that_flips_after_a_crash_gives_the_right_record_or_an_error_with_the_place";
    let mut budget = Budget::new(rig, "crash images", 20);
    let mut refused = 0;
    while let Some(seed) = budget.next_seed() {
        let world = examine(&Script::draw(seed, STEPS), |script| {
            let mut world = World::new(Watch::nothing());
            world.flips = Some(Flips::new(script.seed));
            world.run(script);
            world
        });
        budget.count(world.watch.images);
        refused += world.flips.as_ref().map_or(0, |flips| flips.refused);
    }
    assert!(refused > 0, "no flip was noticed: they hit nothing");
}

/// The log knows of the claim and not of its end, and an opening that found it dead anew would
/// remember it for another TTL.
#[test]
fn an_interruption_forgotten_after_its_time_does_not_come_back() {
    let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(START_MS));
    let engine: Engine = options(&disk, &clock).open("x.idem").unwrap();
    drop(engine.default_scope().begin(name(0), fingerprint(0)).unwrap());
    clock.advance(TTL);
    assert!(matches!(engine.default_scope().get(name(0)), Ok(Status::Vacant)));
    assert!(!engine.default_scope().forget(name(0)).unwrap());
    let reopened = options(&disk.image(CrashKind::DropAll), &clock).open("x.idem").unwrap();
    assert!(matches!(reopened.default_scope().get(name(0)), Ok(Status::Vacant)));
}

/// Crashes at every operation of a disk whose syncs of files named so do nothing.
fn crash_everywhere_without_syncs(script: &Script, suffix: &str) {
    let mut world = World::new(Watch::every_operation(script.seed));
    drop(options(&world.disk, &world.clock).open("x.idem").unwrap());
    world.disk.ignore_syncs(suffix);
    world.run(script);
}

/// The rig must be able to fail: a disk that ignores syncs loses acknowledged records, and that
/// must be noticed.
#[test]
fn the_rig_notices_a_disk_that_ignores_syncs() {
    for suffix in ["", "-wal", ".idem"] {
        let scripts = (1..=3).map(|seed| Script::draw(seed, STEPS));
        let caught = scripts.filter(|script| {
            attempt(script, |script| crash_everywhere_without_syncs(script, suffix)).is_err()
        });
        assert!(caught.count() > 0, "no crash was noticed where syncs of `{suffix}` do nothing");
    }
}

/// A planted fault in a long script comes back as a short one.
#[test]
fn a_script_that_fails_is_shrunk_to_a_few_operations_that_still_fail() {
    let run = |script: &Script| crash_everywhere_without_syncs(script, "-wal");
    let script = Script::draw(2, STEPS);
    let failed = attempt(&script, run).expect_err("syncs were ignored");
    let (smallest, _) = shrink(&script, failed, |script| attempt(script, run).err());
    assert!(smallest.ops.len() <= 5, "{smallest:?}");
    assert!(attempt(&smallest, run).is_err());
}
