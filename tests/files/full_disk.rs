//! A process that starts on a full disk: what was done is replayed, and the engine goes on when
//! there is space again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{Machine, done, fresh, request};
use idemkv::sim::{DiskFault, SimDisk};
use idemkv::{Begin, BeginError, Busy, Engine, OpenError, Status};

const KEYS: usize = 40;

fn body(key: usize) -> Vec<u8> {
    vec![u8::try_from(key).unwrap(); 100 * (key % 30)]
}

/// A file whose results are in the log, in the store, or in both; a claim is out. Not one byte
/// more fits the disk, and the process is killed.
fn killed_on_a_full_disk(machine: &Machine, checkpoint_at: usize) {
    let engine = machine.open();
    let scope = engine.scope("");
    for key in 0..KEYS {
        if key == checkpoint_at {
            engine.checkpoint().unwrap();
        }
        fresh(&scope, &key.to_string()).complete(body(key)).unwrap();
    }
    let lost = fresh(&scope, "lost");
    machine.disk.set_capacity(Some(machine.disk.used()));
    machine.kill((lost, scope, engine));
}

#[track_caller]
fn has_all(engine: &Engine) {
    for key in 0..KEYS {
        assert_eq!(done(&engine.scope(""), &key.to_string()).body(), body(key), "key {key}");
    }
    assert!(matches!(engine.default_scope().get("lost"), Ok(Status::Interrupted(_))));
}

