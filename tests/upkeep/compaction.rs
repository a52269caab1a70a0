//! Room in the file comes back on an idle engine, at a cost in proportion to what is gained, and
//! never twice for nothing.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::{Machine, fresh};
use idemkv::{CommitError, Completion, Engine, Policy, Verify};

const SHORT: Duration = Duration::from_secs(1_000);
const LONG: Duration = Duration::from_secs(100 * 24 * 3_600);

/// Some MiB of results, of which so many in a hundred are still live, and how long the file was
/// when all were.
fn mostly_expired(machine: &Machine, mebibytes: u64, live: u64) -> (Engine, u64) {
    let options = machine.options().policy(Policy::default().ttl(SHORT)).cache_bytes(1 << 20);
    let engine = options.open("x.idem").unwrap();
    let long = engine.set_policy("long", Policy::default().ttl(LONG)).unwrap();
    for n in 0..mebibytes * 256 {
        let scope = if n % 100 < live { long.clone() } else { engine.scope("") };
        fresh(&scope, &n.to_string()).complete([7; 3_900]).unwrap();
    }
    engine.checkpoint().unwrap();
    let before = engine.stats().file_bytes;
    machine.clock.advance(SHORT);
    while engine.step().checkpointed {
        machine.clock.advance(Duration::from_secs(25));
    }
    (engine, before)
}

/// Operations of the disk while the worker steps once a second for so long.
fn operations(machine: &Machine, engine: &Engine, time: Duration) -> u64 {
    let before = machine.disk.operations();
    for _ in 0..time.as_secs() {
        machine.clock.advance(Duration::from_secs(1));
        engine.step();
    }
    machine.disk.operations() - before
}

#[test]
fn an_idle_engine_compacts_once_and_not_again_for_commits_that_grow_the_file() {
    for (mebibytes, live) in [(60, 40), (4, 50), (4, 30), (4, 10), (6, 40), (8, 30), (8, 20)] {
        let machine = Machine::default();
        let (engine, before) = mostly_expired(&machine, mebibytes, live);
        operations(&machine, &engine, Duration::from_secs(60));
        let compacted = engine.stats().file_bytes;
        // The time is written to the log now and then.
        let idle = operations(&machine, &engine, Duration::from_secs(900));
        assert!(idle <= 8, "{mebibytes} MiB, {live} %: {idle} operations in a quarter of an hour");
        let long = engine.scope("long");
        for n in 0..3 {
            fresh(&long, &format!("new {n}")).complete([7; 3_900]).unwrap();
            engine.checkpoint().unwrap();
            let again = operations(&machine, &engine, Duration::from_secs(60));
            assert!(again <= 8, "{mebibytes} MiB, {live} %: {again} operations after a commit");
        }
        let after = engine.stats().file_bytes;
        assert!(after <= before, "{mebibytes} MiB, {live} %: {before}, then {compacted}, then {after} bytes");
        let most = mebibytes * (live + 2) * (1 << 20) / 100 * 5 / 2 + (5 << 20);
        assert!(after <= most, "{mebibytes} MiB, {live} %: {after} bytes");
    }
}

