//! Blocks of records whose bodies expired: they go, and the tombstones in them stay.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, done, fresh, request};
use crate::helpers::{TOMBSTONE_TTL, expired, open, open_uncached};
use idemkv::sim::CrashKind;
use idemkv::{Begin, BeginError, Status, Verify};

/// Forgotten while it was live, so that its row hides its block by number; the rest of the block
/// then moves to a higher number.
#[test]
fn a_forgotten_record_does_not_move_with_the_rest_of_its_block() {
    let machine = Machine::default();
    let engine = open(&machine);
    let scope = default_scope(&engine);
    for key in ["kept", "forgotten", "forgotten late", "run again"] {
        fresh(&scope, key).complete("reply").unwrap();
    }
    engine.checkpoint().unwrap();
    assert!(scope.forget("forgotten").unwrap());
    assert!(scope.forget("run again").unwrap());
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL / 2);
    fresh(&scope, "run again").complete("second").unwrap();
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL / 2);
    // In the very checkpoint that moves the block.
    assert!(scope.forget("forgotten late").unwrap());
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().reclaimed_blocks, 1);
    drop(scope);
    machine.kill(engine);
    let engine = open(&machine);
    let scope = default_scope(&engine);
    expired(&scope, "kept");
    assert!(matches!(scope.get("forgotten").unwrap(), Status::Vacant));
    assert!(matches!(scope.get("forgotten late").unwrap(), Status::Vacant));
    assert_eq!(done(&scope, "run again").body(), b"second");
}

#[test]
fn bodies_leave_memory_and_disk_when_they_expire_and_keys_stay() {
    const KEYS: usize = 600;
    let machine = Machine::default();
    let engine = machine.options().tombstone_ttl(TOMBSTONE_TTL).cache_bytes(64 << 20).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    for n in 0..KEYS {
        fresh(&scope, &format!("key {n}")).complete([7; 4_000]).unwrap();
    }
    engine.checkpoint().unwrap();
    engine.step();
    engine.step();
    let full = engine.stats();
    assert!(full.cached_bytes > KEYS * 4_000 && full.file_bytes > (KEYS * 4_000) as u64);
    machine.clock.advance(TTL);
    engine.step();
    assert!(engine.stats().cached_bytes < 4_096, "{:?}", engine.stats());
    // Nothing is written for a while, so the file is compacted.
    engine.step();
    machine.clock.advance(Duration::from_secs(10));
    engine.step();
    let small = engine.stats();
    assert_eq!(small.entries, KEYS);
    assert!(small.file_bytes < full.file_bytes / 2, "{} bytes of {}", small.file_bytes, full.file_bytes);
    for n in 0..KEYS {
        expired(&scope, &format!("key {n}"));
    }
}

#[test]
fn blocks_are_reclaimed_some_at_a_time_and_every_key_is_answered_all_the_while() {
    const KEYS: usize = 1_500;
    let machine = Machine::default();
    let engine = open_uncached(&machine);
    let scope = default_scope(&engine);
    for n in 0..KEYS {
        fresh(&scope, &format!("key {n}")).complete([7; 4_096]).unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL);
    let mut last = engine.stats().reclaimed_blocks;
    loop {
        engine.checkpoint().unwrap();
        let reclaimed = engine.stats().reclaimed_blocks;
        // Of 64 KiB each, and their part of the index: no more than 4 MiB and the last of them.
        assert!(reclaimed - last <= 64, "{} blocks in one step", reclaimed - last);
        for n in 0..KEYS {
            expired(&scope, &format!("key {n}"));
        }
        if reclaimed == last {
            break;
        }
        last = reclaimed;
    }
    assert!(last > 64, "the test needs more than one step, {last} blocks went");
}

