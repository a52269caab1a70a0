//! Room in the file comes back on an idle engine, at a cost in proportion to what is gained, and
//! never twice for nothing.

use std::time::Duration;

use crate::common::{Machine, fresh};
use idemkv::{Engine, Policy, Verify};

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
