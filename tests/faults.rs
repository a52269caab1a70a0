//! What the disk and the clock can do to an engine: failed syncs that lie, full disks, clocks that jump.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod common;

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use common::{Machine, START_MS, TTL, default_scope, done, fresh, poll, request};
use idemkv::sim::{CrashKind, DiskFault};
use idemkv::tables::redb::{ReadableTable, TableDefinition};
use idemkv::{
    Begin, BeginError, Busy, ClaimError, CommitError, CommitMode, CompleteInError, Durability, Engine,
    ReadError, Status,
};

const TABLE: TableDefinition<'_, &str, u64> = TableDefinition::new("ours");
/// More than the store's page cache takes.
const MANY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("many");
const YEAR_MS: u64 = 365 * 24 * 3_600_000;

#[test]
fn after_a_failed_commit_nothing_is_granted_and_what_is_durable_is_still_replayed() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "done").complete("reply").unwrap();
    let (first, second) = (fresh(&scope, "first"), fresh(&scope, "second"));
    let Ok(Begin::InFlight(pending)) = scope.begin("second", request()) else { panic!("it is out") };

    machine.disk.fail_syncs(Some("-wal"));
    let error = first.complete("unknown").unwrap_err();
    assert!(matches!(error.reason(), ClaimError::Commit(CommitError::Failed(_))), "{error}");
    assert!(error.into_claim().is_none());
    machine.disk.fail_syncs(None);

    assert_eq!(done(&scope, "done").body(), b"reply");
    assert!(matches!(scope.begin("new", request()), Err(BeginError::Failed(_))));
    assert!(matches!(scope.begin("first", request()), Err(BeginError::Failed(_))));
    assert!(!matches!(engine.get("first").unwrap(), Status::Vacant), "nobody knows whether it is done");
    assert!(matches!(pending.wait(), Err(BeginError::Failed(_))), "every waiter gets the error");
    assert!(second.complete("too late").is_err());
    assert!(engine.clone().close().is_err(), "close reports it");
}

#[test]
fn what_is_not_forgotten_because_a_commit_failed_is_still_replayed() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "done").complete("reply").unwrap();
    let claim = fresh(&scope, "key");
    machine.disk.fail_syncs(Some("-wal"));
    assert!(claim.complete("unknown").is_err());
    assert!(scope.forget("done").is_err());
    assert_eq!(done(&scope, "done").body(), b"reply");
}

/// The page cache shows what a failed sync lost: a reopening in the same boot must not show it as done, unless it made it
/// durable first; a power cut after that must not take it back.
#[test]
fn a_failed_sync_and_a_reopening_in_the_same_boot_lose_and_invent_nothing() {
    for reboots in [CrashKind::DropAll, CrashKind::KeepAll, CrashKind::Torn(3)] {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = default_scope(&engine);
        fresh(&scope, "done").complete("reply").unwrap();
        let claim = fresh(&scope, "key");
        machine.disk.fail_syncs(Some("-wal"));
        assert!(claim.complete("unknown").is_err());
        machine.disk.fail_syncs(None);
        drop((scope, engine));
        machine.disk.restart_process();

        let engine = machine.open();
        let seen = engine.get("key").unwrap();
        machine.disk.crash_at(machine.disk.operations());
        drop(engine);
        machine.disk.reboot(reboots);

        let engine = machine.open();
        assert_eq!(done(&default_scope(&engine), "done").body(), b"reply");
        match (seen, engine.get("key").unwrap()) {
            (Status::Done(before), Status::Done(after)) => assert_eq!(before.body(), after.body()),
            (Status::Interrupted(_), Status::Interrupted(_)) => {}
            (before, after) => panic!("{reboots:?}: it was {before:?}, and is {after:?}"),
        }
    }
}

