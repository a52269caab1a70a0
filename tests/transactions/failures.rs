//! Transactions whose work panics, and those that the disk fails.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{Machine, START_MS, TTL, default_scope, done, fresh, request, small};
use crate::helpers::{Anything, BULK, EFFECTS, ROWS, effect, effects, with_bulk};
use idemkv::sim::{DiskFault, ManualClock, Operation, SimDisk};
use idemkv::tables::Tables;
use idemkv::tables::redb::ReadableTable;
use idemkv::{Begin, BeginError, Busy, ClaimError, CommitError, CompleteInError, Engine, Failure, Status};

#[test]
fn a_panic_of_the_work_leaves_nothing_and_harms_nobody_else() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let (claim, other) = (fresh(&scope, "key"), fresh(&scope, "other"));
    fresh(&scope, "log").complete("reply").unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        claim.complete_in(|tables| {
            effect(tables, "key")?;
            assert!(tables.open_table(EFFECTS).is_err(), "a panic in the middle");
            Ok::<_, Anything>("")
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(effects(&engine, "key"), 0);
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::Interrupted(_))));
    other.complete_in(|tables| effect(tables, "other")).unwrap();
    engine.checkpoint().unwrap();
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!((effects(&engine, "key"), effects(&engine, "other")), (0, 1));
    assert_eq!(done(&default_scope(&engine), "log").body(), b"reply");
}

struct BadBody;

impl AsRef<[u8]> for BadBody {
    fn as_ref(&self) -> &[u8] {
        panic!("a bad body")
    }
}

/// redb can't undo a transaction that is dropped by a panic: the pages stay taken until the file
/// is repaired.
#[test]
fn a_body_that_panics_leaves_no_pages_behind() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let work = |tables: &Tables<'_>| {
        let mut bulk = tables.open_table(BULK)?;
        (0..ROWS).try_for_each(|n| bulk.insert(n, &[8; 16 << 10][..]).map(drop))?;
        Ok::<_, Anything>(BadBody)
    };
    let attempt = |number: usize| {
        let claim = fresh(&scope, &format!("key {number}"));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            drop(claim.complete_in(work));
        }));
        assert!(panicked.is_err());
        machine.disk.used()
    };
    let used = attempt(0);
    let later = (1..10).map(attempt).max().unwrap();
    assert!(later < 2 * used, "{used} bytes, then {later}");
    fresh(&scope, "good").complete_in(|tables| effect(tables, "good")).unwrap();
}

/// As it would where redb met what it did not expect.
#[test]
fn a_panic_of_the_disk_during_the_work_leaves_nothing_and_no_silence() {
    let machine = Machine::default();
    let engine = with_bulk(&machine);
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    fresh(&scope, "log").complete("reply").unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        claim.complete_in(|tables| {
            effect(tables, "key")?;
            let mut bulk = tables.open_table(BULK)?;
            machine.disk.fault_at(machine.disk.operations(), DiskFault::Panic);
            // More than memory holds, so some of it is written meanwhile.
            (0..ROWS).try_for_each(|n| bulk.insert(n, &[8; 16 << 10][..]).map(drop))?;
            Ok::<_, Anything>("reply")
        })
    }));
    assert!(panicked.is_err());
    // redb could not even undo it.
    assert!(matches!(scope.begin("new", request()), Err(BeginError::Failed(Failure::Damaged(_)))));
    assert!(matches!(engine.checkpoint(), Err(Failure::Damaged(_))));
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!(effects(&engine, "key"), 0);
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::Interrupted(_))));
    assert_eq!(done(&default_scope(&engine), "log").body(), b"reply");
    let rows = engine.read_tables(|tables| {
        let bulk = tables.open_table(BULK).unwrap();
        (0..ROWS).filter(|n| bulk.get(n).unwrap().unwrap().value() == &[7; 16 << 10][..]).count()
    });
    assert_eq!(rows.unwrap() as u64, ROWS);
}

#[test]
fn a_full_disk_undoes_the_effect_and_gives_the_claim_back() {
    // Nothing of the engine itself needs more room than the disk has.
    let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(START_MS));
    let options = || small(Engine::options()).disk(&disk).clock(&clock).stepped().seed(1).ttl(TTL);
    let engine = options().open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    disk.set_capacity(Some(disk.used()));
    let bulk = |tables: &Tables<'_>| {
        let mut bulk = tables.open_table(BULK)?;
        for n in 0..64 {
            bulk.insert(n, &[7; 16 << 10][..])?;
        }
        drop(bulk);
        effect(tables, "key")
    };
    let refused = claim.complete_in(bulk);
    let claim = match refused {
        Err(CompleteInError::End(error)) => {
            assert!(matches!(error.reason(), ClaimError::Commit(CommitError::Busy(Busy::DiskFull(_)))));
            error.into_claim().unwrap()
        }
        Err(CompleteInError::Work { claim, .. }) => *claim,
        other => panic!("there was room: {other:?}"),
    };
    assert_eq!(effects(&engine, "key"), 0);
    disk.set_capacity(None);
    claim.complete_in(bulk).unwrap();
    assert_eq!(effects(&engine, "key"), 1);
    engine.close().unwrap();
    assert_eq!(effects(&options().open("x.idem").unwrap(), "key"), 1);
}

