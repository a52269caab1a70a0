//! A full disk and a full log.

use std::time::Duration;

use crate::common::{Machine, default_scope, done, fresh, request};
use crate::helpers::{MANY, all_are_replayed, claims_until_refused, results_on_disk_alone};
use idemkv::sim::{CrashKind, DiskFault};
use idemkv::tables::redb::{ReadableTable, TableDefinition};
use idemkv::{Begin, BeginError, Busy, Durability, Engine};

const TABLE: TableDefinition<'_, &str, u64> = TableDefinition::new("ours");

#[test]
fn a_full_disk_refuses_claims_while_those_that_are_out_complete() {
    let machine = Machine::default();
    let engine = machine.options().log_bytes(64 << 20).max_in_flight(1_000).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    machine.disk.set_capacity(Some(machine.disk.used()));
    let mut claims = Vec::new();
    let refused = loop {
        match scope.begin(format!("key {}", claims.len()), request()) {
            Ok(Begin::Fresh(claim)) => claims.push(claim),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, BeginError::Busy(Busy::DiskFull(_))), "{refused}");
    assert!(refused.is_retryable());
    assert!(claims.len() > 5);
    let count = claims.len();
    for claim in claims {
        claim.complete(vec![b'x'; 4_096]).unwrap();
    }
    // Room comes back: the engine goes on without being opened again.
    machine.disk.set_capacity(None);
    machine.clock.advance(Duration::from_secs(1));
    fresh(&scope, "new").complete("reply").unwrap();
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!(engine.entries().count(), count + 1);
}

/// redb stops for good after any error of the disk, and with it went everything that is not in
/// memory.
#[test]
fn results_on_disk_alone_are_replayed_while_the_disk_is_full() {
    let machine = Machine::default();
    // One shard, so that a record that is read has room, and takes it from others.
    let engine = machine.options().shards(1).cache_bytes(8 << 10).open("x.idem").unwrap();
    let count = results_on_disk_alone(&engine);
    machine.disk.set_capacity(Some(machine.disk.used()));
    let more = (0..2_000).find(|n| {
        fresh(&default_scope(&engine), &format!("more {n}")).complete(vec![b'm'; 4_000]).unwrap();
        engine.checkpoint().is_err()
    });
    all_are_replayed(&engine, count);
    // Those that did not come to the disk have to stay in memory, however much of the others is
    // read.
    (0..=more.unwrap()).for_each(|n| drop(done(&default_scope(&engine), &format!("more {n}"))));
    // Another try, which may find room that the first one had freed.
    drop(engine.checkpoint());
    all_are_replayed(&engine, count);
    machine.disk.set_capacity(None);
    machine.clock.advance(Duration::from_secs(1));
    engine.checkpoint().unwrap();
    all_are_replayed(&engine, count);
    machine.kill(engine);
    let engine = machine.open();
    all_are_replayed(&engine, count);
    (0..=more.unwrap()).for_each(|n| drop(done(&default_scope(&engine), &format!("more {n}"))));
}

#[test]
fn what_no_checkpoint_could_store_stays_in_the_log_however_much_follows() {
    let machine = Machine::default();
    let options =
        || machine.options().cache_bytes(8 << 10).log_bytes(256 << 10).queue_timeout(Duration::ZERO);
    let engine = options().open("x.idem").unwrap();
    results_on_disk_alone(&engine);
    machine.disk.set_capacity(Some(machine.disk.used()));
    let mut completed = 0;
    // Until the log is full.
    while completed < 1_000
        && let Ok(Begin::Fresh(claim)) = engine.default_scope().begin(format!("more {completed}"), request())
    {
        claim.complete(vec![b'm'; 4_000]).unwrap();
        completed += 1;
        drop(engine.checkpoint());
    }
    machine.kill(engine);
    machine.disk.set_capacity(None);
    let engine = options().open("x.idem").unwrap();
    (0..completed).for_each(|n| drop(done(&default_scope(&engine), &format!("more {n}"))));
}

#[test]
fn results_on_disk_alone_are_replayed_after_a_failed_checkpoint() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(8 << 10).open("x.idem").unwrap();
    let count = results_on_disk_alone(&engine);
    fresh(&default_scope(&engine), "more").complete("reply").unwrap();
    machine.disk.fail_syncs(Some(".idem"));
    assert!(engine.checkpoint().is_err());
    machine.disk.fail_syncs(None);
    all_are_replayed(&engine, count);
    assert!(matches!(engine.default_scope().begin("new", request()), Err(BeginError::Failed(_))));
    assert!(engine.close().is_err());
}