/// The next opening takes nothing for durable because it reads it: what a sync failed to make so may be in memory alone.
#[test]
fn an_opening_after_one_that_failed_anywhere_leaves_a_file_that_a_power_cut_does_not_close_for_good() {
    let mut failed = 0;
    for fault in [DiskFault::Error, DiskFault::Late] {
        for at in 0.. {
            let machine = Machine::default();
            let engine = machine.open();
            fresh(&default_scope(&engine), "done").complete("reply").unwrap();
            engine.close().unwrap();
            let before = machine.disk.operations();
            machine.disk.fault_at(before + at, fault);
            let opened = machine.options().open("x.idem");
            if opened.is_ok() && machine.disk.operations() <= before + at {
                break;
            }
            failed += usize::from(opened.is_err());
            machine.kill(opened);
            machine.disk.mend();
            let again = machine.open();
            for kind in [CrashKind::DropAll, CrashKind::KeepAll, CrashKind::Torn(at)] {
                let disk = machine.disk.image(kind);
                let found = machine.options().disk(&disk).open("x.idem");
                let found = found.unwrap_or_else(|error| panic!("{fault:?} at {at}, {kind:?}: {error}"));
                assert_eq!(done(&default_scope(&found), "done").body(), b"reply");
            }
            drop(again);
        }
    }
    assert!(failed > 8, "only {failed} openings failed");
}

/// Without syncs a power cut leaves any part of the log, gaps and all: what comes back is true, and the file goes on working.
#[test]
fn a_power_cut_without_syncs_leaves_a_file_that_opens_with_true_records_only() {
    let mut lost = 0;
    for seed in 0..40 {
        let machine = Machine::default();
        let options = || machine.options().commit_mode(CommitMode::Buffered);
        let engine = options().open("x.idem").unwrap();
        let scope = default_scope(&engine);
        for n in 0..90 {
            fresh(&scope, &format!("key {n}")).complete(format!("reply {n}")).unwrap();
        }
        machine.disk.crash_at(machine.disk.operations());
        drop((engine, scope));
        machine.disk.reboot(CrashKind::Torn(seed));
        // Openings that commit nothing: what lies behind a gap must stay history for the next one too.
        options().open("x.idem").unwrap().close().unwrap();
        options().open("x.idem").unwrap().close().unwrap();
        for round in 0..2 {
            let engine = options().open("x.idem").unwrap();
            let scope = default_scope(&engine);
            for n in 0..90 {
                match scope.get(format!("key {n}")).unwrap() {
                    Status::Done(record) => assert_eq!(record.body(), format!("reply {n}").as_bytes()),
                    Status::Vacant | Status::Interrupted(_) => lost += 1,
                    Status::InFlight(_) | Status::Expired(_) | _ => {
                        panic!("key {n} was completed a moment ago")
                    }
                }
            }
            fresh(&scope, &format!("round {round}")).complete("reply").unwrap();
            machine.kill((engine, scope));
        }
        let engine = options().open("x.idem").unwrap();
        done(&default_scope(&engine), "round 0");
        done(&default_scope(&engine), "round 1");
    }
    assert!(lost > 0, "no power cut lost anything: this tests nothing");
}

#[test]
fn a_closed_engine_does_not_touch_its_file_again() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    machine.disk.set_capacity(Some(machine.disk.used()));
    assert!(engine.checkpoint().is_err() || machine.disk.used() > 0);
    machine.disk.set_capacity(None);
    engine.clone().close().unwrap();
    let other = machine.open();
    let before = machine.disk.operations();
    engine.checkpoint().unwrap();
    engine.step();
    assert_eq!(engine.clone().close().unwrap().claims_left, 0);
    assert_eq!(machine.disk.operations(), before);
    done(&default_scope(&other), "key");
}

#[test]
fn a_failed_checkpoint_stops_grants_but_not_completions() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    machine.disk.fail_syncs(Some(".idem"));
    assert!(engine.checkpoint().is_err());
    machine.disk.fail_syncs(None);
    claim.complete("reply").unwrap();
    assert!(matches!(scope.begin("new", request()), Err(BeginError::Failed(_))));
    drop(scope);
    assert!(engine.close().is_err());
    machine.disk.reboot(CrashKind::DropAll);
    assert_eq!(done(&default_scope(&machine.open()), "key").body(), b"reply");
}

