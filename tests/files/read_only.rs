//! Looking into a file without changing it.

use std::fs;
use std::path::Path;

use crate::common::{Machine, done, fresh, request};
use idemkv::{BeginError, Engine, Failure, OpenError, Status};

const FILES: [&str; 2] = ["x.idem", "x.idem-wal"];

#[test]
fn a_file_is_seen_as_it_is_after_a_close_and_after_a_kill_and_not_a_byte_of_it_changes() {
    for kill in [false, true] {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = engine.scope("");
        fresh(&scope, "stored").complete("one").unwrap();
        engine.checkpoint().unwrap();
        fresh(&scope, "logged").complete("two").unwrap();
        drop(fresh(&scope, "lost"));
        let held = fresh(&scope, "held");
        if kill {
            machine.kill((held, scope, engine));
        } else {
            drop((held, scope));
            engine.close().unwrap();
        }
        let files = || FILES.map(|file| machine.disk.read(Path::new(file)).unwrap());
        let before = files();
        // On a full disk as well.
        machine.disk.set_capacity(Some(machine.disk.used()));
        let operations = machine.disk.operations();
        for _ in 0..2 {
            let reader = machine.options().read_only().open("x.idem").unwrap();
            let scope = reader.scope("");
            assert_eq!(done(&scope, "stored").body(), b"one");
            assert_eq!(done(&scope, "logged").body(), b"two");
            for key in ["lost", "held"] {
                assert!(
                    matches!(reader.default_scope().get(key), Ok(Status::Interrupted(_))),
                    "{key}, killed: {kill}"
                );
            }
            assert_eq!(reader.entries().flatten().count(), 4);
            let refused = reader.default_scope().begin("new", request());
            assert!(matches!(refused, Err(BeginError::Failed(Failure::ReadOnly))), "{refused:?}");
            assert!(reader.default_scope().forget("stored").is_err() && reader.checkpoint().is_err());
            assert!(scope.resolve("lost").is_err());
            reader.step();
            assert!(!reader.stats().has_failed, "it only looks");
            drop(scope);
            reader.close().unwrap();
        }
        assert_eq!(machine.disk.operations(), operations, "something was written");
        assert!(files() == before, "the files have changed");
        machine.disk.set_capacity(None);
        let engine = machine.open();
        assert_eq!(done(&engine.scope(""), "logged").body(), b"two");
    }
}

#[cfg(unix)]
#[test]
fn several_look_at_once_where_nothing_may_be_written_and_keep_out_who_would_write() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let missing = Engine::options().read_only().open(&path);
    assert!(matches!(missing, Err(OpenError::Io(_))), "{missing:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made");
    let engine = Engine::open(&path).unwrap();
    fresh(&engine.scope(""), "key").complete("reply").unwrap();
    let locked = Engine::options().read_only().open(&path);
    assert!(matches!(locked, Err(OpenError::Locked(_))), "{locked:?}");
    engine.close().unwrap();
    for entry in fs::read_dir(dir.path()).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o400)).unwrap();
    }
    let readers = [(); 2].map(|()| Engine::options().read_only().open(&path).unwrap());
    for reader in &readers {
        assert_eq!(done(&reader.scope(""), "key").body(), b"reply");
    }
    for entry in fs::read_dir(dir.path()).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(matches!(Engine::open(&path), Err(OpenError::Locked(_))));
    drop(readers);
    Engine::open(&path).unwrap().close().unwrap();
}