/// Whether a claim is refused for the full disk. Where the store found space inside its file it is
/// granted.
#[track_caller]
fn is_refused(engine: &Engine) -> bool {
    match engine.default_scope().begin("new", request()) {
        Err(BeginError::Busy(Busy::DiskFull(_))) => true,
        Ok(Begin::Fresh(claim)) => {
            claim.release().unwrap();
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn results_are_replayed_and_claims_refused_until_there_is_space_again() {
    let mut refusals = 0;
    for checkpoint_at in [0, KEYS / 2, KEYS - 1, KEYS] {
        let machine = Machine::default();
        killed_on_a_full_disk(&machine, checkpoint_at);
        // A supervisor starts it again and again.
        for _ in 0..3 {
            let engine = machine.open();
            has_all(&engine);
            refusals += usize::from(is_refused(&engine));
            engine.step();
            has_all(&engine);
            machine.kill(engine);
        }
        let engine = machine.open();
        is_refused(&engine);
        machine.disk.set_capacity(None);
        machine.clock.advance(Duration::from_secs(1));
        engine.step();
        assert!(!is_refused(&engine));
        has_all(&engine);
        fresh(&engine.scope(""), "new").complete("new").unwrap();
        machine.kill(engine);
        let engine = machine.open();
        has_all(&engine);
        assert_eq!(done(&engine.scope(""), "new").body(), b"new");
    }
    assert!(refusals >= 6, "the disk was full {refusals} times");
}

/// Claims take all log space there is, and the disk has none for more.
fn claims_until_the_disk_is_full(engine: &Engine) -> Vec<idemkv::Claim> {
    let mut claims = Vec::new();
    loop {
        match engine.default_scope().begin(format!("claim {}", claims.len()), request()) {
            Ok(Begin::Fresh(claim)) => claims.push(claim),
            Err(BeginError::Busy(Busy::DiskFull(_))) => return claims,
            other => panic!("{other:?}"),
        }
    }
}

/// A log with segments, in a file that has room of its own.
fn open_with_room_in_the_file(machine: &Machine) -> Engine {
    let options = machine.options().max_body_bytes(4_000).batch_bytes(4_096);
    let engine = options.log_segment_bytes(64 << 10).log_bytes(1 << 20).open("x.idem").unwrap();
    for n in 0..100 {
        fresh(&engine.scope(""), &format!("before {n}")).complete(vec![7; 3_000]).unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(2 * crate::common::TTL);
    (0..3).for_each(|_| engine.checkpoint().unwrap());
    engine
}

#[test]
fn space_in_the_log_that_a_checkpoint_made_ends_a_full_disk() {
    let machine = Machine::default();
    let engine = open_with_room_in_the_file(&machine);
    machine.disk.set_capacity(Some(machine.disk.used()));
    for claim in claims_until_the_disk_is_full(&engine) {
        claim.complete(vec![b'x'; 1_000]).unwrap();
    }
    assert!(engine.stats().is_disk_full);
    for _ in 0..10 {
        machine.clock.advance(Duration::from_secs(1));
        engine.checkpoint().unwrap();
        engine.step();
    }
    fresh(&engine.scope(""), "new").complete("reply").unwrap();
    assert!(!engine.stats().is_disk_full, "the log has all the space that it wants");
}

#[test]
fn a_begin_is_not_refused_for_a_disk_that_was_full_before_it_came() {
    let scratch = SimDisk::new();
    let options = Engine::options().disk(&scratch).max_body_bytes(4_000).batch_bytes(4_096);
    let engine = options.log_segment_bytes(64 << 10).log_bytes(1 << 20).open("x.idem").unwrap();
    scratch.set_capacity(Some(scratch.used()));
    let claims = claims_until_the_disk_is_full(&engine);
    assert!(!claims.is_empty());
    scratch.set_capacity(None);
    drop(fresh(&engine.scope(""), "there is room now"));
}

#[test]
fn closing_on_a_disk_that_is_still_full_says_so_and_loses_nothing() {
    let machine = Machine::default();
    killed_on_a_full_disk(&machine, 0);
    let engine = machine.open();
    has_all(&engine);
    let closed = engine.close();
    assert!(closed.is_err(), "{closed:?}");
    machine.disk.restart_process();
    machine.disk.set_capacity(None);
    has_all(&machine.open());
}

/// What was read may be known to the operating system alone, after a sync that failed. It is made
/// durable before it is shown.
#[test]
fn what_is_replayed_on_a_full_disk_survives_a_power_cut() {
    for cut in [idemkv::sim::CrashKind::DropAll, idemkv::sim::CrashKind::Torn(7)] {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = engine.scope("");
        let claim = fresh(&scope, "key");
        machine.disk.fail_syncs(Some("-wal"));
        let failed = claim.complete("reply");
        assert!(failed.is_err());
        machine.disk.fail_syncs(None);
        machine.disk.set_capacity(Some(machine.disk.used()));
        machine.kill((scope, engine));
        let engine = machine.open();
        let shown = matches!(engine.default_scope().get("key"), Ok(Status::Done(_)));
        machine.disk.crash_at(machine.disk.operations());
        drop(engine);
        machine.disk.reboot(cut);
        machine.disk.set_capacity(None);
        let engine = machine.open();
        let still = matches!(engine.default_scope().get("key"), Ok(Status::Done(_)));
        assert!(!shown || still, "what was replayed before the power cut is gone");
    }
}

/// Each of the worker's tries used to write the log once more, for as long as the disk was full.
#[test]
fn on_a_full_disk_the_log_is_made_durable_once_and_not_at_each_try() {
    let machine = Machine::default();
    let options = || machine.options().log_segment_bytes(64 << 10).log_bytes(1 << 20);
    let engine = options().open("x.idem").unwrap();
    let scope = engine.scope("");
    for key in 0..200 {
        fresh(&scope, &key.to_string()).complete(vec![7; 2_000]).unwrap();
    }
    machine.disk.set_capacity(Some(machine.disk.used()));
    machine.kill((scope, engine));
    let engine = options().open("x.idem").unwrap();
    assert!(engine.stats().is_disk_full && is_refused(&engine));
    let syncs = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&syncs);
    machine.disk.before_syncs(move |name| {
        seen.fetch_add(u64::from(name.ends_with("-wal")), Ordering::Relaxed);
    });
    let written = machine.disk.written();
    for _ in 0..10 {
        machine.clock.advance(Duration::from_secs(1));
        engine.step();
    }
    assert!(engine.stats().is_disk_full);
    let written = machine.disk.written() - written;
    assert_eq!(syncs.load(Ordering::Relaxed), 0, "and {written} bytes were written");
    machine.disk.set_capacity(None);
    machine.clock.advance(Duration::from_secs(1));
    engine.step();
    assert!(!is_refused(&engine));
    let scope = engine.scope("");
    (0..200).for_each(|key| assert_eq!(done(&scope, &key.to_string()).body(), [7; 2_000]));
}

#[test]
fn a_log_that_can_not_be_made_durable_again_is_not_shown() {
    let machine = Machine::default();
    killed_on_a_full_disk(&machine, 0);
    let before = machine.disk.operations();
    // The opening fails for every operation that fails, or it shows what is durable.
    for number in before..before + 400 {
        let disk: SimDisk = machine.disk.image(idemkv::sim::CrashKind::KeepAll);
        let machine = Machine { disk, ..machine.clone() };
        machine.disk.set_capacity(Some(machine.disk.used()));
        let start = machine.disk.operations();
        machine.disk.fault_at(start + number - before, DiskFault::Error);
        match machine.options().open("x.idem") {
            Ok(engine) => {
                has_all(&engine);
                machine.disk.crash_at(machine.disk.operations());
                drop(engine);
                machine.disk.reboot(idemkv::sim::CrashKind::DropAll);
                has_all(&machine.open());
                if number > before + 60 {
                    break;
                }
            }
            Err(error) => assert!(matches!(error, OpenError::Io(_)), "{error}"),
        }
    }
}

#[test]
fn a_file_that_was_closed_cleanly_opens_on_a_full_disk_without_its_log() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&engine.scope(""), "key").complete("reply").unwrap();
    engine.close().unwrap();
    // Somebody needed the space at once.
    assert!(machine.disk.remove(Path::new("x.idem-wal")));
    machine.disk.set_capacity(Some(machine.disk.used()));
    let engine = machine.open();
    assert_eq!(done(&engine.scope(""), "key").body(), b"reply");
    assert!(is_refused(&engine));
    machine.disk.set_capacity(None);
    machine.clock.advance(Duration::from_secs(1));
    engine.step();
    assert!(matches!(engine.default_scope().begin("new", request()), Ok(Begin::Fresh(_))));
}

/// The log gets another size at an opening that runs out of space anywhere on its way.
#[test]
fn a_log_that_was_replaced_before_the_disk_was_full_is_not_taken_for_one_that_was_taken_away() {
    let (mut opened_full, mut operation) = (0, 0);
    loop {
        let machine = Machine::default();
        let engine = machine.open();
        for key in 0..KEYS {
            fresh(&engine.scope(""), &key.to_string()).complete(body(key)).unwrap();
        }
        let lost = fresh(&engine.scope(""), "lost");
        machine.kill((lost, engine));
        let full_from = machine.disk.operations() + operation;
        machine.disk.fault_at(full_from, DiskFault::Full);
        let engine = match machine.options().log_segment_bytes(128 << 10).open("x.idem") {
            Ok(engine) => engine,
            Err(OpenError::Io(failure)) if failure.is_disk_full() => {
                operation += 1;
                continue;
            }
            Err(error) => panic!("operation {operation}: {error}"),
        };
        let is_over = machine.disk.operations() <= full_from;
        opened_full += usize::from(engine.stats().is_disk_full);
        engine.step();
        has_all(&engine);
        machine.disk.mend();
        machine.clock.advance(Duration::from_secs(1));
        engine.step();
        assert!(!engine.stats().has_failed, "operation {operation}");
        fresh(&engine.scope(""), "new").complete("new").unwrap();
        has_all(&engine);
        engine.close().unwrap();
        if is_over {
            break;
        }
        operation += 1;
    }
    assert!(opened_full > 3, "{opened_full}");
}