/// A begin waits for log space. Then a sync of the log, or of the store, fails, and claims that end give their space to it.
fn granted_after_a_failure_that_came_while_it_waited(durability: Durability, file: &str) {
    let machine = Machine::rerun();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().durability(durability)).unwrap();
    let (mut claims, _) = claims_until_refused(&engine);
    let batch = [("in a batch", request())];
    let mut waits = pin!(jobs.begin_async("waits", request()));
    let mut batch = pin!(jobs.begin_many_async(&batch));
    assert!(
        poll(waits.as_mut()).is_pending() && poll(batch.as_mut()).is_ready(),
        "batches do not wait for claims"
    );
    engine.step();
    assert!(poll(waits.as_mut()).is_pending(), "there is no space");

    machine.disk.fail_syncs(Some(file));
    // Whichever comes first meets the failure.
    assert!(engine.checkpoint().is_err() | claims.pop().unwrap().complete("reply").is_err());
    assert!(engine.stats().has_failed);
    drop(claims);
    for _ in 0..3 {
        if let Poll::Ready(answer) = poll(waits.as_mut()) {
            assert!(matches!(answer, Err(BeginError::Failed(_))), "{durability:?}, {file}: {answer:?}");
            return;
        }
        engine.step();
    }
    panic!("{durability:?}, {file}: it waits on");
}

#[test]
fn a_begin_that_waited_for_log_space_is_not_granted_after_a_failure() {
    for durability in [Durability::Full, Durability::Completions] {
        for file in ["-wal", ".idem"] {
            granted_after_a_failure_that_came_while_it_waited(durability, file);
        }
    }
}

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

/// More results than memory holds, all on disk; gives how many.
fn results_on_disk_alone(engine: &Engine) -> usize {
    // More than the store's page cache takes.
    const COUNT: usize = 400;
    let scope = default_scope(engine);
    for n in 0..COUNT {
        fresh(&scope, &format!("key {n}")).complete(body(n)).unwrap();
        if n % 25 == 24 {
            engine.checkpoint().unwrap();
        }
    }
    COUNT
}

fn body(n: usize) -> Vec<u8> {
    vec![u8::try_from(n % 251).unwrap(); 4_000]
}

#[track_caller]
fn all_are_replayed(engine: &Engine, count: usize) {
    let scope = default_scope(engine);
    for n in 0..count {
        assert_eq!(done(&scope, &format!("key {n}")).body(), body(n));
    }
}

/// redb stops for good after any error of the disk, and with it went everything that is not in memory.
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
    // Those that did not come to the disk have to stay in memory, however much of the others is read.
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
        && let Ok(Begin::Fresh(claim)) = engine.begin(format!("more {completed}"), request())
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
    assert!(matches!(engine.begin("new", request()), Err(BeginError::Failed(_))));
    assert!(engine.close().is_err());
}

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