/// The old block goes and the new one comes in one transaction: at every operation of it a crash
/// finds one of the two.
#[test]
fn a_crash_at_any_operation_of_a_reclaim_finds_every_tombstone_and_nothing_forgotten() {
    let script = |machine: &Machine| {
        let engine = open(machine);
        let scope = default_scope(&engine);
        for key in ["a", "b", "forgotten", "forgotten now"] {
            fresh(&scope, key).complete(format!("reply {key}")).unwrap();
        }
        engine.checkpoint().unwrap();
        assert!(scope.forget("forgotten").unwrap());
        engine.checkpoint().unwrap();
        machine.clock.advance(TTL / 2);
        fresh(&scope, "live").complete("reply live").unwrap();
        machine.clock.advance(TTL / 2);
        assert!(scope.forget("forgotten now").unwrap());
        engine
    };
    let machine = Machine::default();
    let engine = script(&machine);
    let first = machine.disk.operations();
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().reclaimed_blocks, 1);
    let last = machine.disk.operations();
    drop(engine);
    assert!(last > first + 2);
    for operation in first..=last {
        for kind in
            [CrashKind::KeepAll, CrashKind::DropAll, CrashKind::Torn(operation), CrashKind::Torn(!operation)]
        {
            let context = format!("crash at operation {operation}, {kind:?}");
            let machine = Machine::default();
            let engine = script(&machine);
            machine.disk.crash_at(operation);
            drop(engine.checkpoint());
            drop(engine);
            machine.disk.reboot(kind);
            for round in 0..3 {
                let engine = open_uncached(&machine);
                let scope = default_scope(&engine);
                assert_eq!(expired(&scope, "a").expired(), expired(&scope, "b").expired(), "{context}");
                assert_eq!(done(&scope, "live").body(), b"reply live", "{context}");
                for key in ["forgotten", "forgotten now"] {
                    assert!(
                        matches!(scope.get(key).unwrap(), Status::Vacant),
                        "{context}, round {round}: {key}"
                    );
                }
                engine.checkpoint().unwrap();
                drop(scope);
                engine.close().unwrap();
            }
        }
    }
}

