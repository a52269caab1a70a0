//! Files that are deleted, renamed or replaced while an engine has them open.

use std::path::Path;

use crate::common::{Machine, default_scope, done, fresh, request};
use idemkv::sim::SimDisk;
use idemkv::{Begin, BeginError, ClaimError, CommitError, Engine, Failure};

const FILES: [&str; 2] = ["x.idem", "x.idem-wal"];
/// What can happen to a file behind the engine's back.
const LOSSES: [fn(&SimDisk, &Path); 3] = [
    |disk, file| assert!(disk.remove(file)),
    |disk, file| assert!(disk.rename(file, Path::new("elsewhere"))),
    |disk, file| disk.put(file, &disk.read(file).unwrap()).unwrap(),
];

#[track_caller]
fn assert_taken_away(failure: &Failure, file: &str) {
    let Failure::TakenAway(path) = failure else { panic!("{failure}") };
    assert!(path.ends_with(file), "{failure}");
}

#[test]
fn a_file_that_was_taken_away_is_noticed_by_the_next_step_and_nothing_is_granted_or_acknowledged_after() {
    for file in FILES {
        for lose in LOSSES {
            let machine = Machine::default();
            let engine = machine.open();
            let scope = default_scope(&engine);
            fresh(&scope, "done").complete("reply").unwrap();
            let held = fresh(&scope, "held");
            let Ok(Begin::InFlight(pending)) = scope.begin("held", request()) else { panic!("it is out") };

            lose(&machine.disk, Path::new(file));
            engine.step();

            let Err(BeginError::Failed(refused)) = scope.begin("new", request()) else {
                panic!("{file}: it was granted")
            };
            assert_taken_away(&refused, file);
            let Err(BeginError::Failed(told)) = pending.wait() else { panic!("{file}: nobody ended it") };
            assert_taken_away(&told, file);
            let error = held.complete("late").unwrap_err();
            let ClaimError::Commit(CommitError::Failed(failed)) = error.reason() else { panic!("{error}") };
            assert_taken_away(failed, file);
            assert_eq!(done(&scope, "done").body(), b"reply", "what is known is replayed on");
            drop(scope);
            assert_taken_away(&engine.close().unwrap_err(), file);
        }
    }
}

#[test]
fn a_file_that_was_taken_away_since_the_last_look_is_noticed_at_close() {
    for file in FILES {
        for lose in LOSSES {
            let machine = Machine::default();
            let engine = machine.open();
            fresh(&default_scope(&engine), "done").complete("reply").unwrap();
            engine.step();
            lose(&machine.disk, Path::new(file));
            assert_taken_away(&engine.close().unwrap_err(), file);
        }
    }
}

#[test]
fn a_file_that_came_back_before_anybody_looked_was_never_away() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    for file in FILES {
        assert!(machine.disk.rename(Path::new(file), Path::new("elsewhere")));
        fresh(&scope, file).complete("reply").unwrap();
        assert!(machine.disk.rename(Path::new("elsewhere"), Path::new(file)));
        engine.step();
    }
    drop(scope);
    engine.close().unwrap();
    let scope = default_scope(&machine.open());
    for file in FILES {
        assert_eq!(done(&scope, file).body(), b"reply");
    }
}

/// The directory was renamed: both files are whole where they are now.
#[test]
fn files_that_were_renamed_together_have_all_that_was_acknowledged_where_they_are_now() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "before").complete("reply").unwrap();
    for file in FILES {
        assert!(machine.disk.rename(Path::new(file), &Path::new("new").join(file)));
    }
    fresh(&default_scope(&engine), "after").complete("reply").unwrap();
    assert_taken_away(&engine.close().unwrap_err(), "x.idem");
    let engine = machine.options().open("new/x.idem").unwrap();
    for key in ["before", "after"] {
        assert_eq!(done(&default_scope(&engine), key).body(), b"reply");
    }
}

/// With real files and the engine's own thread: a waiter is told, without anybody asking.
#[cfg(unix)]
#[test]
fn a_deleted_file_is_noticed_within_two_seconds_and_two_engines_never_both_grant() {
    use std::time::{Duration, Instant};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    let held = fresh(&scope, "held");
    let Ok(Begin::InFlight(pending)) = scope.begin("held", request()) else { panic!("it is out") };
    let deleted = Instant::now();
    for file in FILES {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    let Err(BeginError::Failed(told)) = pending.wait() else { panic!("nobody ended it") };
    assert_taken_away(&told, "x.idem");
    // Twice what is promised: this machine may be busy.
    assert!(deleted.elapsed() < Duration::from_secs(4), "{:?}", deleted.elapsed());

    let other = Engine::open(&path).unwrap();
    let granted = fresh(&default_scope(&other), "key");
    assert!(matches!(scope.begin("key", request()), Err(BeginError::Failed(_))));
    assert!(held.complete("late").is_err());
    drop(granted.complete("reply").unwrap());
    drop(scope);
    assert!(engine.close().is_err());
    other.close().unwrap();
}
