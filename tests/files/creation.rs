//! Making the file: what a creation that was killed leaves, where a file system has no hard links.

use std::path::Path;

use crate::common::{Machine, done, fresh};
use idemkv::OpenError;

/// An empty file reserved the name, and the whole one was not renamed.
fn reserved(new: &[u8]) -> Machine {
    let machine = Machine::default();
    machine.disk.put(Path::new("x.idem"), b"").unwrap();
    machine.disk.put(Path::new("x.idem-unfinished"), new).unwrap();
    machine
}

#[test]
fn a_name_that_a_killed_creation_reserved_is_taken_up_by_the_next_opening() {
    for new in [&b""[..], b"half of it"] {
        let machine = reserved(new);
        let engine = machine.open();
        fresh(&engine.scope(""), "key").complete("reply").unwrap();
        machine.kill(engine);
        assert_eq!(done(&machine.open().scope(""), "key").body(), b"reply");
        assert!(!machine.disk.remove(Path::new("x.idem-unfinished")), "nothing is left of it");
    }
}

#[test]
fn a_crash_at_any_operation_of_taking_it_up_leaves_a_file_that_opens() {
    for operation in 0.. {
        let machine = reserved(b"half of it");
        machine.disk.crash_at(machine.disk.operations() + operation);
        let opened = machine.options().open("x.idem");
        let is_over = opened.is_ok();
        drop(opened);
        machine.disk.reboot(idemkv::sim::CrashKind::DropAll);
        let engine = machine.open();
        fresh(&engine.scope(""), "key").complete("reply").unwrap();
        if is_over {
            return;
        }
    }
}

#[test]
fn an_empty_file_that_nobody_was_making_is_left_alone() {
    let machine = Machine::default();
    machine.disk.put(Path::new("x.idem"), b"").unwrap();
    let opened = machine.options().open("x.idem");
    assert!(matches!(opened, Err(OpenError::NotIdemkv(_))), "{opened:?}");
    assert_eq!(machine.disk.read(Path::new("x.idem")).unwrap(), b"");
    // Nor one that has bytes, or a log of ours beside it.
    let machine = reserved(b"half of it");
    machine.disk.put(Path::new("x.idem"), b"theirs").unwrap();
    let opened = machine.options().open("x.idem");
    assert!(matches!(opened, Err(OpenError::NotIdemkv(_))), "{opened:?}");
    assert_eq!(machine.disk.read(Path::new("x.idem")).unwrap(), b"theirs");
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&engine.scope(""), "key").complete("reply").unwrap();
    machine.kill(engine);
    machine.disk.put(Path::new("x.idem"), b"").unwrap();
    machine.disk.put(Path::new("x.idem-unfinished"), b"").unwrap();
    let opened = machine.options().open("x.idem");
    assert!(matches!(opened, Err(OpenError::Damaged(_))), "{opened:?}");
}
