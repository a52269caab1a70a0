//! Files to run the command on, and running it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use idemkv::{Begin, Claim, Engine, Fingerprint, Policy, Recovery};
use tempfile::TempDir;

/// What a run of the command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the command, with nobody to ask.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_idemkv"));
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    Ran {
        code: output.status.code().unwrap_or_else(|| panic!("{output:?}")),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the command on a file: subcommand, file, arguments.
pub(crate) fn on(file: &Path, subcommand: &str, arguments: &[&str]) -> Ran {
    let first = [OsStr::new(subcommand), file.as_os_str()];
    run(first.into_iter().chain(arguments.iter().map(OsStr::new)))
}

/// The same, for a run that has to succeed; gives what it wrote.
pub(crate) fn fine(file: &Path, subcommand: &str, arguments: &[&str]) -> String {
    let ran = on(file, subcommand, arguments);
    assert_eq!(ran.code, 0, "{subcommand} {arguments:?}: {ran:?}");
    ran.out
}

pub(crate) fn claim(engine: &Engine, scope: &str, key: impl AsRef<[u8]>) -> Claim {
    match engine.scope(scope).begin(key.as_ref(), Fingerprint::of("request")).unwrap() {
        Begin::Fresh(claim) => claim,
        other => panic!("{other:?}"),
    }
}

/// A key that a terminal would obey.
pub(crate) const HOSTILE: &[u8] = b"\x1b[2J\xffevil\r\n\xe2\x80\xaegpj.exe";

/// Twenty charges that are done, a failure, an interrupted key with progress, a hostile key, and
/// a scope with a policy.
pub(crate) fn fill(engine: &Engine) {
    for number in 0..20 {
        claim(engine, "charges", format!("order {number:02}")).complete(format!("charged {number}")).unwrap();
    }
    claim(engine, "charges", "broke").fail("declined").unwrap();
    let mut lost = claim(engine, "refunds", "lost");
    lost.save_progress(b"step 2").unwrap();
    drop(lost);
    claim(engine, "", HOSTILE).complete(b"\x1b]0;title\x07\xff").unwrap();
    let policy = engine.policy().recovery(Recovery::Rerun).ttl(Duration::from_secs(7_200));
    engine.set_policy("reports", policy).unwrap();
    drop(claim(engine, "reports", "monthly"));
}

/// A file that was closed.
pub(crate) fn closed() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    fill(&engine);
    engine.close().unwrap();
    (folder, path)
}

/// The files of a process that was killed, with a claim that was in flight.
pub(crate) fn killed() -> (TempDir, PathBuf) {
    killed_with(Policy::default())
}

/// The same, of a service with this default policy: a copy of both files while nobody writes is
/// what a kill leaves.
pub(crate) fn killed_with(policy: Policy) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (live, path) = (folder.path().join("live.idem"), folder.path().join("x.idem"));
    let engine = Engine::options().policy(policy).open(&live).unwrap();
    fill(&engine);
    engine.checkpoint().unwrap();
    claim(&engine, "charges", "late").complete("charged late").unwrap();
    let out = claim(&engine, "charges", "in flight");
    fs::copy(&live, &path).unwrap();
    fs::copy(log_of(&live), log_of(&path)).unwrap();
    drop(out);
    engine.close().unwrap();
    fs::remove_file(&live).unwrap();
    fs::remove_file(log_of(&live)).unwrap();
    (folder, path)
}

pub(crate) fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Bytes of a file and its log.
pub(crate) fn contents(path: &Path) -> (Vec<u8>, Option<Vec<u8>>) {
    (fs::read(path).unwrap(), fs::read(log_of(path)).ok())
}

/// Flips one bit.
pub(crate) fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

/// Damages the body of a record on disk, wherever it is.
pub(crate) fn damage_body(path: &Path, body: &str) {
    let bytes = fs::read(path).unwrap();
    let places: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(body.as_bytes())).collect();
    assert!(!places.is_empty(), "{body} is not in the file");
    for at in places {
        flip(path, at * 8);
    }
}
