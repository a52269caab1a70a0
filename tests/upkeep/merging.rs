//! Small blocks become one: what few records cost that are stored few at a time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, done, fresh};
use idemkv::sim::{CrashKind, SimDisk};
use idemkv::tables::redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use idemkv::{Completion, Engine, Policy, Scope, Status, Verify};

const BLOCKS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("idemkv.blocks");
/// How many small blocks may be left of each kind.
const LEFT: u64 = 16;

fn open(machine: &Machine) -> Engine {
    // Records are read from where they lie.
    machine.options().cache_bytes(0).open("x.idem").unwrap()
}

/// Blocks of the file, as it is on the disk.
fn blocks(disk: &SimDisk) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy");
    std::fs::write(&path, disk.read(Path::new("x.idem")).unwrap()).unwrap();
    let database = Database::open(&path).unwrap();
    let table = database.begin_read().unwrap().open_table(BLOCKS).unwrap();
    table.len().unwrap()
}

fn complete_in(scope: &Scope, key: &str) {
    let record = fresh(scope, key).complete_in(|_| Ok::<_, std::io::Error>(format!("body of {key}")));
    assert_eq!(record.unwrap().body(), format!("body of {key}").as_bytes());
}

fn is_done(scope: &Scope, key: &str) {
    assert_eq!(done(scope, key).body(), format!("body of {key}").as_bytes());
}

#[test]
fn completions_in_transactions_come_to_as_few_blocks_as_others() {
    const KEYS: u64 = 2_000;
    let machine = Machine::default();
    let engine = open(&machine);
    let scope = default_scope(&engine);
    for n in 0..KEYS {
        complete_in(&scope, &n.to_string());
        machine.clock.advance(Duration::from_millis(100));
    }
    let found = blocks(&machine.disk);
    assert!(found <= KEYS / 16 + LEFT, "{found} blocks of {KEYS} records");
    for n in 0..KEYS {
        is_done(&scope, &n.to_string());
    }
    drop(scope);
    machine.kill(engine);
    let engine = open(&machine);
    let scope = default_scope(&engine);
    assert_eq!(engine.stats().entries, 2_000);
    for n in 0..KEYS {
        is_done(&scope, &n.to_string());
    }
    // And they go as all others do.
    machine.clock.advance(TTL);
    for _ in 0..20 {
        machine.clock.advance(Duration::from_secs(100));
        engine.step();
    }
    assert_eq!((engine.stats().entries, blocks(&machine.disk)), (0, 0));
}

/// Blocks used to stay as they were from then on, in transactions of applications.
#[test]
fn completions_in_transactions_merge_again_some_time_after_a_read_has_failed() {
    const KEYS: u64 = 300;
    let machine = Machine::default();
    let day = Duration::from_secs(86_400);
    let options =
        || machine.options().cache_bytes(0).verify(Verify::UpTo(0)).policy(Policy::default().ttl(day));
    let engine = options().open("x.idem").unwrap();
    (0..12).for_each(|n| complete_in(&default_scope(&engine), &format!("before {n}")));
    for n in 0..600 {
        let other = fresh(&default_scope(&engine), &format!("other {n}"));
        drop(other.complete_with([7; 4_000], Completion::new().ttl(30 * day)).unwrap());
    }
    engine.close().unwrap();
    let engine = options().open("x.idem").unwrap();
    let scope = default_scope(&engine);
    for round in 0..3 {
        // These are more than redb keeps in memory, so it has no page of the others there.
        (0..600).for_each(|n| drop(done(&scope, &format!("other {n}"))));
        let is_refused = |n: &u64| {
            machine.disk.fail_read(machine.disk.reads() + n);
            let claim = fresh(&scope, &format!("meanwhile {round} {n}"));
            claim.complete_in(|_| Ok::<_, std::io::Error>("reply")).is_err()
        };
        let refused = (0..40).filter(is_refused).count();
        machine.disk.mend();
        assert!(refused > 0, "{round}");
        engine.step();
        // The same time after each: merges have succeeded in between.
        machine.clock.advance(Duration::from_secs(660));
        let before = blocks(&machine.disk);
        (0..KEYS).for_each(|n| complete_in(&scope, &format!("{round} {n}")));
        let more = blocks(&machine.disk).saturating_sub(before);
        assert!(more <= KEYS / 16 + LEFT, "{round}: {more} more blocks of {KEYS} records, {refused} refused");
        (0..KEYS).for_each(|n| is_done(&scope, &format!("{round} {n}")));
    }
}

