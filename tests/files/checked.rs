//! A check of a whole file: what it read, and that it never calls sound what it did not read.

use std::path::Path;

use crate::common::{Machine, fresh};
use idemkv::sim::CrashKind;
use idemkv::tables::TableError;
use idemkv::tables::redb::TableDefinition;
use idemkv::{OpenError, Verdict};

/// Files of a process that was killed, or closed its engine.
fn left(kill: bool) -> Machine {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("");
    for n in 0..20 {
        fresh(&scope, &format!("stored {n}")).complete([7; 900]).unwrap();
    }
    engine.checkpoint().unwrap();
    fresh(&scope, "logged").complete("two").unwrap();
    drop(fresh(&scope, "lost"));
    if kill {
        machine.kill((scope, engine));
    } else {
        drop(scope);
        engine.close().unwrap();
    }
    machine
}

#[test]
fn a_check_counts_what_is_there_and_changes_no_byte() {
    for kill in [false, true] {
        let machine = left(kill);
        let files = || ["x.idem", "x.idem-wal"].map(|file| machine.disk.read(Path::new(file)).unwrap());
        let before = files();
        let checked = machine.options().check_file("x.idem").unwrap();
        assert_eq!(checked.verdict(), Verdict::Sound);
        assert_eq!((checked.records, checked.interrupted, checked.damaged, checked.unread), (21, 1, 0, 0));
        assert_eq!(checked.log_frames > 0, kill, "{checked:?}");
        assert!(files() == before);
        let _engine = machine.open();
        assert!(matches!(machine.options().check_file("x.idem"), Err(OpenError::Locked(_))));
    }
}

/// Where it is sound all the same, nothing that counts was there: it can be altered.
#[test]
fn what_lies_on_a_bad_sector_is_never_called_sound() {
    for kill in [false, true] {
        let machine = left(kill);
        let whole = machine.options().check_file("x.idem").unwrap();
        let (mut unread, mut free) = (0, 0);
        for file in ["x.idem", "x.idem-wal"].map(Path::new) {
            let len = machine.disk.read(file).unwrap().len() as u64;
            for sector in (0..len).step_by(4_096) {
                assert!(machine.disk.fail_reads_of(file, sector..sector + 4_096));
                let checked = machine.options().check_file("x.idem");
                machine.disk.mend();
                match checked {
                    Err(error) => {
                        assert!(matches!(error, OpenError::Io(_)), "{sector} of {file:?}: {error:?}");
                        unread += 1;
                    }
                    Ok(checked) if checked.verdict() == Verdict::Inconclusive => unread += 1,
                    Ok(checked) => {
                        assert_eq!(checked, whole);
                        let mut altered = machine.clone();
                        altered.disk = machine.disk.image(CrashKind::KeepAll);
                        for byte in 0..4_096 {
                            assert!(altered.disk.flip(file, (sector + byte) * 8 + byte % 8));
                        }
                        assert_eq!(
                            altered.options().check_file("x.idem").unwrap(),
                            whole,
                            "{sector} of {file:?}"
                        );
                        free += 1;
                    }
                }
            }
        }
        assert!(unread > 10 && free > 0, "{unread} sectors counted, {free} did not");
    }
}

/// The engine never reads such a page by itself.
#[test]
fn a_flipped_bit_in_a_table_of_an_application_is_found() {
    const OURS: TableDefinition<'_, &str, &str> = TableDefinition::new("ours");
    let machine = Machine::default();
    let engine = machine.open();
    let written = fresh(&engine.scope(""), "key").complete_in(|tables| {
        tables.open_table(OURS).unwrap().insert("row", "a row of an application").unwrap();
        Ok::<_, TableError>("reply")
    });
    drop(written.unwrap());
    engine.close().unwrap();
    assert_eq!(machine.options().check_file("x.idem").unwrap().verdict(), Verdict::Sound);
    let bytes = machine.disk.read(Path::new("x.idem")).unwrap();
    let row = b"a row of an application";
    let places: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(row)).collect();
    assert!(!places.is_empty());
    for at in places {
        assert!(machine.disk.flip(Path::new("x.idem"), at as u64 * 8));
    }
    assert!(matches!(machine.options().check_file("x.idem"), Err(OpenError::Damaged(_))));
}
