//! What an engine writes in an hour in which little happens, whatever the length of its file.

use std::time::Duration;

use crate::common::{Machine, fresh};
use idemkv::tables::redb::TableDefinition;
use idemkv::{Engine, Policy};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const MIB: u64 = 1 << 20;
/// What docs/guarantees.md says commits for expiry cost by themselves in an hour.
const BOUND: u64 = 64 * MIB;
/// Bytes of the log for a claim and its completion, and of the store for its record and for the
/// tables that lead there.
const KEY_BYTES: u64 = 2 * 1_024;

fn open(machine: &Machine, ttl: Duration) -> Engine {
    machine.options().policy(Policy::default().ttl(ttl)).open("x.idem").unwrap()
}

/// Makes the file so long, with values that take no memory.
fn lengthen(engine: &Engine, mebibytes: u64) {
    const LARGE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("large");
    let zeros = vec![0; 256 << 20];
    let mut values = 0;
    while engine.stats().file_bytes < mebibytes * MIB {
        let claim = fresh(&engine.scope("large"), &values.to_string());
        let stored = claim.complete_in(|tables| {
            tables.open_table(LARGE)?.insert(values, zeros.as_slice())?;
            Ok::<_, Box<dyn std::error::Error>>("")
        });
        stored.unwrap();
        values += 1;
    }
}

/// Bytes that are written, and checkpoints, in so long; a key is completed every so often.
fn pass(machine: &Machine, engine: &Engine, time: Duration, a_key_every: Option<Duration>) -> (u64, u64) {
    let (bytes, checkpoints) = (machine.disk.written(), engine.stats().checkpoints);
    let tick = SECOND.min(a_key_every.unwrap_or(SECOND));
    let ticks = time.as_millis() / tick.as_millis();
    for n in 0..ticks {
        if a_key_every.is_some_and(|every| n % (every.as_millis() / tick.as_millis()) == 0) {
            let name = format!("{} {n}", machine.disk.operations());
            fresh(&engine.scope(""), &name).complete([7; 100]).unwrap();
        }
        machine.clock.advance(tick);
        engine.step();
    }
    (machine.disk.written() - bytes, engine.stats().checkpoints - checkpoints)
}

#[test]
fn an_idle_engine_writes_next_to_nothing() {
    let machine = Machine::default();
    let engine = open(&machine, 24 * HOUR);
    for n in 0..1_000 {
        fresh(&engine.scope(""), &n.to_string()).complete([7; 100]).unwrap();
    }
    engine.checkpoint().unwrap();
    let (bytes, checkpoints) = pass(&machine, &engine, 12 * HOUR, None);
    // A segment that was nearly full may come to be.
    assert!(bytes < 12 * MIB / 16 && checkpoints <= 1, "{bytes} bytes, {checkpoints} checkpoints");
    // The hours in which all of it expires.
    let (bytes, checkpoints) = pass(&machine, &engine, 14 * HOUR, None);
    assert!(bytes < 14 * MIB && checkpoints < 14, "{bytes} bytes, {checkpoints} checkpoints");
    assert_eq!(engine.stats().entries, 0);
}

#[test]
fn a_quiet_hour_costs_no_more_than_its_keys_and_the_bound_whatever_their_ttl() {
    for (ttl, every) in [(1, 1), (10, 1), (300, 60), (3_600, 1)] {
        let (ttl, every) = (ttl * SECOND, every * SECOND);
        let machine = Machine::default();
        let engine = open(&machine, ttl);
        pass(&machine, &engine, (2 * ttl).min(HOUR), Some(every));
        let (bytes, checkpoints) = pass(&machine, &engine, HOUR, Some(every));
        let keys = 3_600 / every.as_secs();
        assert!(
            bytes <= BOUND + keys * KEY_BYTES,
            "{ttl:?}, a key every {every:?}: {bytes} bytes, {checkpoints} checkpoints"
        );
    }
}

#[test]
fn what_a_long_file_costs_is_bounded_too() {
    let machine = Machine::default();
    let engine = open(&machine, 60 * SECOND);
    lengthen(&engine, 2_048);
    let before = machine.disk.written();
    engine.checkpoint().unwrap();
    let commit = machine.disk.written() - before;
    // Or else this shows nothing.
    assert!(commit > MIB / 4, "a commit writes {commit} bytes");
    let (bytes, checkpoints) = pass(&machine, &engine, HOUR, Some(5 * SECOND));
    assert!(bytes <= BOUND + 720 * KEY_BYTES, "{bytes} bytes, {checkpoints} checkpoints");
    assert!(checkpoints >= 6, "{checkpoints} checkpoints");
}

#[test]
fn what_expires_at_once_is_dropped_in_fewer_commits_where_each_costs_more() {
    let machine = Machine::default();
    let engine = open(&machine, HOUR);
    lengthen(&engine, 2_048);
    for n in 0..6_000 {
        fresh(&engine.scope(""), &n.to_string()).complete([7; 4_000]).unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(HOUR);
    let (bytes, checkpoints) = pass(&machine, &engine, 600 * SECOND, None);
    assert!(engine.stats().reclaimed_blocks >= 6_000 / 16);
    assert!((1..=4).contains(&checkpoints), "{checkpoints} checkpoints");
    assert!(bytes <= 24 * MIB / 8, "{bytes} bytes");
}