#[test]
fn records_with_lives_of_all_lengths_are_merged_with_their_like_alone() {
    let machine = Machine::default();
    let engine = open(&machine);
    let lives = [60, 3_600, 86_400, 30 * 86_400_u64];
    let scopes = lives.map(|seconds| {
        let policy = Policy::default().ttl(Duration::from_secs(seconds));
        engine.set_policy(format!("scope {seconds}"), policy).unwrap()
    });
    for n in 0..800 {
        complete_in(&scopes[n % 4], &n.to_string());
    }
    let found = blocks(&machine.disk);
    assert!(found <= 800 / 16 + 4 * LEFT, "{found} blocks");
    // A body is gone from the file when its time is over, whatever it was merged with.
    machine.clock.advance(Duration::from_secs(60));
    engine.step();
    let after = blocks(&machine.disk);
    for (n, scope) in (0..800).zip(scopes.iter().cycle()) {
        let status = scope.get(n.to_string()).unwrap();
        assert_eq!(matches!(status, Status::Vacant), n % 4 == 0, "{n}: {status}");
    }
    assert!(after < found, "{found} blocks, then {after}");
    assert_eq!(engine.stats().entries, 600);
}

#[test]
fn what_is_forgotten_or_has_run_again_does_not_come_back_with_what_is_merged() {
    let machine = Machine::rerun();
    let engine = open(&machine);
    let scope = default_scope(&engine);
    for n in 0..8 {
        complete_in(&scope, &n.to_string());
    }
    // Forgotten before, with what has merged them, and run again.
    assert!(scope.forget("0").is_ok() && scope.forget("1").is_ok());
    complete_in(&scope, "1");
    for n in 8..14 {
        complete_in(&scope, &n.to_string());
    }
    assert!(scope.forget("2").is_ok() && scope.forget("3").is_ok());
    let claim = fresh(&scope, "3");
    for n in 14..40 {
        complete_in(&scope, &n.to_string());
    }
    assert!(blocks(&machine.disk) <= LEFT + 2);
    let check = |scope: &Scope| {
        for n in (4..40).chain([1]) {
            is_done(scope, &n.to_string());
        }
        for n in ["0", "2"] {
            assert!(matches!(scope.get(n), Ok(Status::Vacant)), "{n}");
        }
    };
    check(&scope);
    drop((claim, scope));
    machine.kill(engine);
    let engine = open(&machine);
    let scope = default_scope(&engine);
    check(&scope);
    assert!(matches!(scope.get("3"), Ok(Status::Interrupted(_))));
}

#[test]
fn a_crash_at_any_operation_of_a_merge_finds_every_record() {
    let machine = Machine::default();
    let engine = open(&machine);
    let scope = default_scope(&engine);
    let mut merges = 0;
    for n in 0..40 {
        let before = blocks(&machine.disk);
        machine.disk.record();
        complete_in(&scope, &n.to_string());
        let moments = machine.disk.take_moments();
        if blocks(&machine.disk) > before {
            continue;
        }
        merges += 1;
        for moment in moments {
            for kind in [CrashKind::KeepAll, CrashKind::DropAll, CrashKind::Torn(moment.number())] {
                let image = moment.image(kind);
                let engine = machine.options().disk(&image).cache_bytes(0).open("x.idem").unwrap();
                let scope = default_scope(&engine);
                for n in 0..n {
                    is_done(&scope, &n.to_string());
                }
            }
        }
    }
    assert!(merges >= 2, "{merges} merges");
}

#[test]
fn a_full_disk_puts_a_merge_off_and_loses_nothing() {
    let machine = Machine::default();
    let engine = open(&machine);
    let scope = default_scope(&engine);
    let mut refused = 0;
    for n in 0..200 {
        let key = n.to_string();
        if n % 3 == 0 {
            machine.disk.fill_from(machine.disk.operations());
            let failed = fresh(&scope, &key)
                .complete_in(|tables| {
                    let bulk = TableDefinition::<'_, u64, &[u8]>::new("bulk");
                    tables.open_table(bulk)?.insert(n, &*vec![7; 60_000])?;
                    Ok::<_, Box<dyn std::error::Error>>(format!("body of {key}"))
                })
                .is_err();
            refused += u64::from(failed);
            machine.disk.mend();
            if !matches!(scope.get(&key), Ok(Status::Done(_))) {
                scope.forget(&key).unwrap();
                complete_in(&scope, &key);
            }
        } else {
            complete_in(&scope, &key);
        }
        for n in 0..=n {
            is_done(&scope, &n.to_string());
        }
    }
    assert!(refused > 3, "{refused}");
}

/// Readers of records on disk hold a place while its block goes: they find the record all the
/// same.
#[test]
fn a_record_is_replayed_while_its_block_is_merged() {
    let machine = Machine::default();
    let engine = open(&machine);
    let scope = default_scope(&engine);
    let there = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for start in 0..2 {
            let (scope, there, stop) = (scope.clone(), &there, &stop);
            threads.spawn(move || {
                for n in (start..).step_by(7) {
                    let count = there.load(Ordering::Acquire);
                    if count > 0 {
                        is_done(&scope, &(n % count).to_string());
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        for n in 0..600 {
            complete_in(&scope, &n.to_string());
            there.store(n + 1, Ordering::Release);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
