//! An effect and its completion in one transaction: both or neither, whatever happens in between.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Machine, START_MS, TTL, default_scope, done, fresh, request, small};
use idemkv::sim::{CrashKind, DiskFault, ManualClock, Operation, SimDisk};
use idemkv::tables::redb::{self, ReadableTable, TableDefinition};
use idemkv::tables::{TableError, Tables};
use idemkv::{
    Begin, BeginError, Busy, ClaimError, CommitError, CompleteInError, Durability, Engine, Event, Failure,
    Observer, Policy, Status,
};

type Anything = Box<dyn std::error::Error>;

const EFFECTS: TableDefinition<'_, &str, u64> = TableDefinition::new("effects");
const BULK: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bulk");

/// Counts one more effect of the operation with this key.
fn effect(tables: &Tables<'_>, key: &str) -> Result<String, Anything> {
    let mut effects = tables.open_table(EFFECTS)?;
    let count = effects.get(key)?.map_or(0, |count| count.value()) + 1;
    effects.insert(key, count)?;
    Ok(format!("effect {count}"))
}

fn effects(engine: &Engine, key: &str) -> u64 {
    engine
        .read_tables(|tables| match tables.open_table(EFFECTS) {
            Ok(effects) => effects.get(key).unwrap().map_or(0, |count| count.value()),
            Err(TableError::Redb(_)) => 0,
            Err(other) => panic!("{other}"),
        })
        .unwrap()
}

#[test]
fn the_effect_and_the_completion_are_there_together_also_after_a_power_cut() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "through the log").complete("reply").unwrap();
    let open = fresh(&scope, "open");
    let record = fresh(&scope, "key").complete_in(|tables| effect(tables, "key")).unwrap();
    assert_eq!((record.body(), record.is_durable()), (&b"effect 1"[..], true));
    assert_eq!(done(&scope, "key").body(), b"effect 1");
    assert_eq!(effects(&engine, "key"), 1);
    drop((open, scope));
    machine.kill(engine);
    machine.disk.reboot(CrashKind::DropAll);

    let engine = machine.open();
    let scope = default_scope(&engine);
    assert_eq!(done(&scope, "key").body(), b"effect 1");
    assert_eq!(effects(&engine, "key"), 1);
    assert_eq!(done(&scope, "through the log").body(), b"reply");
    assert!(matches!(engine.get("open"), Ok(Status::Interrupted(_))));
}

#[test]
fn after_a_crash_at_any_point_there_are_both_or_neither() {
    let (mut both, mut neither) = (0, 0);
    for crash in 0.. {
        let machine = Machine::rerun();
        let engine = machine.open();
        let claim = fresh(&default_scope(&engine), "key");
        machine.disk.crash_at(machine.disk.operations() + crash);
        let completed = claim.complete_in(|tables| effect(tables, "key"));
        let crashed = machine.disk.crashed();
        drop(engine);
        for kind in [CrashKind::DropAll, CrashKind::KeepAll, CrashKind::Torn(crash)] {
            let image = machine.disk.image(kind);
            let engine = machine.options().disk(&image).open("x.idem").unwrap();
            let effects = effects(&engine, "key");
            match engine.begin("key", request()).unwrap() {
                Begin::Done(record) => {
                    assert_eq!((record.body(), effects), (&b"effect 1"[..], 1));
                    both += 1;
                }
                Begin::Fresh(claim) => {
                    assert_eq!((claim.attempt(), effects), (2, 0), "the interruption is told");
                    assert!(completed.is_err(), "acknowledged, and lost");
                    neither += 1;
                    // And the retry has the effect once.
                    claim.complete_in(|tables| effect(tables, "key")).unwrap();
                    assert_eq!(self::effects(&engine, "key"), 1);
                }
                Begin::InFlight(_) => panic!("nobody else is here"),
            }
        }
        if !crashed {
            break;
        }
    }
    assert!(both > 3 && neither > 3, "{both} images with both, {neither} with neither");
}

#[test]
fn an_error_of_the_work_gives_the_claim_back_and_leaves_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let refused = claim.complete_in(|tables| {
        effect(tables, "key")?;
        Err::<String, Anything>("no funds".into())
    });
    let Err(CompleteInError::Work { error, claim }) = refused else { panic!("{refused:?}") };
    assert_eq!(error.to_string(), "no funds");
    assert_eq!(effects(&engine, "key"), 0);
    claim.complete_in(|tables| effect(tables, "key")).unwrap();
    assert_eq!(effects(&engine, "key"), 1);
}

const ROWS: u64 = 200;