#[test]
fn a_file_whose_results_expire_is_compacted_when_all_of_them_are_gone_and_not_each_time() {
    const KEYS: u64 = 9_000;
    let machine = Machine::default();
    let options = machine.options().policy(Policy::default().ttl(SHORT)).cache_bytes(1 << 20);
    let engine = options.log_bytes(8 << 20).open("x.idem").unwrap();
    for n in 0..KEYS {
        fresh(&engine.scope(""), &n.to_string()).complete([7; 3_900]).unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(SHORT);
    let (mut compactions, mut before) = (0, engine.stats().file_bytes);
    // A checkpoint drops some MiB each time.
    for _ in 0..600 {
        machine.clock.advance(Duration::from_secs(1));
        engine.step();
        let after = engine.stats().file_bytes;
        compactions += u64::from(after < before);
        before = after;
    }
    assert!(before < 1 << 20, "{before} bytes");
    assert_eq!(compactions, 1);
}

/// The entry comes while the worker's step is busy with a checkpoint.
#[test]
fn an_engine_whose_checkpoint_took_long_does_not_count_as_idle_since_then() {
    let machine = Machine::default();
    let options = machine.options().policy(Policy::default().ttl(SHORT)).log_bytes(8 << 20);
    let engine = options.open("x.idem").unwrap();
    for n in 0..1_000 {
        fresh(&engine.scope(""), &n.to_string()).complete([7; 3_900]).unwrap();
    }
    let minute = Duration::from_secs(60);
    let late = Completion::new().ttl(SHORT + minute);
    drop(fresh(&engine.scope(""), "late").complete_with([7; 3_900], late).unwrap());
    engine.checkpoint().unwrap();
    machine.clock.advance(SHORT);
    for _ in 0..4 {
        engine.checkpoint().unwrap();
    }
    machine.clock.advance(minute);
    let (theirs, clock, is_first) = (engine.clone(), machine.clock.clone(), AtomicBool::new(true));
    machine.disk.before_syncs(move |name| {
        if name == "x.idem" && is_first.swap(false, Ordering::Relaxed) {
            clock.advance(Duration::from_secs(12));
            let complete = || fresh(&theirs.scope(""), "meanwhile").complete("reply").map(drop);
            thread::scope(|threads| threads.spawn(complete).join().unwrap().unwrap());
        }
    });
    assert!(engine.step().checkpointed);
    machine.disk.before_syncs(|_| {});
    assert!(!engine.step().compacted, "it was busy a moment ago");
    machine.clock.advance(Duration::from_secs(10));
    assert!(engine.step().compacted, "there is nothing to be gained");
}

/// A file with results each of which expires a second after the one before, from now on; each has a
/// block of its own. Each sync of it takes a second.
fn expiring_one_by_one(machine: &Machine) -> Engine {
    let options = machine.options().max_body_bytes(64 << 10).log_segment_bytes(512 << 10);
    let engine = options.log_bytes(8 << 20).open("x.idem").unwrap();
    for n in 0..100 {
        let expires = Completion::new().ttl(SHORT + Duration::from_secs(n));
        let claim = fresh(&engine.scope(""), &n.to_string());
        drop(claim.complete_with(vec![7; 17_000], expires).unwrap());
        engine.checkpoint().unwrap();
    }
    machine.clock.advance(SHORT);
    let clock = machine.clock.clone();
    machine.disk.before_syncs(move |name| {
        if name == "x.idem" {
            clock.advance(Duration::from_secs(1));
        }
    });
    engine
}

/// It led one checkpoint after the other, and nobody else had the file meanwhile.
#[test]
fn a_compaction_on_request_drops_what_has_expired_by_then_and_no_more() {
    let machine = Machine::default();
    let engine = expiring_one_by_one(&machine);
    let before = engine.stats().checkpoints;
    assert!(engine.compact().unwrap());
    let checkpoints = engine.stats().checkpoints - before;
    assert!((1..5).contains(&checkpoints), "{checkpoints} checkpoints");
}

#[test]
fn a_close_ends_a_compaction_on_request_that_has_not_begun_to_move() {
    let machine = Machine::default();
    let engine = expiring_one_by_one(&machine);
    let (before, length) = (engine.stats(), engine.stats().file_bytes);
    let (theirs, clock, closes) = (engine.clone(), machine.clock.clone(), Arc::new(Mutex::new(None)));
    let close = Arc::clone(&closes);
    machine.disk.before_syncs(move |name| {
        let mut close = close.lock().unwrap();
        if name == "x.idem" && close.is_none() {
            clock.advance(Duration::from_secs(1));
            // Not in the first one: that is before the loop.
            if theirs.stats().checkpoints > before.checkpoints {
                let theirs = theirs.clone();
                let engine = theirs.clone();
                *close = Some(thread::spawn(move || engine.close()));
                while theirs.default_scope().get("1").is_ok() {
                    thread::yield_now();
                }
            }
        }
    });
    let compacted = engine.compact();
    assert!(matches!(compacted, Err(CommitError::Closed)), "{compacted:?}");
    machine.disk.before_syncs(|_| {});
    let close = closes.lock().unwrap().take().unwrap();
    close.join().unwrap().unwrap();
    let left = machine.disk.read(Path::new("x.idem")).unwrap().len() as u64;
    assert!(left >= length, "{length} bytes, and then {left}");
}

/// Reads of the disk that an opening makes after a kill.
fn reads_after_a_kill(machine: &Machine, engine: Engine) -> (u64, Engine) {
    machine.kill(engine);
    let before = machine.disk.reads();
    let engine = machine.options().verify(Verify::UpTo(0)).open("x.idem").unwrap();
    (machine.disk.reads() - before, engine)
}

/// After a kill redb repairs a file whose last commit is a compaction's own.
#[test]
fn an_opening_after_a_kill_behind_a_compaction_reads_no_more_than_any_other() {
    let machine = Machine::default();
    let (engine, before) = mostly_expired(&machine, 30, 40);
    operations(&machine, &engine, Duration::from_secs(60));
    assert!(engine.stats().file_bytes < before, "it was compacted");
    let (behind_it, engine) = reads_after_a_kill(&machine, engine);
    fresh(&engine.scope("long"), "new").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    let (behind_a_checkpoint, _engine) = reads_after_a_kill(&machine, engine);
    assert!(behind_it <= behind_a_checkpoint, "{behind_it} reads, and {behind_a_checkpoint}");
}