/// Pages that redb has in memory it gives all the same, and says at the first one from the disk
/// that it has stopped.
#[test]
fn an_applications_tables_are_read_though_an_opening_or_a_checkpoint_found_the_disk_full() {
    let is_whole = |engine: &Engine, at| {
        let read = engine.read_tables(|tables| {
            let many = tables.open_table(MANY)?;
            (0..400).try_for_each(|n| many.get(n).map(|row| assert_eq!(row.unwrap().value(), [7; 4_000])))?;
            Ok::<_, Box<dyn std::error::Error>>(())
        });
        read.unwrap().unwrap_or_else(|error| panic!("{at}: {error}"));
    };
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(8 << 10).open("x.idem").unwrap();
    let effect = fresh(&default_scope(&engine), "effect").complete_in(|tables| {
        let mut many = tables.open_table(MANY)?;
        (0..400).try_for_each(|n| many.insert(n, &[7_u8; 4_000][..]).map(drop))?;
        Ok::<_, Box<dyn std::error::Error>>("done")
    });
    effect.unwrap();
    fresh(&default_scope(&engine), "more").complete("reply").unwrap();
    machine.kill(engine);
    let mut stopped = 0;
    for at in 0..40 {
        let machine = Machine { disk: machine.disk.image(CrashKind::KeepAll), ..machine.clone() };
        let first = machine.disk.operations();
        machine.disk.fault_at(first + at, DiskFault::Full);
        let Ok(engine) = machine.options().cache_bytes(8 << 10).open("x.idem") else { continue };
        stopped += u64::from(machine.disk.operations() > first + at);
        is_whole(&engine, format!("the opening at operation {at}"));
        machine.disk.mend();
        // A full disk is looked at again after a while.
        machine.clock.advance(Duration::from_secs(1));
        fresh(&default_scope(&engine), &format!("at {at}")).complete("reply").unwrap();
        machine.disk.fault_at(machine.disk.operations(), DiskFault::Full);
        assert!(engine.checkpoint().is_err());
        is_whole(&engine, format!("a checkpoint, {at}"));
    }
    assert!(stopped > 0, "no opening met a full disk");
}

#[test]
fn a_full_log_refuses_claims_and_says_for_how_long_it_waited() {
    let machine = Machine::default();
    let engine = machine.options().log_bytes(128 << 10).queue_timeout(Duration::ZERO).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let mut claims = Vec::new();
    let refused = loop {
        match scope.begin(format!("key {}", claims.len()), request()) {
            Ok(Begin::Fresh(claim)) => claims.push(claim),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, BeginError::Busy(Busy::QueueFull { .. })), "{refused}");
    claims.pop().unwrap().complete("reply").unwrap();
    engine.checkpoint().unwrap();
    drop(fresh(&scope, "there is room for one again"));
}

#[test]
fn as_many_claims_as_allowed_and_no_more() {
    let machine = Machine::default();
    let engine = machine.options().max_in_flight(2).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let (first, _second) = (fresh(&scope, "1"), fresh(&scope, "2"));
    assert!(matches!(scope.begin("3", request()), Err(BeginError::Busy(Busy::TooManyClaims { max: 2 }))));
    first.complete("").unwrap();
    drop(fresh(&scope, "3"));
}

#[test]
fn a_log_full_of_claims_that_only_memory_knows_refuses_more_and_the_time_is_kept_later() {
    let mut without_room = 0;
    for reserve_bytes in (0..1_000).step_by(25) {
        let machine = Machine::rerun();
        let options = machine.options().durability(Durability::Completions).log_bytes(128 << 10);
        let engine =
            options.reserve_bytes(reserve_bytes).queue_timeout(Duration::ZERO).open("x.idem").unwrap();
        engine.step();
        let (claims, refused) = claims_until_refused(&engine);
        assert!(matches!(refused, BeginError::Busy(Busy::QueueFull { .. })), "{refused}");
        let refused = engine.default_scope().begin("again", request());
        assert!(matches!(refused, Err(BeginError::Busy(Busy::QueueFull { .. }))), "{refused:?}");
        // What is left of the log may be too little even to note the time.
        machine.clock.advance(Duration::from_secs(3_600));
        engine.step();
        let before = engine.stats().commits;
        without_room += u32::from(before == 0);
        for claim in claims {
            claim.release().unwrap();
        }
        machine.clock.advance(Duration::from_secs(3_600));
        engine.step();
        assert_eq!(engine.stats().commits, before + 1);
    }
    assert!(without_room > 0, "there was room each time");
}

#[test]
fn begins_inside_a_transaction_are_refused_by_a_full_log_and_do_not_wait_for_themselves() {
    let machine = Machine::default();
    let engine = machine.options().log_bytes(128 << 10).open("x.idem").unwrap();
    let claim = fresh(&default_scope(&engine), "key");
    let mut begun = Vec::new();
    let completed = claim.complete_in(|tables| {
        tables.open_table(TABLE)?.insert("effect", 1)?;
        let (claims, refused) = claims_until_refused(&engine);
        begun = claims;
        assert!(matches!(refused, BeginError::InsideTransaction), "{refused}");
        Ok::<_, Box<dyn std::error::Error>>("reply")
    });
    assert_eq!(completed.unwrap().body(), b"reply");
    assert!(begun.into_iter().all(|claim| claim.complete("").is_ok()));
    drop(fresh(&default_scope(&engine), "there is room again"));
}
