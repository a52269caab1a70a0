//! Backups of engines at work, on a simulated disk.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{Machine, default_scope, done, fresh, request};
use idemkv::sim::{CrashKind, DiskFault};
use idemkv::tables::redb::{ReadableTable, TableDefinition};
use idemkv::{BackupError, Begin, CommitError, Completion, Durability, Engine, OpenError, Status};

const COPY: &str = "copy.idem";
const TABLE: TableDefinition<'_, &str, u64> = TableDefinition::new("ours");

fn open_copy(machine: &Machine) -> Engine {
    machine.options().open(COPY).unwrap()
}

/// An engine with records on disk, in the log, and a claim that is out.
fn filled(machine: &Machine) -> Engine {
    let engine = machine.open();
    let scope = default_scope(&engine);
    for n in 0..40 {
        fresh(&scope, &format!("{n}")).complete([n; 3_000]).unwrap();
        if n % 10 == 9 {
            engine.checkpoint().unwrap();
        }
    }
    for n in 40..50 {
        fresh(&scope, &format!("{n}")).complete([n; 300]).unwrap();
    }
    engine
}

#[track_caller]
fn check_filled(engine: &Engine, context: &str) {
    let scope = default_scope(engine);
    for n in 0..50 {
        let len = if n < 40 { 3_000 } else { 300 };
        assert_eq!(done(&scope, &format!("{n}")).body(), vec![n; len], "{context}: {n}");
    }
}

/// Whatever of a backup is on the disk.
fn remains(machine: &Machine) -> Vec<&'static str> {
    [COPY, "copy.idem-unfinished", "copy.idem-wal"]
        .into_iter()
        .filter(|name| machine.disk.read(Path::new(name)).is_some())
        .collect()
}

/// It removed what had the temporary name, whoever was writing to it by then.
#[test]
fn a_backup_that_fails_leaves_a_file_alone_that_another_engine_has_under_its_temporary_name() {
    let machine = Machine::default();
    let engine = filled(&machine);
    let other = machine.options().open("other.idem").unwrap();
    let disk = machine.disk.clone();
    machine.disk.before_syncs(move |name| {
        if name.ends_with("-unfinished") {
            assert!(disk.remove(Path::new(name)));
            assert!(disk.rename(Path::new("other.idem"), Path::new(name)));
            disk.fail_syncs(Some("-unfinished"));
        }
    });
    drop(engine.backup(COPY).unwrap_err());
    machine.disk.before_syncs(|_| {});
    machine.disk.mend();
    assert_eq!(remains(&machine), ["copy.idem-unfinished"]);
    drop(other);
}

#[test]
fn a_backup_opens_at_once_with_all_that_was_acknowledged_and_claims_in_flight_are_interrupted() {
    let machine = Machine::default();
    let engine = filled(&machine);
    let scope = default_scope(&engine);
    let held = fresh(&scope, "held");
    drop(fresh(&scope, "dropped"));
    let paid = fresh(&scope, "paid");
    paid.complete_in(|tables| {
        tables.open_table(TABLE)?.insert("balance", 7)?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>("reply")
    })
    .unwrap();
    engine.set_policy("jobs", engine.policy().max_in_flight(3)).unwrap();

    let backup = engine.backup(COPY).unwrap();
    assert_eq!(backup.time, engine.now());
    assert_eq!(backup.bytes, machine.disk.read(Path::new(COPY)).unwrap().len() as u64);
    assert_eq!(remains(&machine), [COPY], "it needs no log");

    let copy = open_copy(&machine);
    check_filled(&copy, "the backup");
    for key in ["held", "dropped"] {
        assert!(
            matches!(copy.default_scope().get(key).unwrap(), Status::Interrupted(earlier) if earlier.attempt() == 1)
        );
    }
    assert_eq!(done(&default_scope(&copy), "paid").body(), b"reply");
    let balance = copy.read_tables(|tables| {
        let table = tables.open_table(TABLE).unwrap();
        table.get("balance").unwrap().unwrap().value()
    });
    assert_eq!(balance.unwrap(), 7);
    assert_eq!(copy.policies(), engine.policies());
    // The original knows nothing of it.
    held.complete("late").unwrap();
    assert!(matches!(copy.default_scope().get("held").unwrap(), Status::Interrupted(_)));
    drop((copy, scope));
    engine.close().unwrap();
    check_filled(&machine.open(), "the original");
}