/// Pages that redb has in memory it gives all the same, and says at the first one from the disk that it has stopped.
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
fn errors_of_several_reads_in_a_row_are_told_and_the_next_read_finds_the_record() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(8 << 10).open("x.idem").unwrap();
    let count = results_on_disk_alone(&engine);
    let mut told = 0;
    for apart in 1..40_u8 {
        let first = machine.disk.reads();
        (0..3).for_each(|n| machine.disk.fail_read(first + n * u64::from(apart)));
        match engine.get(format!("key {apart}")) {
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
fn a_wall_clock_that_jumps_while_the_file_is_open_changes_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    for wall in [0, u64::MAX, START_MS + 100 * YEAR_MS, START_MS] {
        machine.clock.jump_wall_to_millis(wall);
        engine.step();
        done(&scope, "key");
    }
    machine.clock.advance(TTL);
    drop(fresh(&scope, "key"));
}

#[test]
fn a_wall_clock_that_jumps_between_two_openings_expires_nothing_at_once() {
    for wall in [0, START_MS - YEAR_MS, START_MS + YEAR_MS, START_MS + 200 * YEAR_MS, u64::MAX] {
        for (clean, boots) in [(true, true), (false, true), (true, false), (false, false)] {
            let machine = Machine::default();
            let options = || machine.options().ttl(TTL * 24).max_clock_jump(TTL);
            let engine = options().open("x.idem").unwrap();
            let scope = default_scope(&engine);
            fresh(&scope, "key").complete("reply").unwrap();
            drop(scope);
            if clean {
                engine.close().unwrap();
            } else {
                machine.kill(engine);
            }
            if boots {
                machine.clock.reboot();
            }
            machine.clock.jump_wall_to_millis(wall);
            let engine = options().open("x.idem").unwrap();
            assert_eq!(done(&default_scope(&engine), "key").body(), b"reply", "wall clock at {wall}");
            machine.clock.advance(TTL * 22);
            done(&default_scope(&engine), "key");
            machine.clock.advance(TTL * 2);
            drop(fresh(&default_scope(&engine), "key"));
        }
    }
}

/// At the last moment that a number of milliseconds can tell, a lease would be over as soon as it began.
#[test]
fn a_file_made_under_a_wall_clock_beyond_all_reason_works_like_any_other() {
    for wall in [u64::MAX, u64::MAX - YEAR_MS, i64::MAX.cast_unsigned()] {
        let machine = Machine::default();
        machine.clock.jump_wall_to_millis(wall);
        let engine = machine.open();
        let leased = engine.set_policy("leased", engine.policy().lease(TTL)).unwrap();
        fresh(&leased, "key").complete("reply").unwrap();
        drop((leased, engine));
        let engine = machine.open();
        assert_eq!(done(&engine.scope("leased"), "key").body(), b"reply");
        machine.clock.advance(TTL);
        drop(fresh(&engine.scope("leased"), "key"));
    }
}

#[test]
fn time_that_went_by_while_the_file_was_closed_counts_and_over_a_reboot_up_to_the_limit() {
    for (boots, limit, is_over) in
        [(true, TTL * 2, true), (true, TTL / 2, false), (false, TTL / 2, true), (false, Duration::ZERO, true)]
    {
        let machine = Machine::default();
        let options = || machine.options().ttl(TTL).max_clock_jump(limit);
        let engine = options().open("x.idem").unwrap();
        fresh(&default_scope(&engine), "key").complete("reply").unwrap();
        engine.close().unwrap();
        if boots {
            machine.clock.reboot();
        }
        machine.clock.advance(TTL);
        let engine = options().open("x.idem").unwrap();
        assert_eq!(matches!(engine.get("key").unwrap(), Status::Vacant), is_over, "{boots}, {limit:?}");
    }
}

#[test]
fn an_idle_engine_remembers_the_time_over_a_kill() {
    let machine = Machine::default();
    let options = || machine.options().ttl(TTL * 100).max_clock_jump(Duration::from_secs(60));
    let engine = options().open("x.idem").unwrap();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    for _ in 0..120 {
        machine.clock.advance(Duration::from_secs(30));
        engine.step();
    }
    assert!(engine.stats().commits > 2, "the time is written without anybody asking");
    let before = engine.now();
    machine.kill(engine);
    // With a wall clock that says nothing.
    machine.clock.reboot();
    machine.clock.jump_wall_to_millis(0);
    let engine = options().open("x.idem").unwrap();
    assert_eq!(engine.now(), before);
}

/// Begins keys until one is refused.
fn claims_until_refused(engine: &Engine) -> (Vec<idemkv::Claim>, BeginError) {
    let mut claims = Vec::new();
    loop {
        match engine.begin(format!("filler {}", claims.len()), request()) {
            Ok(Begin::Fresh(claim)) => claims.push(claim),
            Ok(other) => panic!("{other:?}"),
            Err(error) => return (claims, error),
        }
    }
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
        let refused = engine.begin("again", request());
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
        assert!(matches!(refused, BeginError::Busy(Busy::QueueFull { .. })), "{refused}");
        Ok::<_, Box<dyn std::error::Error>>("reply")
    });
    assert_eq!(completed.unwrap().body(), b"reply");
    assert!(begun.into_iter().all(|claim| claim.complete("").is_ok()));
    drop(fresh(&default_scope(&engine), "there is room again"));
}

