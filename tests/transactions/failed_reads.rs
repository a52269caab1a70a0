//! Reads of the application's tables that fail.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::common::{Machine, default_scope, done, fresh};
use crate::helpers::{Anything, BULK, ROWS, effect, effects, with_bulk};
use idemkv::sim::CrashKind;
use idemkv::tables::redb::{self, ReadableTable};
use idemkv::{Busy, ClaimError, CommitError, CompleteInError, Engine, Failure};

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
        // The file can't be opened again under a reader's feet. That is for later, and only delays
        // what writes to it.
        let others = || {
            let refused = engine.checkpoint().unwrap_err();
            assert!(
                matches!(&refused, Failure::FileNotReady(failure) if !failure.is_disk_full()),
                "{refused}"
            );
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

/// The work should have given up. What redb refuses to commit is not there, so the claim is as
/// good as before.
#[test]
fn work_that_goes_on_after_a_failed_read_has_no_effect_and_gets_its_claim_back() {
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
            matches!(error.reason(), ClaimError::Commit(CommitError::Busy(Busy::FileNotReady(_)))),
            "{error:?}"
        );
        let claim = error.into_claim().unwrap();
        assert_eq!(done(&scope, "bulk").body(), b"");
        assert_eq!(effects(&engine, "key"), 0);
        claim.complete_in(|tables| effect(tables, "key")).unwrap();
        drop(scope);
        machine.kill(engine);
        let engine = machine.open();
        assert_eq!(effects(&engine, "key"), 1);
        drop(done(&default_scope(&engine), "key"));
    }
}

/// What others read stops redb as well. Nothing was written, and it told the claim that nobody
/// knew.
#[test]
fn a_transaction_during_which_a_read_of_others_fails_gets_its_claim_back() {
    let machine = Machine::default();
    let engine = with_bulk(&machine);
    let scope = default_scope(&engine);
    let refused = fresh(&scope, "key").complete_in(|tables| {
        let reply = effect(tables, "key")?;
        assert!(engine.read_tables(|tables| read_badly(&machine, &tables.open_table(BULK).unwrap())).is_ok());
        Ok::<_, Anything>(reply)
    });
    let Err(CompleteInError::End(error)) = refused else { panic!("{refused:?}") };
    assert!(error.is_retryable(), "{error}");
    assert!(!engine.stats().has_failed);
    error.into_claim().unwrap().complete_in(|tables| effect(tables, "key")).unwrap();
    fresh(&scope, "granted").complete("reply").unwrap();
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!(effects(&engine, "key"), 1);
    for key in ["key", "granted"] {
        drop(done(&default_scope(&engine), key));
    }
}

fn read_all(engine: &Engine) {
    let read = engine.read_tables(|tables| {
        let bulk = tables.open_table(BULK).unwrap();
        (0..ROWS).for_each(|n| drop(bulk.get(n).unwrap()));
    });
    read.unwrap();
}

/// Lets a read of somebody else fail before that sync of the file from now on; gives how many have.
/// The next reader opens a view. It sees what a power cut would leave at that moment.
fn fail_read_before_sync(machine: &Machine, engine: &Arc<Engine>, number: u64) -> Arc<AtomicU64> {
    let (weak, disk) = (Arc::downgrade(engine), machine.disk.clone());
    let cut = machine.clone();
    let (syncs, met) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&met);
    machine.disk.before_syncs(move |name| {
        let Some(engine) = weak.upgrade().filter(|_| name == "x.idem") else { return };
        if syncs.fetch_add(1, Ordering::Relaxed) == number {
            let failed = engine.stats().failed_reads;
            drop(engine.read_tables(|tables| {
                disk.fail_read(disk.reads());
                let bulk = tables.open_table(BULK).ok()?;
                (0..ROWS).find_map(|n| bulk.get(n).err())
            }));
            if engine.stats().failed_reads > failed {
                counted.fetch_add(1, Ordering::Relaxed);
                let cut = Machine { disk: disk.image(CrashKind::DropAll), ..cut.clone() };
                assert_eq!(effects(&engine, "key"), effects(&cut.open(), "key"), "sync {number}");
            }
        }
    });
    met
}