#[test]
fn a_restored_backup_refuses_the_log_of_the_file_that_it_replaces() {
    let machine = Machine::default();
    let engine = filled(&machine);
    engine.backup(COPY).unwrap();
    fresh(&default_scope(&engine), "later").complete("reply").unwrap();
    machine.kill(engine);
    assert!(machine.disk.rename(Path::new(COPY), Path::new("x.idem")));
    let refused = machine.options().open("x.idem").unwrap_err();
    assert!(
        matches!(&refused, OpenError::LogBesideBackup(log) if log == Path::new("x.idem-wal")),
        "{refused}"
    );
    assert!(machine.disk.remove(Path::new("x.idem-wal")));
    let restored = machine.open();
    check_filled(&restored, "restored");
    let scope = default_scope(&restored);
    assert!(matches!(scope.begin("later", request()), Ok(Begin::Fresh(_))), "it is unknown, and runs again");
}

#[test]
fn what_exists_is_never_overwritten() {
    let machine = Machine::default();
    let engine = filled(&machine);
    for name in [COPY, "copy.idem-wal"] {
        machine.disk.put(Path::new(name), b"precious").unwrap();
        let refused = engine.backup(COPY).unwrap_err();
        assert!(matches!(&refused, BackupError::Exists(path) if path == Path::new(name)), "{refused}");
        assert_eq!(machine.disk.read(Path::new(name)).unwrap(), b"precious");
        assert!(machine.disk.remove(Path::new(name)));
    }
    assert!(matches!(engine.backup("x.idem").unwrap_err(), BackupError::Exists(_)));
    assert!(remains(&machine).is_empty());
    engine.backup(COPY).unwrap();
}

#[test]
fn a_backup_of_a_closed_engine_or_inside_a_transaction_is_refused() {
    let machine = Machine::default();
    let engine = filled(&machine);
    let scope = default_scope(&engine);
    fresh(&scope, "key")
        .complete_in(|_| {
            assert!(matches!(engine.backup(COPY), Err(BackupError::InsideTransaction)));
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>("reply")
        })
        .unwrap();
    engine.clone().close().unwrap();
    assert!(matches!(engine.backup(COPY), Err(BackupError::Commit(CommitError::Closed))));
    assert!(remains(&machine).is_empty());
}

#[test]
fn a_full_disk_or_an_error_at_any_operation_leaves_nothing_behind_and_harms_nobody() {
    let first = Machine::default();
    let engine = filled(&first);
    let before = first.disk.operations();
    engine.backup(COPY).unwrap();
    let operations = first.disk.operations() - before;
    assert!(operations > 10);
    drop(engine);
    for fault in [DiskFault::Full, DiskFault::Error] {
        for number in 0..operations {
            let machine = Machine::default();
            let engine = filled(&machine);
            machine.disk.fault_at(machine.disk.operations() + number, fault);
            let made = engine.backup(COPY);
            machine.disk.mend();
            let context = format!("{fault:?} at {number}: {:?}", made.as_ref().err());
            match &made {
                Ok(_) => check_filled(&open_copy(&machine), &context),
                // A last name that can't be taken away may stay; it is the next backup's to take.
                Err(_) => {
                    assert!(
                        remains(&machine).iter().all(|name| *name == "copy.idem-unfinished"),
                        "{context}"
                    );
                }
            }
            check_filled(&engine, &context);
            drop(engine);
            check_filled(&machine.open(), &context);
        }
    }
}