#[test]
fn the_log_does_not_grow_behind_a_failed_commit() {
    for fails in [false, true] {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = default_scope(&engine);
        let claims: Vec<_> = (0..15).map(|n| fresh(&scope, &n.to_string())).collect();
        let before = engine.stats().log_bytes;
        if fails {
            machine.disk.fail_syncs(Some("-wal"));
            assert!(scope.begin("key", request()).is_err());
            machine.disk.fail_syncs(None);
        }
        // The second finds the engine idle.
        engine.step();
        engine.step();
        assert_eq!(engine.stats().log_bytes == before, fails, "with less than a segment left it grows");
        drop(claims);
    }
}

/// What an observer is told of happens in the middle of a step.
struct Closes(std::sync::Mutex<Option<Engine>>);

impl idemkv::Observer for Closes {
    fn event(&self, event: &idemkv::Event<'_>) {
        if event.name() != "interrupted" {
            return;
        }
        let engine = self.0.lock().unwrap().take();
        if let Some(engine) = engine {
            engine.close().unwrap();
        }
    }
}

#[test]
fn an_engine_closed_in_the_middle_of_a_step_does_not_touch_its_file_again() {
    let machine = Machine::default();
    let observer = std::sync::Arc::new(Closes(std::sync::Mutex::default()));
    let engine = machine.options().observer(std::sync::Arc::clone(&observer)).open("x.idem").unwrap();
    let leased = engine.set_policy("leased", engine.policy().lease(TTL)).unwrap();
    // The log is to grow, which is work that the step would do.
    let claims: Vec<_> = (0..15).map(|n| fresh(&leased, &n.to_string())).collect();
    *observer.0.lock().unwrap() = Some(engine.clone());
    machine.clock.advance(TTL);
    let before = engine.stats().log_bytes;
    assert!(!engine.step().checkpointed);
    assert!(observer.0.lock().unwrap().is_none(), "nobody was told");
    assert_eq!(machine.disk.read("x.idem-wal".as_ref()).unwrap().len() as u64, before);
    done_elsewhere(&machine);
    drop(claims);
}

/// Whoever has the file now is alone.
fn done_elsewhere(machine: &Machine) {
    let engine = machine.open();
    fresh(&default_scope(&engine), "elsewhere").complete("reply").unwrap();
    engine.close().unwrap();
    done(&default_scope(&machine.open()), "elsewhere");
}

/// After so long without a write the engine is idle.
const IDLE: Duration = Duration::from_secs(10);

/// An engine that is idle, with a file that is mostly free; some keys in it are live.
fn wasteful(machine: &Machine) -> Engine {
    let engine = machine
        .options()
        .cache_bytes(0)
        .max_body_bytes(64 << 10)
        .log_segment_bytes(512 << 10)
        .log_bytes(4 << 20)
        .open("x.idem")
        .unwrap();
    let scope = default_scope(&engine);
    for n in 0..100 {
        fresh(&scope, &format!("expires {n}")).complete(vec![n; 60_000]).unwrap();
    }
    let kept = engine.set_policy("kept", engine.policy().ttl(TTL * 9)).unwrap();
    for n in 0..10 {
        fresh(&kept, &n.to_string()).complete([n; 4_000]).unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL);
    engine.checkpoint().unwrap();
    engine.step();
    machine.clock.advance(IDLE);
    engine
}

#[track_caller]
fn assert_kept(engine: &Engine) {
    let kept = engine.scope("kept");
    (0..10).for_each(|n: u8| assert_eq!(done(&kept, &n.to_string()).body(), [n; 4_000]));
}