/// More rows of the application's own than memory holds.
fn with_bulk(machine: &Machine) -> Engine {
    let open = || machine.options().cache_bytes(8 << 10).open("x.idem").unwrap();
    let engine = open();
    let bulk = fresh(&default_scope(&engine), "bulk").complete_in(|tables| {
        let mut bulk = tables.open_table(BULK)?;
        (0..ROWS).try_for_each(|n| bulk.insert(n, &[7; 16 << 10][..]).map(drop))?;
        Ok::<_, Anything>("")
    });
    bulk.unwrap();
    engine.close().unwrap();
    open()
}

/// Reads the application's rows from the disk, of which one read fails.
fn read_badly(machine: &Machine, bulk: &impl ReadableTable<u64, &'static [u8]>) -> redb::StorageError {
    machine.disk.fail_read(machine.disk.reads());
    (0..ROWS).find_map(|n| bulk.get(n).err()).unwrap()
}

/// redb stops after an error of a read as after any other.
#[test]
fn a_read_of_tables_that_fails_stops_nobody() {
    let machine = Machine::default();
    let engine = with_bulk(&machine);
    let scope = default_scope(&engine);
    let [first, second] = ["first", "second"].map(|key| fresh(&scope, key));
    let read = engine.read_tables(|tables| {
        read_badly(&machine, &tables.open_table(BULK).unwrap());
        // The file can't be opened again under a reader's feet. That is for later, and only delays what writes to it.
        let others = || {
            let refused = engine.checkpoint().unwrap_err();
            assert!(matches!(&refused, Failure::Io(failure) if failure.is_disk_full()), "{refused}");
            assert!(refused.to_string().contains("while tables are read"), "{refused}");
            let refused = first.complete_in(|tables| effect(tables, "first"));
            let Err(CompleteInError::End(refused)) = refused else { panic!("there was nothing to write to") };
            assert!(refused.is_retryable());
            fresh(&scope, "log").complete("reply").unwrap();
            refused.into_claim().unwrap()
        };
        std::thread::scope(|threads| threads.spawn(others).join().unwrap())
    });
    read.unwrap().complete_in(|tables| effect(tables, "first")).unwrap();

    let read = engine.read_tables(|tables| read_badly(&machine, &tables.open_table(BULK).unwrap()));
    assert!(read.is_ok());
    second.complete_in(|tables| effect(tables, "second")).unwrap();
    assert_eq!((effects(&engine, "first"), effects(&engine, "second")), (1, 1));
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!((effects(&engine, "first"), effects(&engine, "second")), (1, 1));
    assert_eq!(done(&default_scope(&engine), "log").body(), b"reply");
}

/// redb refuses to abort then. That stopped the engine, as if something had been written.
#[test]
fn work_that_gives_up_after_a_failed_read_gets_its_claim_back_and_stops_nobody() {
    for others_read in [false, true] {
        let machine = Machine::default();
        let engine = with_bulk(&machine);
        let scope = default_scope(&engine);
        let refused = fresh(&scope, "key").complete_in(|tables| {
            effect(tables, "key")?;
            let failed = read_badly(&machine, &tables.open_table(BULK)?);
            if others_read {
                // This finds the database stopped, and reads a view.
                assert_eq!(effects(&engine, "key"), 0);
            }
            Err::<String, Anything>(failed.into())
        });
        let Err(CompleteInError::Work { claim, .. }) = refused else { panic!("{refused:?}") };
        fresh(&scope, "log").complete("reply").unwrap();
        claim.complete_in(|tables| effect(tables, "key")).unwrap();
        engine.checkpoint().unwrap();
        drop(scope);
        machine.kill(engine);
        let engine = machine.open();
        assert_eq!((effects(&engine, "key"), effects(&engine, "bulk")), (1, 0));
        assert_eq!(done(&default_scope(&engine), "log").body(), b"reply");
    }
}

/// The work should have given up. What redb refuses to commit is not there, but that is for the next opening to find out.
#[test]
fn work_that_goes_on_after_a_failed_read_has_no_effect() {
    for others_read in [false, true] {
        let machine = Machine::default();
        let engine = with_bulk(&machine);
        let scope = default_scope(&engine);
        let refused = fresh(&scope, "key").complete_in(|tables| {
            let reply = effect(tables, "key")?;
            read_badly(&machine, &tables.open_table(BULK)?);
            if others_read {
                assert_eq!(effects(&engine, "key"), 0);
            }
            Ok::<_, Anything>(reply)
        });
        let Err(CompleteInError::End(error)) = refused else { panic!("{refused:?}") };
        assert!(
            matches!(error.reason(), ClaimError::Commit(CommitError::Failed(Failure::Io(_)))),
            "{error:?}"
        );
        assert!(error.into_claim().is_none());
        assert_eq!(done(&scope, "bulk").body(), b"");
        drop(scope);
        machine.kill(engine);
        let engine = machine.open();
        assert_eq!(effects(&engine, "key"), 0);
        assert!(matches!(engine.get("key"), Ok(Status::Interrupted(_))));
    }
}

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
    assert!(matches!(engine.get("key"), Ok(Status::Interrupted(_))));
    other.complete_in(|tables| effect(tables, "other")).unwrap();
    engine.checkpoint().unwrap();
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!((effects(&engine, "key"), effects(&engine, "other")), (0, 1));
    assert_eq!(done(&default_scope(&engine), "log").body(), b"reply");
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
    assert!(matches!(engine.get("key"), Ok(Status::Interrupted(_))));
    assert_eq!(done(&default_scope(&engine), "log").body(), b"reply");
    let rows = engine.read_tables(|tables| {
        let bulk = tables.open_table(BULK).unwrap();
        (0..ROWS).filter(|n| bulk.get(n).unwrap().unwrap().value() == &[7; 16 << 10][..]).count()
    });
    assert_eq!(rows.unwrap() as u64, ROWS);
}