/// In its last steps the copy is not locked. A second backup of that name emptied it.
#[test]
fn one_backup_is_made_at_a_time_until_it_has_its_name() {
    let machine = Machine::default();
    let engine = Arc::new(filled(&machine));
    let (weak, others) = (Arc::downgrade(&engine), Arc::new(Mutex::new(Vec::new())));
    let (seen, is_second) = (Arc::clone(&others), AtomicBool::new(false));
    machine.disk.before_syncs(move |name| {
        let is_copy = name == "copy.idem-unfinished" && !is_second.load(Ordering::Relaxed);
        let Some(engine) = weak.upgrade().filter(|_| is_copy) else { return };
        is_second.store(true, Ordering::Relaxed);
        let other = std::thread::spawn(move || engine.backup(COPY));
        seen.lock().unwrap().push(other.join().unwrap());
        is_second.store(false, Ordering::Relaxed);
    });
    engine.backup(COPY).unwrap();
    machine.disk.before_syncs(|_| {});
    let others = std::mem::take(&mut *others.lock().unwrap());
    assert!(others.len() > 2, "copied, sealed and named");
    assert!(others.iter().all(|other| matches!(other, Err(BackupError::Running))), "{others:?}");
    check_filled(&open_copy(&machine), "the copy");
}

#[test]
fn a_target_without_room_is_an_error_and_the_engine_goes_on() {
    let machine = Machine::default();
    let engine = filled(&machine);
    engine.checkpoint().unwrap();
    machine.disk.set_capacity(Some(machine.disk.used() + (100 << 10)));
    let BackupError::Io(failure) = engine.backup(COPY).unwrap_err() else { panic!("there is no room") };
    assert!(failure.is_disk_full(), "{failure}");
    assert!(remains(&machine).is_empty());
    fresh(&default_scope(&engine), "next").complete("reply").unwrap();
    machine.disk.set_capacity(None);
    engine.backup(COPY).unwrap();
    check_filled(&open_copy(&machine), "with room");
}

#[test]
fn a_crash_at_any_operation_of_a_backup_leaves_the_original_whole_and_a_backup_only_whole() {
    let machine = Machine::default();
    let engine = filled(&machine);
    machine.disk.record();
    engine.backup(COPY).unwrap();
    let moments = machine.disk.take_moments();
    for moment in &moments {
        for kind in [CrashKind::KeepAll, CrashKind::DropAll, CrashKind::Torn(1)] {
            let context = format!("{:?} at {}", kind, moment.number());
            let machine = Machine { disk: moment.image(kind), ..machine.clone() };
            check_filled(&machine.open(), &context);
            if machine.disk.read(Path::new(COPY)).is_some() {
                check_filled(&open_copy(&machine), &context);
            }
        }
    }
    // It is durable once it has its name.
    let crashed = Machine { disk: machine.disk.image(CrashKind::DropAll), ..machine.clone() };
    check_filled(&open_copy(&crashed), "right after it");
}

/// What is written to the file while it is copied: checkpoints of other threads, blocks that go, a
/// file that grows.
#[test]
fn backups_under_load_have_all_that_was_acknowledged_before_they_began_and_nothing_torn() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    let dir = tempfile::tempdir().unwrap();
    let engine =
        crate::common::small(Engine::options()).cache_bytes(0).open(dir.path().join("x.idem")).unwrap();
    let (acknowledged, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let body = |n: u64| n.to_le_bytes().repeat(1 + (n % 300) as usize);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let scope = default_scope(&engine);
            for n in 0.. {
                if is_over.load(Ordering::Acquire) {
                    break;
                }
                let claim = fresh(&scope, &format!("{n}"));
                if n % 7 == 0 {
                    let short = Completion::new().ttl(std::time::Duration::from_millis(50));
                    drop(claim.complete_with("gone soon", short).unwrap());
                } else {
                    drop(claim.complete(body(n)).unwrap());
                }
                acknowledged.store(n + 1, Ordering::Release);
            }
        });
        threads.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                engine.checkpoint().unwrap();
            }
        });
        for round in 0..6 {
            let before = acknowledged.load(Ordering::Acquire);
            let path = dir.path().join(format!("copy {round}"));
            engine.backup(&path).unwrap();
            let copy = Engine::open(&path).unwrap();
            let scope = default_scope(&copy);
            for n in (0..before).filter(|n| n % 7 != 0) {
                assert_eq!(
                    done(&scope, &format!("{n}")).body(),
                    body(n),
                    "backup {round}, key {n} of {before}"
                );
            }
            for entry in copy.entries() {
                assert!(!matches!(entry.unwrap().status(), Status::Vacant));
            }
            copy.close().unwrap();
        }
        is_over.store(true, Ordering::Release);
    });
    engine.close().unwrap();
}

