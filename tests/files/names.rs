//! One file by several names: its log is found by each of them, or the opening is refused before
//! anything is granted.

#![cfg(unix)]

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, abort};

use idemkv::{Begin, Engine, Fingerprint, OpenError, Status};
use tempfile::TempDir;

/// Names the file, and the key to be completed, to the process that is to be killed over it.
const CHILD: &str = "IDEMKV_TEST_NAMES_CHILD";

fn request() -> Fingerprint {
    Fingerprint::of("request")
}

fn complete(engine: &Engine, key: &str) {
    match engine.default_scope().begin(key, request()).unwrap() {
        Begin::Fresh(claim) => drop(claim.complete("reply").unwrap()),
        other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("{key} was {other:?}"),
    }
}

#[track_caller]
fn has(path: &Path, keys: &[&str]) {
    let engine = Engine::open(path).unwrap();
    for key in keys {
        let status = engine.default_scope().get(key).unwrap();
        assert!(matches!(status, Status::Done(_)), "{key} is {status:?}, by the name {}", path.display());
    }
    engine.close().unwrap();
}

/// The process that is killed: opens the file by the name it is given, and completes a key.
#[test]
fn child() {
    let Ok(order) = env::var(CHILD) else { return };
    let (path, key) = order.split_once('|').unwrap();
    let engine = Engine::open(path).unwrap();
    complete(&engine, key);
    abort();
}

fn killed_over(path: &Path, key: &str) {
    let order = format!("{}|{key}", path.display());
    let mut command = Command::new(env::current_exe().unwrap());
    let output =
        command.args(["names::child", "--exact", "--test-threads=1"]).env(CHILD, order).output().unwrap();
    assert!(!output.status.success(), "it was to be killed: {output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
}

struct Files {
    dir: TempDir,
    real: PathBuf,
}

impl Files {
    /// A file that was closed cleanly.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap().join("real.idem");
        let engine = Engine::open(&real).unwrap();
        complete(&engine, "a");
        engine.close().unwrap();
        Self { dir, real }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

#[test]
fn what_was_acknowledged_by_one_name_is_there_by_every_other() {
    let files = Files::new();
    let link = files.path("link.idem");
    symlink("real.idem", &link).unwrap();
    symlink(files.dir.path(), files.path("there")).unwrap();
    let other = files.path("there").join("..").join(files.dir.path().file_name().unwrap()).join("link.idem");
    killed_over(&link, "b");
    assert!(!files.path("link.idem-wal").exists(), "the file has one log");
    has(&files.real, &["a", "b"]);
    killed_over(&files.real, "c");
    has(&link, &["a", "b", "c"]);
    killed_over(&other, "d");
    has(&files.real, &["a", "b", "c", "d"]);
}

#[test]
fn a_file_is_made_where_a_link_to_nothing_leads() {
    let files = Files::new();
    let link = files.path("made.idem");
    symlink(files.path("target.idem"), &link).unwrap();
    killed_over(&link, "a");
    assert!(link.is_symlink() && files.path("target.idem-wal").exists());
    has(&files.path("target.idem"), &["a"]);
}

#[test]
fn by_a_hard_link_the_opening_is_refused_and_names_the_log_unless_the_file_was_closed_cleanly() {
    let files = Files::new();
    let hard = files.path("hard.idem");
    fs::hard_link(&files.real, &hard).unwrap();
    // Closed cleanly, it needs no log: a new one is made beside the new name.
    killed_over(&hard, "b");
    assert!(files.path("real.idem-wal").exists() && files.path("hard.idem-wal").exists());
    let refused = Engine::open(&files.real).unwrap_err();
    let OpenError::LogOfEarlierOpening { opened_as, .. } = &refused else { panic!("{refused:?}") };
    assert!(opened_as.ends_with("hard.idem"), "{refused}");
    assert!(refused.to_string().contains("hard.idem-wal"), "{refused}");
    // Nothing was changed by that: the right name still has it all.
    has(&hard, &["a", "b"]);
    has(&files.real, &["a", "b"]);
    // And the other way round, where there is no log at all beside the name.
    killed_over(&files.real, "c");
    fs::remove_file(files.path("hard.idem-wal")).unwrap();
    let refused = Engine::open(&hard).unwrap_err();
    assert!(
        matches!(&refused, OpenError::LogMissing { opened_as, .. } if opened_as.ends_with("real.idem")),
        "{refused}"
    );
    has(&files.real, &["a", "b", "c"]);
}

#[test]
fn a_log_put_back_from_an_earlier_opening_is_refused() {
    let files = Files::new();
    let (log, copy) = (files.path("real.idem-wal"), files.path("copy"));
    killed_over(&files.real, "b");
    fs::copy(&log, &copy).unwrap();
    killed_over(&files.real, "c");
    let last = fs::read(&log).unwrap();
    killed_over(&files.real, "d");
    for earlier in [fs::read(&copy).unwrap(), last] {
        let now = fs::read(&log).unwrap();
        fs::write(&log, &earlier).unwrap();
        let refused = Engine::open(&files.real).unwrap_err();
        assert!(matches!(refused, OpenError::LogOfEarlierOpening { .. }), "{refused}");
        fs::write(&log, &now).unwrap();
    }
    has(&files.real, &["a", "b", "c", "d"]);
}

#[test]
fn a_file_that_moves_with_its_log_is_the_same_file() {
    let files = Files::new();
    killed_over(&files.real, "b");
    let (moved, log) = (files.path("moved.idem"), files.path("moved.idem-wal"));
    fs::rename(&files.real, &moved).unwrap();
    fs::rename(files.path("real.idem-wal"), log).unwrap();
    has(&moved, &["a", "b"]);
}