#[test]
fn our_own_tables_are_out_of_reach() {
    const OURS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("idemkv.meta");
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let refused = claim.complete_in(|tables| {
        assert!(matches!(tables.delete_table(OURS), Err(TableError::Reserved(_))));
        tables.open_table(OURS).map(|_| "")
    });
    let Err(CompleteInError::Work { error: TableError::Reserved(name), .. }) = refused else { panic!() };
    assert_eq!(name, "idemkv.meta");
    let read = engine.read_tables(|tables| tables.open_table(OURS).err().map(|error| error.to_string()));
    assert!(read.unwrap().unwrap().contains("the engine's own"));
}

#[test]
fn what_would_wait_for_the_transaction_is_refused_inside_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let (claim, inner) = (fresh(&scope, "key"), fresh(&scope, "inner"));
    claim
        .complete_in(|tables| {
            let refused = inner.complete_in(|tables| effect(tables, "inner"));
            let Err(CompleteInError::End(error)) = refused else { panic!("{refused:?}") };
            assert!(matches!(error.reason(), ClaimError::InsideTransaction));
            drop(error.into_claim());
            // The log is another matter.
            fresh(&scope, "log").complete("reply").unwrap();
            engine.checkpoint().unwrap();
            engine.step();
            effect(tables, "key")
        })
        .unwrap();
    assert_eq!((effects(&engine, "key"), effects(&engine, "inner")), (1, 0));
    assert_eq!(done(&scope, "log").body(), b"reply");
}

#[test]
fn closing_inside_a_transaction_waits_for_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let claim = fresh(&default_scope(&engine), "key");
    let again = engine.clone();
    claim
        .complete_in(|tables| {
            again.close().unwrap();
            effect(tables, "key")
        })
        .unwrap();
    drop(engine);
    let engine = loop {
        match Engine::open(&path) {
            Ok(engine) => break engine,
            Err(idemkv::OpenError::Locked(_)) => std::thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(effects(&engine, "key"), 1);
    assert_eq!(done(&default_scope(&engine), "key").body(), b"effect 1");
}

#[test]
fn a_claim_superseded_during_the_work_has_no_effect() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let second = Duration::from_secs(1);
    let scope = engine.set_policy("jobs", engine.policy().lease(second)).unwrap();
    let claim = fresh(&scope, "key");
    let late = claim.complete_in(|tables| {
        machine.clock.advance(second);
        effect(tables, "key")
    });
    let Err(CompleteInError::End(error)) = late else { panic!("{late:?}") };
    assert!(matches!(error.reason(), ClaimError::Superseded(now) if matches!(**now, Status::Interrupted(_))));
    assert_eq!(effects(&engine, "key"), 0);
    let next = fresh(&scope, "key");
    assert_eq!(next.attempt(), 2);
    next.complete_in(|tables| effect(tables, "key")).unwrap();
    assert_eq!(effects(&engine, "key"), 1);
}

#[test]
fn a_claim_that_the_log_knows_nothing_of_can_be_completed_so() {
    let machine = Machine::rerun();
    let engine = machine.options().durability(Durability::Completions).open("x.idem").unwrap();
    fresh(&default_scope(&engine), "key").complete_in(|tables| effect(tables, "key")).unwrap();
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!(effects(&engine, "key"), 1);
    assert_eq!(done(&default_scope(&engine), "key").body(), b"effect 1");
}