/// redb reads after a commit, too. If it can't, it calls the commit failed, which is there all the same.
#[test]
fn a_transaction_during_which_a_read_of_others_fails_happens_once_whatever_redb_says_of_it() {
    read_fails_at_each_sync(false);
}

/// The file can't be opened for writing then. The outcome was unknown, and the engine stopped for good.
#[test]
fn a_transaction_whose_outcome_is_in_question_is_decided_beside_a_reader_of_tables() {
    read_fails_at_each_sync(true);
}

fn read_fails_at_each_sync(beside_a_reader: bool) {
    let (mut completed, mut given_back) = (0, 0);
    for sync in 0.. {
        let machine = Machine::default();
        let engine = Arc::new(with_bulk(&machine));
        // redb's cache is full of rows, so that the pages of the commit are not in it.
        read_all(&engine);
        let (told, is_over) = beside(beside_a_reader.then_some(&*engine), || {
            let met = fail_read_before_sync(&machine, &engine, sync);
            let told = fresh(&default_scope(&engine), "key").complete_in(|tables| effect(tables, "key"));
            machine.disk.before_syncs(|_| {});
            (told, met.load(Ordering::Relaxed) == 0)
        });
        assert!(!engine.stats().has_failed, "sync {sync}");
        match told {
            Ok(record) => {
                assert_eq!(record.body(), b"effect 1");
                completed += u64::from(!is_over);
            }
            Err(CompleteInError::End(error)) => {
                assert!(error.is_retryable(), "{error}");
                given_back += 1;
                let again = error.into_claim().unwrap().complete_in(|tables| effect(tables, "key"));
                assert_eq!(again.unwrap().body(), b"effect 1");
            }
            Err(other) => panic!("{other}"),
        }
        assert_eq!(effects(&engine, "key"), 1);
        drop(fresh(&default_scope(&engine), "granted").complete("reply").unwrap());
        engine.checkpoint().unwrap();
        machine.kill(Arc::into_inner(engine).unwrap());
        let engine = machine.open();
        assert_eq!(effects(&engine, "key"), 1);
        for key in ["key", "granted"] {
            drop(done(&default_scope(&engine), key));
        }
        if is_over {
            break;
        }
    }
    assert!(completed > 0 && given_back > 0, "{completed} completed, {given_back} given back");
}

/// Only the second header of a commit leads to its pages. Before that, nothing is in question, and
/// nobody has to read the file to know.
#[test]
fn a_transaction_that_stopped_before_its_last_step_is_given_back_though_nothing_can_be_read() {
    let machine = Machine::default();
    let engine = Arc::new(with_bulk(&machine));
    let (weak, disk) = (Arc::downgrade(&engine), machine.disk.clone());
    machine.disk.before_syncs(move |name| {
        let Some(engine) = weak.upgrade().filter(|_| name == "x.idem") else { return };
        assert!(disk.fail_reads_of(Path::new(name), 0..u64::MAX));
        (0..ROWS).for_each(|n| {
            drop(engine.read_tables(|tables| tables.open_table(BULK).map(|bulk| bulk.get(n).is_ok())));
        });
    });
    let told = fresh(&default_scope(&engine), "key").complete_in(|tables| effect(tables, "key"));
    machine.disk.before_syncs(|_| {});
    machine.disk.mend();
    let Err(CompleteInError::End(error)) = told else { panic!("{told:?}") };
    assert!(error.is_retryable() && !engine.stats().has_failed, "{error}");
    error.into_claim().unwrap().complete_in(|tables| effect(tables, "key")).unwrap();
    assert_eq!(effects(&engine, "key"), 1);
}

/// Runs this while another thread reads the tables of that engine, if there is one.
fn beside<T>(engine: Option<&Engine>, run: impl FnOnce() -> T) -> T {
    let Some(engine) = engine else { return run() };
    let (is_in, comes) = mpsc::channel();
    let (end, may_end) = mpsc::channel::<()>();
    thread::scope(|threads| {
        threads.spawn(move || {
            let read = engine.read_tables(|_| {
                is_in.send(()).unwrap();
                // The other side is dropped.
                may_end.recv().unwrap_err();
            });
            read.unwrap();
        });
        comes.recv().unwrap();
        let _end = end;
        run()
    })
}
