//! Reads that fail.

use crate::common::{Machine, default_scope, done, fresh};
use crate::helpers::{MANY, all_are_replayed, results_on_disk_alone};
use idemkv::tables::redb::ReadableTable;
use idemkv::{Busy, ClaimError, CommitError, CompleteInError, ReadError, Status};

/// redb stops after an error of a read as after any other.
#[test]
fn an_error_of_one_read_stops_neither_reads_nor_grants() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(8 << 10).open("x.idem").unwrap();
    let count = results_on_disk_alone(&engine);
    let effect = fresh(&default_scope(&engine), "effect").complete_in(|tables| {
        let mut many = tables.open_table(MANY)?;
        (0..400).try_for_each(|n| many.insert(n, &[7_u8; 4_000][..]).map(drop))?;
        Ok::<_, Box<dyn std::error::Error>>("done")
    });
    effect.unwrap();
    for round in 0..3 {
        machine.disk.fail_read(machine.disk.reads());
        all_are_replayed(&engine, count);
        fresh(&default_scope(&engine), &format!("round {round}")).complete("reply").unwrap();
        if round > 0 {
            engine.checkpoint().unwrap();
        }
    }
    // Nobody of ours reads what the application reads.
    all_are_replayed(&engine, count);
    let reads = machine.disk.reads();
    machine.disk.fail_read(reads);
    let read = engine.read_tables(|tables| {
        let many = tables.open_table(MANY)?;
        (0..400).try_for_each(|n| many.get(n).map(drop))?;
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    assert!(!matches!(read, Ok(Ok(()))), "a read failed");
    assert!(machine.disk.reads() > reads, "all it needs was in memory");
    fresh(&default_scope(&engine), "last").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    machine.disk.mend();
    machine.kill(engine);
    let engine = machine.open();
    all_are_replayed(&engine, count);
    for key in ["round 0", "round 1", "round 2", "last"] {
        done(&default_scope(&engine), key);
    }
}

#[test]
fn errors_of_several_reads_in_a_row_are_told_and_the_next_read_finds_the_record() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(8 << 10).open("x.idem").unwrap();
    let count = results_on_disk_alone(&engine);
    let mut told = 0;
    for apart in 1..40_u8 {
        let first = machine.disk.reads();
        (0..3).for_each(|n| machine.disk.fail_read(first + n * u64::from(apart)));
        match engine.default_scope().get(format!("key {apart}")) {
            Ok(Status::Done(record)) => assert_eq!(record.body(), [apart; 4_000]),
            Err(ReadError::Io(_)) => told += 1,
            other => panic!("{apart} apart: {other:?}"),
        }
        machine.disk.mend();
        assert_eq!(done(&default_scope(&engine), &format!("key {apart}")).body(), [apart; 4_000]);
        engine.checkpoint().unwrap();
    }
    assert!(told > 0);
    all_are_replayed(&engine, count);
}

/// After a failed read redb has to be opened again before it takes writes, and that is not done
/// while others read.
#[test]
fn a_transaction_that_can_not_begin_while_tables_are_read_gives_the_claim_back() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(8 << 10).open("x.idem").unwrap();
    let count = results_on_disk_alone(&engine);
    let claim = fresh(&default_scope(&engine), "key");
    machine.disk.fail_read(machine.disk.reads());
    all_are_replayed(&engine, count);
    let tried = || match claim.complete_in(|_| Ok::<_, ()>("reply")) {
        Err(CompleteInError::End(refused)) => refused,
        other => panic!("it was not to begin: {other:?}"),
    };
    let refused = engine.read_tables(|_| std::thread::scope(|threads| threads.spawn(tried).join().unwrap()));
    let refused = refused.unwrap();
    let is_busy = matches!(refused.reason(), ClaimError::Commit(CommitError::Busy(Busy::FileNotReady(_))));
    assert!(is_busy, "{refused}");
    assert!(!engine.stats().is_disk_full && engine.stats().is_file_not_ready, "the disk has room");
    let completed = refused.into_claim().unwrap().complete_in(|_| Ok::<_, ()>("reply"));
    assert_eq!(completed.unwrap().body(), b"reply");
    all_are_replayed(&engine, count);
}