#[test]
fn a_body_that_is_too_long_undoes_the_effect() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let refused = claim.complete_in(|tables| effect(tables, "key").map(|_| vec![0; 5_000]));
    let Err(CompleteInError::End(error)) = refused else { panic!("{refused:?}") };
    assert!(matches!(error.reason(), ClaimError::BodyTooLarge { .. }));
    assert_eq!(effects(&engine, "key"), 0);
    assert!(error.into_claim().unwrap().complete("short").is_ok());
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
    let Ok(Begin::InFlight(pending)) = engine.begin("key", request()) else { panic!("not decided") };
    assert!(matches!(pending.wait(), Err(BeginError::Failed(_))));
    assert!(matches!(engine.begin("new", request()), Err(BeginError::Failed(_))));
    machine.disk.fail_syncs(None);
    log.complete("reply").unwrap();
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    let effects = effects(&engine, "key");
    match engine.begin("key", request()).unwrap() {
        Begin::Done(_) => assert_eq!(effects, 1),
        Begin::Fresh(claim) => assert_eq!((effects, claim.attempt()), (0, 2)),
        Begin::InFlight(_) => panic!("nobody else is here"),
    }
    assert_eq!(done(&default_scope(&engine), "log").body(), b"reply");
}

#[test]
fn many_threads_with_and_without_transactions_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let scope = &scope;
            threads.spawn(move || {
                for n in 0..40 {
                    let key = format!("{thread} {n}");
                    let claim = fresh(scope, &key);
                    if n % 4 == 0 {
                        claim.complete_in(|tables| effect(tables, &key)).unwrap();
                    } else {
                        claim.complete("reply").unwrap();
                    }
                }
            });
        }
    });
    drop((engine, scope));
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    for (thread, n) in (0..4).flat_map(|thread| (0..40).map(move |n| (thread, n))) {
        let key = format!("{thread} {n}");
        let body: &[u8] = if n % 4 == 0 { b"effect 1" } else { b"reply" };
        assert_eq!(done(&scope, &key).body(), body);
    }
}

#[derive(Default)]
struct Interruptions(AtomicUsize);

impl Observer for Interruptions {
    fn event(&self, event: &Event<'_>) {
        self.0.fetch_add(usize::from(event.name() == "interrupted"), Ordering::Relaxed);
    }
}

#[test]
fn a_step_inside_a_transaction_does_nothing() {
    let machine = Machine::default();
    let told = Arc::new(Interruptions::default());
    let options =
        machine.options().policy(Policy::default().ttl(TTL).lease(TTL / 2)).observer(Arc::clone(&told));
    let engine = options.open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let _late = fresh(&scope, "late");
    machine.clock.advance(TTL / 4);
    let claim = fresh(&scope, "key");
    machine.clock.advance(TTL / 4);
    let completed = claim.complete_in(|_| {
        engine.step();
        assert_eq!(told.0.load(Ordering::Relaxed), 0, "a lease that is over comes to its end outside");
        Ok::<_, ()>("reply")
    });
    assert_eq!(completed.unwrap().body(), b"reply");
    engine.step();
    assert_eq!(told.0.load(Ordering::Relaxed), 1);
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

#[test]
fn progress_of_an_earlier_attempt_that_nobody_waited_for_does_not_open_the_key_again() {
    for durability in [Durability::Completions, Durability::Relaxed(Duration::from_secs(60))] {
        let machine = Machine::rerun();
        let engine = machine.options().durability(durability).open("x.idem").unwrap();
        let scope = default_scope(&engine);
        let mut first = fresh(&scope, "key");
        {
            let mut progress = std::pin::pin!(first.save_progress_async("half"));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(progress.as_mut().poll(&mut context).is_pending());
        }
        drop(first);
        let second = fresh(&scope, "key");
        assert_eq!(second.attempt(), 2);
        second.complete_in(|tables| effect(tables, "key")).unwrap();
        let _record = fresh(&scope, "other").complete("reply").unwrap();
        engine.flush().unwrap();
        machine.kill(engine);
        let engine = machine.open();
        assert_eq!(done(&default_scope(&engine), "key").body(), b"effect 1");
        assert_eq!(effects(&engine, "key"), 1);
    }
}

#[test]
fn progress_that_nobody_waited_for_does_not_open_the_key_again() {
    for durability in [Durability::Full, Durability::Completions] {
        let machine = Machine::rerun();
        let engine = machine.options().durability(durability).open("x.idem").unwrap();
        let mut claim = fresh(&default_scope(&engine), "key");
        {
            let mut progress = std::pin::pin!(claim.save_progress_async("half"));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(progress.as_mut().poll(&mut context).is_pending());
        }
        claim.complete_in(|tables| effect(tables, "key")).unwrap();
        engine.step();
        engine.checkpoint().unwrap();
        fresh(&default_scope(&engine), "other").complete("reply").unwrap();
        machine.kill(engine);
        let engine = machine.open();
        assert_eq!(done(&default_scope(&engine), "key").body(), b"effect 1");
        assert_eq!(effects(&engine, "key"), 1);
    }
}