/// Readers of records on disk hold a place while its block goes: whatever they see, it is never
/// "run it".
#[test]
fn a_late_retry_in_the_middle_of_a_reclaim_is_never_granted() {
    const KEYS: usize = 64;
    for _ in 0..6 {
        let machine = Machine::default();
        let engine = open_uncached(&machine);
        let scope = default_scope(&engine);
        for n in 0..KEYS {
            fresh(&scope, &format!("key {n}")).complete([7; 4_000]).unwrap();
        }
        engine.checkpoint().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            for start in 0..2 {
                let (scope, stop, engine) = (scope.clone(), &stop, &engine);
                threads.spawn(move || {
                    for n in (start..).step_by(7) {
                        let key = format!("key {}", n % KEYS);
                        match scope.begin(&key, request()) {
                            Ok(Begin::Done(_)) | Err(BeginError::Expired(_)) => {}
                            other => panic!("{key}: {other:?}"),
                        }
                        let status = scope.get(&key).unwrap();
                        assert!(matches!(status, Status::Done(_) | Status::Expired(_)), "{key}: {status:?}");
                        if n % KEYS == 0 {
                            assert_eq!(engine.entries().map(Result::unwrap).count(), KEYS);
                        }
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            machine.clock.advance(TTL);
            for _ in 0..20 {
                engine.checkpoint().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(engine.stats().reclaimed_blocks > 0);
    }
}

#[test]
fn a_full_disk_puts_a_reclaim_off_and_loses_no_tombstone() {
    // redb's file has slack of a size that is its own affair; at some number of keys the
    // tombstones don't fit into it.
    let put_off = (1..=8).filter(|n| reclaim_on_a_full_disk(n * 400)).count();
    assert!(put_off > 0, "the test needs a reclaim that does not fit");
}

/// Whether the reclaim had to wait for room.
fn reclaim_on_a_full_disk(keys: usize) -> bool {
    let machine = Machine::default();
    let engine = open_uncached(&machine);
    let scope = default_scope(&engine);
    for n in 0..keys {
        fresh(&scope, &format!("key {n}")).complete("reply").unwrap();
    }
    engine.checkpoint().unwrap();
    fresh(&scope, "in the log").complete("reply").unwrap();
    machine.clock.advance(TTL);
    machine.disk.set_capacity(Some(machine.disk.used()));
    let put_off = engine.checkpoint().is_err();
    for n in 0..keys {
        expired(&scope, &format!("key {n}"));
    }
    assert!(scope.forget("key 0").unwrap() && scope.forget("in the log").unwrap());
    machine.disk.set_capacity(None);
    machine.clock.advance(Duration::from_secs(1));
    // One checkpoint drops a bounded number of blocks.
    for _ in 0..4 {
        engine.checkpoint().unwrap();
    }
    assert!(engine.stats().reclaimed_blocks > 0);
    assert!(engine.stats().cached_bytes < 4_096, "{:?}", engine.stats());
    drop(scope);
    machine.kill(engine);
    let scope = default_scope(&open(&machine));
    for n in 1..keys {
        expired(&scope, &format!("key {n}"));
    }
    assert!(matches!(scope.get("key 0").unwrap(), Status::Vacant));
    assert!(matches!(scope.get("in the log").unwrap(), Status::Vacant));
    put_off
}

/// A block that can't be read can't be moved: its keys are answered with the damage for as long as
/// they would have been remembered.
#[test]
fn a_damaged_block_stays_and_its_keys_are_never_granted() {
    let machine = Machine::default();
    let engine = open(&machine);
    let body = b"a body to be found in the file";
    fresh(&default_scope(&engine), "damaged").complete(body).unwrap();
    engine.close().unwrap();
    let file = Path::new("x.idem");
    let image = machine.disk.read(file).unwrap();
    let at = image.windows(body.len()).position(|bytes| bytes == body).unwrap();
    assert!(machine.disk.flip(file, at as u64 * 8));

    let options = machine.options().tombstone_ttl(TOMBSTONE_TTL).verify(Verify::UpTo(0));
    let engine = options.open("x.idem").unwrap();
    let scope = default_scope(&engine);
    machine.clock.advance(TTL);
    for _ in 0..3 {
        engine.checkpoint().unwrap();
        let refused = scope.begin("damaged", request());
        assert!(matches!(refused, Err(BeginError::Damaged(_))), "{refused:?}");
    }
    assert_eq!(engine.stats().reclaimed_blocks, 0);
    fresh(&scope, "whole").complete("reply").unwrap();
    let checkpoints = engine.stats().checkpoints;
    machine.clock.advance(Duration::from_secs(60));
    engine.step();
    assert_eq!(engine.stats().checkpoints, checkpoints, "a block that can't go is not tried at every step");
    machine.clock.advance(TOMBSTONE_TTL);
    engine.step();
    assert_eq!(engine.stats().reclaimed_blocks, 1);
    fresh(&scope, "damaged").complete("reply").unwrap();
}

/// The store's syncs take four seconds. What counted from the start of a checkpoint was over when it
/// ended, so one followed the other without a pause.
#[test]
fn on_a_slow_disk_commits_for_expiry_rest_ten_times_as_long_as_one_takes() {
    let machine = Machine::default();
    let engine = machine.options().ttl(Duration::from_secs(60)).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    for n in 0..200 {
        fresh(&scope, &format!("{n}")).complete("reply").unwrap();
        machine.clock.advance(Duration::from_secs(1));
        if n % 10 == 9 {
            engine.checkpoint().unwrap();
        }
    }
    let clock = machine.clock.clone();
    machine.disk.before_syncs(move |name| {
        if name == "x.idem" {
            clock.advance(Duration::from_secs(4));
        }
    });
    let mut began = Vec::new();
    for turn in 0..600 {
        let at = machine.clock.wall_millis();
        began.extend(engine.step().checkpointed.then_some(at));
        machine.clock.advance(Duration::from_millis(500));
        // Seldom, so that no checkpoint comes for the log.
        if turn % 20 == 0 {
            fresh(&scope, &format!("more {turn}")).complete("reply").unwrap();
        }
    }
    let apart: Vec<_> = began.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(apart.len() > 2 && apart.iter().all(|apart| *apart >= 40_000), "{apart:?}");
}