#[test]
fn a_backup_of_a_name_that_no_engine_can_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("x.idem")).unwrap();
    for len in 238..=255 {
        let path = dir.path().join("n".repeat(len));
        match engine.backup(&path) {
            Ok(_) => drop(Engine::open(&path).unwrap()),
            Err(error) => {
                assert!(matches!(error, BackupError::Copy(OpenError::NameTooLong { .. })), "{error}");
                assert!(len > 240 && !path.exists(), "{len}");
            }
        }
    }
}

#[test]
fn one_backup_is_made_at_a_time_and_closing_ends_one() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("x.idem")).unwrap();
    let scope = default_scope(&engine);
    for n in 0..400 {
        fresh(&scope, &format!("{n}")).complete(vec![7; 100_000]).unwrap();
    }
    let ended = std::thread::scope(|threads| {
        let backup = threads.spawn(|| engine.backup(dir.path().join("copy")));
        engine.clone().close().unwrap();
        backup.join().unwrap()
    });
    match ended {
        Err(BackupError::Commit(CommitError::Closed)) => assert!(!dir.path().join("copy").exists()),
        // It was there first.
        Ok(_) => drop(Engine::open(dir.path().join("copy")).unwrap()),
        Err(other) => panic!("{other}"),
    }
    assert!(!dir.path().join("copy-unfinished").exists());
}

/// The rest may be long, if checkpoints write faster than the backup copies.
#[test]
fn closing_ends_a_backup_in_its_last_round_too() {
    let machine = Machine::default();
    let engine = filled(&machine);
    let before = engine.stats().checkpoints;
    let (theirs, closes) = (engine.clone(), Arc::new(Mutex::new(None)));
    let close = Arc::clone(&closes);
    machine.disk.before_reads(move |name| {
        let mut close = close.lock().unwrap();
        // Before the last round there is a second checkpoint.
        if name == "x.idem" && close.is_none() && theirs.stats().checkpoints == before + 2 {
            let (engine, theirs) = (theirs.clone(), theirs.clone());
            *close = Some(std::thread::spawn(move || engine.close()));
            while theirs.default_scope().get("1").is_ok() {
                std::thread::yield_now();
            }
        }
    });
    let ended = engine.backup(COPY);
    assert!(matches!(ended, Err(BackupError::Commit(CommitError::Closed))), "{ended:?}");
    machine.disk.before_reads(|_| {});
    let close = closes.lock().unwrap().take().unwrap();
    close.join().unwrap().unwrap();
    assert_eq!(remains(&machine), [""; 0]);
}

#[test]
fn a_backup_has_what_was_acknowledged_before_it_was_durable() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let policy = engine.policy().durability(Durability::Relaxed(Duration::from_secs(60)));
    let scope = engine.set_policy("clicks", policy).unwrap();
    assert!(!fresh(&scope, "key").complete("reply").unwrap().is_durable());
    engine.backup(COPY).unwrap();
    let copy = open_copy(&machine);
    assert_eq!(done(&copy.scope("clicks"), "key").body(), b"reply");
}

#[test]
fn a_backup_on_a_full_disk_says_that_it_is_full_and_not_that_the_engine_stopped() {
    let tried = |fault: Option<u64>| {
        let machine = Machine::default();
        let engine = filled(&machine);
        let before = machine.disk.operations();
        if let Some(at) = fault {
            machine.disk.fault_at(before + at, DiskFault::Full);
        }
        let made = engine.backup(COPY);
        (machine.disk.operations() - before, made, engine.stats().has_failed)
    };
    let (operations, made, _) = tried(None);
    made.unwrap();
    for at in 0..operations {
        let (_, made, has_failed) = tried(Some(at));
        if let Err(BackupError::Commit(error)) = &made {
            assert_eq!(matches!(error, CommitError::Failed(_)), has_failed, "operation {at}: {error}");
        }
    }
}
