//! Work that spoils its own transaction: it goes on after an error or a panic of its tables, or
//! leaks them. That concerns its own claim, and no other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use crate::common::{Machine, START_MS, TTL, default_scope, done, fresh, request, small};
use crate::helpers::{Anything, BULK, EFFECTS, effect, effects};
use idemkv::sim::{ManualClock, SimDisk};
use idemkv::tables::Tables;
use idemkv::tables::redb::ReadableTable;
use idemkv::{Begin, Busy, Claim, ClaimError, CommitError, CompleteInError, Engine, Record};

/// How long a call is waited for that should wait for nobody.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a call on a thread of its own. If it hangs, the test fails and the thread is left.
#[track_caller]
fn in_time<R: Send + 'static>(call: impl FnOnce() -> R + Send + 'static) -> R {
    let (told, result) = mpsc::channel();
    std::thread::spawn(move || told.send(call()));
    result.recv_timeout(PATIENCE).expect("the call should not hang, nor panic")
}

#[track_caller]
fn refused(ended: Result<Record, CompleteInError<Anything>>) -> (ClaimError, Claim) {
    match ended {
        Err(CompleteInError::End(error)) => (error.reason().clone(), error.into_claim().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_goes_on(machine: &Machine, engine: Engine, claim: Claim) {
    let key = claim.key().to_vec();
    let key = str::from_utf8(&key).unwrap();
    let theirs = engine.clone();
    in_time(move || {
        claim.complete_in(|tables| effect(tables, "again")).unwrap();
        fresh(&default_scope(&theirs), "other").complete("reply").unwrap();
        theirs.checkpoint().unwrap();
    });
    assert_eq!((effects(&engine, "before"), effects(&engine, "again")), (1, 1));
    in_time(move || engine.close()).unwrap();
    let engine = machine.open();
    assert_eq!((effects(&engine, "before"), effects(&engine, "again")), (1, 1));
    drop(done(&default_scope(&engine), key));
}

fn with_effect(machine: &Machine) -> (Engine, Claim) {
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "before").complete_in(|tables| effect(tables, "before")).unwrap();
    let claim = fresh(&scope, "key");
    (engine, claim)
}

/// It is in a row, say, that the closure of a `retain` can't make sense of.
fn catch_a_panic(tables: &Tables<'_>) -> Result<(), Anything> {
    let mut effects = tables.open_table(EFFECTS)?;
    let caught = catch_unwind(AssertUnwindSafe(|| effects.retain(|_, _| panic!("a bad row"))));
    assert!(caught.is_err());
    Ok(())
}

#[test]
fn work_that_catches_a_panic_of_its_table_gets_its_claim_back_and_stops_nobody() {
    let machine = Machine::default();
    let (engine, claim) = with_effect(&machine);
    let ended = claim.complete_in(|tables| catch_a_panic(tables).map(|()| "reply"));
    let (reason, claim) = refused(ended);
    assert!(matches!(reason, ClaimError::TransactionPoisoned), "{reason}");
    assert!(!reason.is_retryable());
    assert!(!engine.stats().has_failed);
    assert_goes_on(&machine, engine, claim);
}

#[test]
fn work_that_catches_a_panic_of_its_table_and_gives_up_stops_nobody() {
    let machine = Machine::default();
    let (engine, claim) = with_effect(&machine);
    let ended = claim.complete_in(|tables| {
        catch_a_panic(tables)?;
        Err::<&str, Anything>("no".into())
    });
    let Err(CompleteInError::Work { claim, .. }) = ended else { panic!("{ended:?}") };
    assert_goes_on(&machine, engine, *claim);
}

#[test]
fn work_that_leaks_a_table_gets_its_claim_back_and_hangs_nobody() {
    let machine = Machine::default();
    let (engine, claim) = with_effect(&machine);
    let ended = claim.complete_in(|tables| {
        std::mem::forget(tables.open_table(EFFECTS)?);
        Ok::<_, Anything>("reply")
    });
    let (reason, claim) = refused(ended);
    assert!(matches!(reason, ClaimError::TransactionPoisoned), "{reason}");
    assert_goes_on(&machine, engine, claim);
}

#[test]
fn work_that_leaks_a_table_and_gives_up_hangs_nobody() {
    for is_begun_next in [false, true] {
        let machine = Machine::default();
        let (engine, claim) = with_effect(&machine);
        let ended = claim.complete_in(|tables| {
            std::mem::forget(tables.open_table(EFFECTS)?);
            Err::<&str, Anything>("no".into())
        });
        let Err(CompleteInError::Work { claim, .. }) = ended else { panic!("{ended:?}") };
        if !is_begun_next {
            let theirs = engine.clone();
            in_time(move || theirs.checkpoint()).unwrap();
        }
        assert_goes_on(&machine, engine, *claim);
    }
}

/// redb commits such a transaction, and keeps its place for a writer taken.
#[test]
fn work_that_leaks_an_iterator_hangs_nobody() {
    for compacts in [false, true] {
        let machine = Machine::default();
        let (engine, claim) = with_effect(&machine);
        let leaked = |tables: &Tables<'_>| {
            std::mem::forget(tables.open_table(BULK)?.range::<u64>(..)?);
            Ok::<_, Anything>("reply")
        };
        claim.complete_in(leaked).unwrap();
        if compacts {
            let theirs = engine.clone();
            assert!(in_time(move || theirs.compact()).unwrap());
        }
        let claim = fresh(&default_scope(&engine), "next");
        assert_goes_on(&machine, engine, claim);
    }
}

/// Such an insert may be one that the application can do without.
#[test]
fn work_that_goes_on_after_a_full_disk_gets_its_claim_back_and_stops_nobody() {
    // Nothing of the engine itself needs more room than the disk has.
    let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(START_MS));
    let options = small(Engine::options()).disk(&disk).clock(&clock).stepped().seed(1).ttl(TTL);
    let engine = options.cache_bytes(8 << 10).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    disk.set_capacity(Some(disk.used()));
    let ended = claim.complete_in(|tables| {
        let mut bulk = tables.open_table(BULK)?;
        let failed = (0..200).filter(|n| bulk.insert(n, &[7; 16 << 10][..]).is_err()).count();
        assert!(failed > 0, "there was room");
        Ok::<_, Anything>("reply")
    });
    let (reason, claim) = refused(ended);
    assert!(matches!(reason, ClaimError::Commit(CommitError::Busy(Busy::DiskFull(_)))), "{reason}");
    assert!(engine.stats().is_disk_full);
    disk.set_capacity(None);
    claim.complete_in(|tables| effect(tables, "key")).unwrap();
    assert!(matches!(scope.begin("next", request()), Ok(Begin::Fresh(_))));
    assert_eq!(effects(&engine, "key"), 1);
}

/// The first compaction finds the table, and the next one has a file without it.
#[test]
fn a_reader_that_leaks_a_table_puts_a_compaction_off_and_stops_nobody() {
    let machine = Machine::default();
    let (engine, claim) = with_effect(&machine);
    engine.read_tables(|tables| std::mem::forget(tables.open_table(EFFECTS).unwrap())).unwrap();
    assert!(!engine.compact().unwrap());
    assert!(engine.compact().unwrap());
    assert_goes_on(&machine, engine, claim);
}
