//! What several of these modules need.

use std::cell::Cell;
use std::error::Error;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use idemkv::{Begin, Claim, Engine, Fingerprint, OpenError, Options, Status};

pub const REQUEST: &[u8] = b"amount=10";

pub fn claim(engine: &Engine, key: &str) -> Claim {
    match engine.default_scope().begin(key, Fingerprint::of(REQUEST)).unwrap() {
        Begin::Fresh(claim) => claim,
        Begin::InFlight(_) | Begin::Done(_) => panic!("{key} is not fresh"),
    }
}

pub fn assert_done(engine: &Engine, key: &str, body: &[u8]) {
    match engine.default_scope().get(key).unwrap() {
        Status::Done(record) => assert_eq!(record.body(), body),
        status => panic!("{key} is {status:?}"),
    }
}

/// Both halves of a good message: what happened, and what to do.
pub fn assert_says(error: &dyn Error, words: &[&str]) {
    let said = error.to_string();
    for word in words {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
}

pub fn refused(opened: Result<Engine, OpenError>) -> OpenError {
    match opened {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

/// Two files, as they are now; `None` where there is none.
pub fn bytes_of(path: &Path) -> [Option<Vec<u8>>; 2] {
    [fs::read(path).ok(), fs::read(log_of(path)).ok()]
}

pub fn log_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

/// Asserts that opening `path` is refused, and that nothing was made of it or changed in it.
pub fn refused_and_unchanged(path: &Path, options: Options) -> OpenError {
    let before = bytes_of(path);
    let error = refused(options.open(path));
    assert!(bytes_of(path) == before, "{error} came with a change of the file");
    error
}

/// A file with one record, closed cleanly.
pub fn make_file(path: &Path) {
    let engine = small().open(path).unwrap();
    claim(&engine, "key").complete("reply").unwrap();
    engine.close().unwrap();
}

/// A copy of a file and its log as a kill would leave them: one record in the store, one in the
/// log, and a claim out.
pub fn make_unclean(path: &Path) {
    let live = path.with_extension("live");
    let engine = small().open(&live).unwrap();
    claim(&engine, "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    claim(&engine, "logged").complete("reply").unwrap();
    let out = claim(&engine, "out");
    fs::copy(&live, path).unwrap();
    fs::copy(log_of(&live), log_of(path)).unwrap();
    out.release().unwrap();
    engine.close().unwrap();
}

/// Small files, so that there is much to hit and little to copy.
pub fn small() -> Options {
    Engine::options()
        .max_body_bytes(4_096)
        .reserve_bytes(4_096)
        .batch_bytes(4_096)
        .log_segment_bytes(64 << 10)
        .log_bytes(1 << 20)
}

/// This binary again, with one of its tests as the whole program.
pub fn run_again(test: &str, variables: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1", "--quiet"])
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may make redb panic inside, without the panic's message; `None` where a panic came
/// out.
pub fn quietly<T>(run: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
    QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    done.ok()
}