#[test]
fn a_compaction_that_fails_loses_nothing_and_stops_grants_or_is_made_up_for() {
    let machine = Machine::default();
    let engine = wasteful(&machine);
    let (full, first) = (engine.stats().file_bytes, machine.disk.operations());
    engine.step();
    let last = machine.disk.operations();
    assert!(engine.stats().file_bytes < full / 2 && last > first, "the file was compacted");
    assert_kept(&engine);
    let mut stopped = 0;
    for at in [first, first.midpoint(last), last - 1] {
        let machine = Machine::default();
        let engine = wasteful(&machine);
        assert_eq!(machine.disk.operations(), first);
        machine.disk.fault_at(at, DiskFault::Error);
        engine.step();
        assert_kept(&engine);
        match engine.begin("new", request()) {
            Err(BeginError::Failed(_)) => stopped += 1,
            begun => drop(begun.unwrap()),
        }
        machine.kill(engine);
        let engine = machine.open();
        assert_kept(&engine);
        drop(fresh(&default_scope(&engine), "new"));
    }
    assert!(stopped > 0, "no fault mattered");
}

#[test]
fn a_file_is_not_compacted_while_tables_are_read_but_right_after() {
    let machine = Machine::default();
    let engine = wasteful(&machine);
    let stepped = || {
        let before = machine.disk.operations();
        engine.step();
        machine.disk.operations() - before
    };
    // Nobody compacts what is being read, however long that takes.
    let operations = engine.read_tables(|_| {
        std::thread::scope(|threads| threads.spawn(|| [stepped(), stepped(), stepped()]).join().unwrap())
    });
    assert_eq!(operations.unwrap(), [0, 0, 0]);
    let full = engine.stats().file_bytes;
    assert!(stepped() > 0);
    assert!(engine.stats().file_bytes < full / 2);
    assert_eq!(stepped(), 0, "there is no more to be had");
    assert_kept(&engine);
}

#[track_caller]
fn assert_left_alone(machine: &Machine, engine: &Engine) {
    let operations = machine.disk.operations();
    for _ in 0..3 {
        machine.clock.advance(IDLE);
        engine.step();
    }
    assert_eq!(machine.disk.operations(), operations);
}

#[test]
fn a_file_is_not_compacted_between_commits_nor_after_a_failed_one() {
    let machine = Machine::default();
    let engine = wasteful(&machine);
    let full = engine.stats().file_bytes;
    fresh(&engine.scope("kept"), "one more").complete("reply").unwrap();
    engine.step();
    assert_eq!(engine.stats().file_bytes, full);
    for commit_of_the_log in [true, false] {
        let machine = Machine::default();
        let engine = wasteful(&machine);
        machine.disk.fault_at(machine.disk.operations(), DiskFault::Error);
        if commit_of_the_log {
            assert!(engine.begin("new", request()).is_err());
        } else {
            assert!(engine.checkpoint().is_err());
        }
        assert_left_alone(&machine, &engine);
    }
}

#[test]
fn an_idle_engine_leaves_a_file_alone_that_has_little_room_to_give_back() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    engine.step();
    assert_left_alone(&machine, &engine);
}

#[test]
fn time_does_not_go_back_behind_a_clean_close() {
    let machine = Machine::default();
    let engine = machine.open();
    machine.clock.advance(TTL / 2);
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    let before = engine.now();
    engine.close().unwrap();
    machine.clock.jump_wall_to_millis(START_MS);
    assert!(machine.open().now() >= before);
}

/// After a failed read redb has to be opened again before it takes writes, and that is not done while others read.
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
    let is_busy = matches!(refused.reason(), ClaimError::Commit(CommitError::Busy(Busy::DiskFull(_))));
    assert!(is_busy, "{refused}");
    let completed = refused.into_claim().unwrap().complete_in(|_| Ok::<_, ()>("reply"));
    assert_eq!(completed.unwrap().body(), b"reply");
    all_are_replayed(&engine, count);
}
