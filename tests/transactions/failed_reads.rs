//! Reads of the application's tables that fail.

use crate::common::{Machine, default_scope, done, fresh};
use crate::helpers::{Anything, BULK, ROWS, effect, effects, with_bulk};
use idemkv::tables::redb::{self, ReadableTable};
use idemkv::{ClaimError, CommitError, CompleteInError, Failure, Status};

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
        assert!(matches!(engine.default_scope().get("key"), Ok(Status::Interrupted(_))));
    }
}