/// The file is made shorter after a commit, where nobody expects to find the disk full.
#[test]
fn a_claim_comes_back_from_a_full_disk_only_where_nothing_was_written() {
    let prepared = |checkpoints: usize| {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = default_scope(&engine);
        for n in 0..checkpoints {
            fresh(&scope, &format!("{n}")).complete(vec![b'x'; 4_000]).unwrap();
            engine.checkpoint().unwrap();
        }
        let claim = fresh(&scope, "key");
        (machine, engine, claim)
    };
    let mut lengths = 0;
    // A file grows, and becomes shorter again, once there is more than a new one has room for.
    for checkpoints in 4..10 {
        let (machine, _engine, claim) = prepared(checkpoints);
        machine.disk.record();
        claim.complete_in(|tables| effect(tables, "key")).unwrap();
        for moment in machine.disk.take_moments() {
            lengths += usize::from(moment.operation() == Operation::SetLen);
            let (machine, engine, claim) = prepared(checkpoints);
            machine.disk.fault_at(moment.number(), DiskFault::Full);
            let comes_back = match claim.complete_in(|tables| effect(tables, "key")) {
                Ok(_) => continue,
                Err(CompleteInError::End(error)) => error.into_claim().is_some(),
                Err(error) => panic!("{error}"),
            };
            machine.kill(engine);
            let effects = effects(&machine.open(), "key");
            let at = moment.operation();
            assert!(effects == 0 || !comes_back, "{at:?}: the claim came back, and its effect is there");
        }
    }
    assert!(lengths > 0, "the file's length never changes");
}

#[test]
fn after_a_failed_commit_only_the_next_opening_tells() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let (claim, log) = (fresh(&scope, "key"), fresh(&scope, "log"));
    machine.disk.fail_syncs(Some(".idem"));
    let unknown = claim.complete_in(|tables| effect(tables, "key"));
    let Err(CompleteInError::End(error)) = unknown else { panic!("{unknown:?}") };
    assert!(matches!(error.reason(), ClaimError::Commit(CommitError::Failed(_))));
    assert!(error.into_claim().is_none());
    let Ok(Begin::InFlight(pending)) = engine.default_scope().begin("key", request()) else {
        panic!("not decided")
    };
    assert!(matches!(pending.wait(), Err(BeginError::Failed(_))));
    assert!(matches!(engine.default_scope().begin("new", request()), Err(BeginError::Failed(_))));
    machine.disk.fail_syncs(None);
    log.complete("reply").unwrap();
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    let effects = effects(&engine, "key");
    match engine.default_scope().begin("key", request()).unwrap() {
        Begin::Done(_) => assert_eq!(effects, 1),
        Begin::Fresh(claim) => assert_eq!((effects, claim.attempt()), (0, 2)),
        Begin::InFlight(_) => panic!("nobody else is here"),
    }
    assert_eq!(done(&default_scope(&engine), "log").body(), b"reply");
}

#[test]
fn after_a_failed_commit_of_the_log_no_effect_begins() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let (claim, other) = (fresh(&scope, "key"), fresh(&scope, "other"));
    machine.disk.fault_at(machine.disk.operations(), DiskFault::Error);
    assert!(other.complete("reply").is_err());
    let refused = match claim.complete_in(|_| -> Result<&str, ()> { panic!("it ran") }) {
        Err(CompleteInError::End(refused)) => refused,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused.reason(), ClaimError::Commit(CommitError::Failed(_))), "{refused}");
}

/// The worker notices it without the maintenance lock, which the work has.
#[test]
fn a_transaction_whose_file_is_taken_away_while_it_is_at_work_is_not_acknowledged() {
    for file in ["x.idem", "x.idem-wal"] {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = default_scope(&engine);
        let claim = fresh(&scope, "key");
        let ended = claim.complete_in(|tables| {
            assert!(machine.disk.rename(Path::new(file), Path::new("elsewhere")));
            notice(&engine);
            effect(tables, "key")
        });
        let Err(CompleteInError::End(error)) = ended else { panic!("{file}: {ended:?}") };
        let is_told =
            matches!(error.reason(), ClaimError::Commit(CommitError::Failed(Failure::TakenAway(_))));
        assert!(is_told, "{file}: {error}");
        assert!(error.into_claim().is_some(), "{file}: nothing was written");
    }
}

/// The engine tells the claim's waiters that its end is unknown.
#[test]
fn a_transaction_whose_file_is_taken_away_during_its_commit_is_not_acknowledged() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let (theirs, disk) = (engine.clone(), machine.disk.clone());
    let syncs = AtomicUsize::new(0);
    machine.disk.before_syncs(move |name| {
        if name == "x.idem" && syncs.fetch_add(1, Ordering::SeqCst) == 1 {
            assert!(disk.rename(Path::new("x.idem"), Path::new("elsewhere")));
            notice(&theirs);
        }
    });
    let ended = claim.complete_in(|tables| effect(tables, "key"));
    machine.disk.before_syncs(|_| {});
    let Err(CompleteInError::End(error)) = ended else { panic!("{ended:?}") };
    let is_told = matches!(error.reason(), ClaimError::Commit(CommitError::Failed(Failure::TakenAway(_))));
    assert!(is_told, "{error}");
    assert!(error.into_claim().is_none(), "it is in the file that was taken away");
}

/// Lets the engine notice, on another thread, that a file was taken away.
fn notice(engine: &Engine) {
    let refused = std::thread::scope(|threads| {
        let noticed = || {
            engine.step();
            default_scope(engine).begin("other", request())
        };
        threads.spawn(noticed).join().unwrap()
    });
    assert!(matches!(refused, Err(BeginError::Failed(Failure::TakenAway(_)))), "{refused:?}");
}
