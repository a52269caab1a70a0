//! Every bad input is refused with a typed error that says what happened and what to do: never a panic, never a silently
//! fresh file, and what isn't ours is left as it was.
#![cfg(unix)]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::format_collect,
    clippy::pedantic,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "tests"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::thread;
use std::time::Duration;

use idemkv::sim::{CrashKind, SimDisk};
use idemkv::{
    Begin, BeginError, Claim, ClaimError, Engine, Fingerprint, ForgetError, KeyError, OpenError, Options,
    Outcome, ReadError, Status, Verify,
};
use redb::ReadableDatabase;

const REQUEST: &[u8] = b"amount=10";
const OTHER_REQUEST: &[u8] = b"amount=11";

fn claim(engine: &Engine, key: &str) -> Claim {
    match engine.begin(key, Fingerprint::of(REQUEST)).unwrap() {
        Begin::Fresh(claim) => claim,
        Begin::InFlight(_) | Begin::Done(_) => panic!("{key} is not fresh"),
    }
}

fn assert_done(engine: &Engine, key: &str, body: &[u8]) {
    match engine.get(key).unwrap() {
        Status::Done(record) => assert_eq!(record.body(), body),
        status => panic!("{key} is {status:?}"),
    }
}

/// Both halves of a good message: what happened, and what to do.
fn assert_says(error: &dyn Error, words: &[&str]) {
    let said = error.to_string();
    for word in words {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
}

fn refused(opened: Result<Engine, OpenError>) -> OpenError {
    match opened {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

/// Two files, as they are now; `None` where there is none.
fn bytes_of(path: &Path) -> [Option<Vec<u8>>; 2] {
    [fs::read(path).ok(), fs::read(log_of(path)).ok()]
}

fn log_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

/// Asserts that opening `path` is refused, and that nothing was made of it or changed in it.
fn refused_and_unchanged(path: &Path, options: Options) -> OpenError {
    let before = bytes_of(path);
    let error = refused(options.open(path));
    assert!(bytes_of(path) == before, "{error} came with a change of the file");
    error
}

/// A file with one record, closed cleanly.
fn make_file(path: &Path) {
    let engine = small().open(path).unwrap();
    claim(&engine, "key").complete("reply").unwrap();
    engine.close().unwrap();
}

/// A copy of a file and its log as a kill would leave them: one record in the store, one in the log, and a claim out.
fn make_unclean(path: &Path) {
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
fn small() -> Options {
    Engine::options()
        .max_body_bytes(4_096)
        .reserve_bytes(4_096)
        .batch_bytes(4_096)
        .log_segment_bytes(64 << 10)
        .log_bytes(1 << 20)
}

// ---------------------------------------------------------------------------------------------- keys, bodies, requests

#[test]
fn an_empty_key_is_refused_by_every_call() {
    let directory = tempfile::tempdir().unwrap();
    let engine = small().open(directory.path().join("x.idem")).unwrap();
    let error = engine.begin("", Fingerprint::of(REQUEST)).unwrap_err();
    assert!(matches!(error, BeginError::Key(KeyError::Empty)) && !error.is_retryable());
    assert_says(&error, &["is empty", "send one of at least one byte"]);
    assert!(matches!(engine.get("").unwrap_err(), ReadError::Key(KeyError::Empty)));
    let error = engine.forget("").unwrap_err();
    assert!(matches!(error, ForgetError::Read(ReadError::Key(KeyError::Empty))), "{error}");
}

#[test]
fn a_key_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let engine = small().max_key_bytes(300).open(directory.path().join("x.idem")).unwrap();
    let key = "k".repeat(301);
    let error = engine.begin(&key, Fingerprint::of(REQUEST)).unwrap_err();
    assert!(matches!(error, BeginError::Key(KeyError::TooLong { len: 301, max: 300 })), "{error}");
    assert_says(&error, &["301 bytes", "the limit is 300", "send a shorter one"]);
    // The limit is for claims. A key that no file can have is refused by every call.
    assert!(matches!(engine.get(&key).unwrap(), Status::Vacant));
    let longest = "k".repeat(4_097);
    assert!(matches!(engine.get(&longest).unwrap_err(), ReadError::Key(KeyError::TooLong { .. })));
    claim(&engine, &key[1..]).complete("reply").unwrap();
    assert_done(&engine, &key[1..], b"reply");
}

#[test]
fn a_scope_name_over_255_bytes_is_refused_by_every_call() {
    let directory = tempfile::tempdir().unwrap();
    let engine = small().open(directory.path().join("x.idem")).unwrap();
    let scope = engine.scope("s".repeat(256));
    let error = scope.begin("key", Fingerprint::of(REQUEST)).unwrap_err();
    assert!(matches!(error, BeginError::Key(KeyError::ScopeTooLong { len: 256, max: 255 })), "{error}");
    assert_says(&error, &["256 bytes", "the limit is 255", "choose a shorter one"]);
    assert!(matches!(scope.get("key").unwrap_err(), ReadError::Key(KeyError::ScopeTooLong { .. })));
    assert!(matches!(scope.forget("key").unwrap_err(), ForgetError::Read(ReadError::Key(_))));
    let longest = engine.scope("s".repeat(255));
    assert!(matches!(longest.begin("key", Fingerprint::of(REQUEST)).unwrap(), Begin::Fresh(_)));
}

#[test]
fn a_body_over_the_limit_gives_the_claim_back_and_it_can_still_be_completed() {
    let directory = tempfile::tempdir().unwrap();
    let engine = small().open(directory.path().join("x.idem")).unwrap();
    let long = vec![b'x'; 4_097];
    let error = claim(&engine, "key").complete(&long).unwrap_err();
    assert!(matches!(error.reason(), ClaimError::BodyTooLarge { len: 4_097, max: 4_096 }), "{error}");
    assert_says(&error, &["4097 bytes", "the limit is 4096", "smaller", "max_body_bytes"]);
    assert!(!error.is_retryable());
    let error = error.into_claim().unwrap().fail(&long).unwrap_err();
    let back = error.into_claim().unwrap();
    assert!(matches!(engine.get("key").unwrap(), Status::InFlight(_)));
    back.complete(&long[1..]).unwrap();
    assert_done(&engine, "key", &long[1..]);
}

#[test]
fn a_key_with_another_request_is_refused_in_every_state_and_changes_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    let engine = small().open(&path).unwrap();
    claim(&engine, "done").complete("reply").unwrap();
    drop(claim(&engine, "interrupted"));
    let out = claim(&engine, "in flight");
    let check = |engine: &Engine, key: &str| {
        let error = engine.begin(key, Fingerprint::of(OTHER_REQUEST)).unwrap_err();
        assert!(matches!(error, BeginError::KeyReused) && !error.is_retryable(), "{key}: {error}");
        assert_says(&error, &["used for another request", "send a new key"]);
    };
    ["done", "interrupted", "in flight"].iter().for_each(|key| check(&engine, key));
    assert_done(&engine, "done", b"reply");
    assert!(matches!(engine.get("interrupted").unwrap(), Status::Interrupted(_)));
    assert!(matches!(engine.get("in flight").unwrap(), Status::InFlight(_)));
    drop(out);
    engine.close().unwrap();
    // A record that is read from the file, and claims that an opening found dead.
    let engine = small().open(&path).unwrap();
    ["done", "interrupted", "in flight"].iter().for_each(|key| check(&engine, key));
    assert_done(&engine, "done", b"reply");
    assert_eq!(engine.scope("").resolve("in flight").unwrap().attempt(), 2);
}

// ---------------------------------------------------------------------------------------------- options

#[test]
fn options_out_of_range_are_refused_by_name_and_make_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    let days = |days: u64| Duration::from_secs(days * 24 * 3_600);
    for (options, name) in [
        (small().ttl(Duration::ZERO), "ttl"),
        (small().ttl(Duration::from_nanos(1)), "ttl"),
        (small().ttl(Duration::MAX), "ttl"),
        (small().ttl(days(366 * 100)), "ttl"),
        (small().max_key_bytes(0), "max_key_bytes"),
        (small().max_key_bytes(1 << 20), "max_key_bytes"),
        (small().max_body_bytes(usize::MAX), "max_body_bytes"),
        (small().batch_bytes(0), "batch_bytes"),
        (small().queue_entries(0), "queue_entries"),
        (small().queue_bytes(4_095), "queue_bytes"),
        (small().max_in_flight(0), "max_in_flight"),
        (small().queue_timeout(Duration::MAX), "queue_timeout"),
        (small().shards(48), "shards"),
        (small().shards(usize::MAX), "shards"),
        (small().log_segment_bytes(0), "log_segment_bytes"),
        (small().log_segment_bytes((64 << 10) + 1), "log_segment_bytes"),
        (small().log_segment_bytes(u64::MAX), "log_segment_bytes"),
        (small().log_bytes(0), "log_bytes"),
        (small().log_bytes(u64::MAX), "log_bytes"),
    ] {
        let error = refused_and_unchanged(&path, options);
        assert!(matches!(&error, OpenError::Option(error) if error.name() == name), "{name}: {error}");
        assert_says(&error, &["option", name, "allowed is"]);
    }
    small().ttl(days(365 * 100)).open(&path).unwrap().close().unwrap();
    small().ttl(Duration::from_millis(1)).open(&path).unwrap().close().unwrap();
}

// ---------------------------------------------------------------------------------------------- what isn't ours

#[test]
fn a_missing_parent_directory_is_an_error_that_names_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing").join("x.idem");
    let error = refused(small().open(&path));
    assert!(matches!(&error, OpenError::Io(failure) if failure.kind() == io::ErrorKind::NotFound), "{error}");
    assert_says(&error, &["looking for", "missing", "failed", "No such file or directory"]);
    assert!(!directory.path().join("missing").exists());
}

#[test]
fn a_directory_is_refused_in_place_of_the_file_and_of_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let error = refused(small().open(directory.path()));
    assert!(matches!(&error, OpenError::NotAFile(path) if path == directory.path()), "{error}");
    assert_says(&error, &["not a regular file", "give the path of a file"]);

    let path = directory.path().join("x.idem");
    make_file(&path);
    fs::remove_file(log_of(&path)).unwrap();
    fs::create_dir(log_of(&path)).unwrap();
    let error = refused_and_unchanged(&path, small());
    assert!(matches!(&error, OpenError::NotAFile(found) if *found == log_of(&path)), "{error}");
}

#[test]
fn a_file_that_is_not_ours_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    let redb_magic = b"redb\x1a\x0a\xa9\x0d\x0a";
    for content in [
        Vec::new(),
        b"x".to_vec(),
        b"Dear diary, ".repeat(1_000),
        vec![0; 100_000],
        redb_magic[..8].to_vec(),
        log_content(directory.path()),
    ] {
        fs::write(&path, &content).unwrap();
        let error = refused_and_unchanged(&path, small());
        assert!(matches!(&error, OpenError::NotIdemkv(found) if *found == path), "{error}");
        assert_says(&error, &["was left alone", "left alone", "restore a damaged file"]);
        assert!(!log_of(&path).exists());
    }
}

fn log_content(directory: &Path) -> Vec<u8> {
    let path = directory.join("other.idem");
    make_file(&path);
    fs::read(log_of(&path)).unwrap()
}

const THEIRS: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("theirs");

fn make_redb(path: &Path) {
    let database = redb::Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(THEIRS).unwrap().insert("n", 7).unwrap();
    transaction.commit().unwrap();
}

#[test]
fn a_database_of_another_program_is_refused_and_still_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_redb(&path);
    let error = refused(small().open(&path));
    assert!(matches!(&error, OpenError::NotIdemkv(found) if *found == path), "{error}");
    assert_says(&error, &["was left alone", "restore a damaged file"]);
    assert!(!log_of(&path).exists());
    let database = redb::Database::open(&path).unwrap();
    let table = database.begin_read().unwrap().open_table(THEIRS).unwrap();
    assert_eq!(redb::ReadableTable::get(&table, "n").unwrap().unwrap().value(), 7);
}

#[test]
fn a_database_of_another_program_keeps_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_redb(&path);
    assert!(matches!(refused_and_unchanged(&path, small()), OpenError::NotIdemkv(_)));
}

#[test]
fn a_file_or_log_without_write_permission_is_refused_by_anybody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    for read_only in [path.clone(), log_of(&path)] {
        fs::set_permissions(&read_only, fs::Permissions::from_mode(0o444)).unwrap();
        let error = refused_and_unchanged(&path, small());
        assert!(matches!(&error, OpenError::ReadOnly(found) if *found == read_only), "{error}");
        assert_says(&error, &["may not be written", "change its permissions"]);
        fs::set_permissions(&read_only, fs::Permissions::from_mode(0o644)).unwrap();
    }
    assert_done(&small().open(&path).unwrap(), "key", b"reply");
}

// ---------------------------------------------------------------------------------------------- files in use

const HOLD_VARIABLE: &str = "IDEMKV_HOLD_FILE";

/// This binary again, with one of its tests as the whole program.
fn run_again(test: &str, variables: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1", "--quiet"])
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test: a process that holds a file until its input ends. Returns at once where nobody ordered one.
#[test]
fn holder_process() {
    let Some(path) = std::env::var_os(HOLD_VARIABLE) else { return };
    let engine = small().open(path).unwrap();
    println!("\n@held");
    io::stdin().read_line(&mut String::new()).unwrap();
    engine.close().unwrap();
}

#[test]
fn a_file_that_another_process_holds_is_refused_until_it_lets_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    let mut holder = run_again("holder_process", &[(HOLD_VARIABLE, path.to_str().unwrap())]);
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "@held"));
    let error = refused_and_unchanged(&path, small());
    assert!(matches!(&error, OpenError::Locked(found) if *found == path), "{error}");
    assert_says(&error, &["is open in another engine", "one process at a time", "close the other"]);
    holder.stdin.take().unwrap().write_all(b"enough\n").unwrap();
    lines.for_each(drop);
    assert!(holder.wait().unwrap().success());
    assert_done(&small().open(&path).unwrap(), "key", b"reply");
}

#[test]
fn a_file_that_another_engine_of_this_process_holds_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    let engine = small().open(&path).unwrap();
    let other_name = directory.path().join("y.idem");
    fs::hard_link(&path, &other_name).unwrap();
    for name in [&path, &other_name] {
        let error = refused(small().open(name));
        assert!(matches!(&error, OpenError::Locked(found) if found == name), "{error}");
    }
    claim(&engine, "key").complete("reply").unwrap();
    engine.close().unwrap();
    assert_done(&small().open(&path).unwrap(), "key", b"reply");
}

// ---------------------------------------------------------------------------------------------- versions

#[test]
fn a_file_of_another_version_is_refused_with_both_versions() {
    const META: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("idemkv.meta");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    let set_version = |version: u32| {
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(META).unwrap();
        let mut row = redb::ReadableTable::get(&table, "meta").unwrap().unwrap().value().to_vec();
        row[..4].copy_from_slice(&version.to_le_bytes());
        table.insert("meta", row.as_slice()).unwrap();
        drop(table);
        transaction.commit().unwrap();
    };
    set_version(77);
    let before = bytes_of(&path)[1].clone();
    let error = refused(small().open(&path));
    assert!(matches!(&error, OpenError::NewerVersion { found: 77, supported: 4, .. }), "{error}");
    assert_says(&error, &["format version 77", "reads up to 4", "use a newer idemkv"]);
    set_version(1);
    let error = refused(small().open(&path));
    assert!(matches!(&error, OpenError::OlderVersion { found: 1, supported: 4, .. }), "{error}");
    assert_says(&error, &["format version 1", "reads from 4 on", "the idemkv that wrote it"]);
    assert!(bytes_of(&path)[1] == before);
    set_version(4);
    drop(small().open(&path).unwrap());
}

#[test]
fn a_log_of_another_version_is_refused_with_both_versions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_unclean(&path);
    let mut log = fs::read(log_of(&path)).unwrap();
    assert_eq!(log[8..12], 4_u32.to_le_bytes());
    let mut refused_with = |version| {
        log[8] = version;
        fs::write(log_of(&path), &log).unwrap();
        small().open(&path)
    };
    let error = refused(refused_with(5));
    assert!(matches!(&error, OpenError::NewerVersion { found: 5, supported: 4, .. }), "{error}");
    let error = refused(refused_with(1));
    assert!(matches!(&error, OpenError::OlderVersion { found: 1, supported: 4, .. }), "{error}");
    assert_done(&refused_with(4).unwrap(), "logged", b"reply");
}

// ---------------------------------------------------------------------------------------------- file and log apart

#[test]
fn an_unclean_file_without_its_log_is_refused_until_the_log_is_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_unclean(&path);
    let away = directory.path().join("away");
    fs::rename(log_of(&path), &away).unwrap();
    for _ in 0..2 {
        let error = refused(small().open(&path));
        assert!(matches!(&error, OpenError::LogMissing { log, .. } if *log == log_of(&path)), "{error}");
        assert_says(&error, &["is missing", "not closed cleanly", "put it back"]);
        assert!(!log_of(&path).exists());
    }
    fs::rename(&away, log_of(&path)).unwrap();
    let engine = small().open(&path).unwrap();
    assert_done(&engine, "key", b"reply");
    assert_done(&engine, "logged", b"reply");
    assert!(matches!(engine.get("out").unwrap(), Status::Interrupted(_)));
}

#[test]
fn a_clean_file_without_its_log_opens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    fs::remove_file(log_of(&path)).unwrap();
    let engine = small().open(&path).unwrap();
    assert_done(&engine, "key", b"reply");
    claim(&engine, "later").complete("reply").unwrap();
}

#[test]
fn a_log_without_its_file_is_refused_and_no_file_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    fs::remove_file(&path).unwrap();
    let error = refused_and_unchanged(&path, small());
    assert!(matches!(&error, OpenError::LogWithoutFile(found) if *found == log_of(&path)), "{error}");
    assert_says(&error, &["not the file it belongs to", "put the file back", "move the log away"]);
    assert!(!path.exists());
}

#[test]
fn logs_that_were_swapped_are_refused_and_work_once_swapped_back() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (directory.path().join("1.idem"), directory.path().join("2.idem"));
    let away = directory.path().join("away");
    let swap = || {
        fs::rename(log_of(&one), &away).unwrap();
        fs::rename(log_of(&other), log_of(&one)).unwrap();
        fs::rename(&away, log_of(&other)).unwrap();
    };
    make_unclean(&one);
    make_unclean(&other);
    swap();
    for path in [&one, &other] {
        let log = fs::read(log_of(path)).unwrap();
        let error = refused(small().open(path));
        assert!(matches!(&error, OpenError::LogOfAnotherFile(found) if *found == log_of(path)), "{error}");
        assert_says(&error, &["belongs to another file", "put the right one back"]);
        assert!(fs::read(log_of(path)).unwrap() == log);
    }
    swap();
    for path in [&one, &other] {
        assert_done(&small().open(path).unwrap(), "logged", b"reply");
    }
}

/// What the log acknowledged since would be gone without a word.
#[test]
fn a_file_that_is_older_than_its_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    let backup = directory.path().join("backup");
    make_file(&path);
    fs::copy(&path, &backup).unwrap();
    let engine = small().open(&path).unwrap();
    claim(&engine, "later").complete("reply").unwrap();
    engine.close().unwrap();
    fs::copy(&backup, &path).unwrap();
    let error = refused(small().open(&path));
    assert!(matches!(&error, OpenError::Damaged(damage) if damage.file() == log_of(&path)), "{error:?}");
    assert_says(&error, &["is damaged at", "restore both it and its log from a backup"]);
}

/// Frames of earlier openings are history: nothing acknowledged is in them alone.
#[test]
fn an_earlier_frame_whose_length_is_damaged_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    small().open(&path).unwrap().close().unwrap();
    let mut log = fs::read(log_of(&path)).unwrap();
    assert_eq!(&log[4_096..4_100], b"idmF");
    log[4_096 + 7] = 0xff;
    fs::write(log_of(&path), &log).unwrap();
    for _ in 0..2 {
        assert_done(&small().open(&path).unwrap(), "key", b"reply");
    }
}

#[test]
fn a_path_through_a_file_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "diary").unwrap();
    let error = refused(small().open(file.join("x.idem")));
    assert!(matches!(&error, OpenError::Io(failure) if failure.file() == file.join("x.idem")), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"diary");
}

#[test]
fn a_file_that_was_cut_off_is_refused_at_every_length() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_unclean(&path);
    let [file, log] = bytes_of(&path).map(Option::unwrap);
    let lengths = [0, 1, 8, 9, 10, 63, 64, 320, 4_095, 4_096, 8_192, 65_536, file.len() / 2, file.len() - 1];
    for len in lengths {
        fs::write(&path, &file[..len]).unwrap();
        let error = quietly(|| refused(small().open(&path))).unwrap();
        let known = match &error {
            OpenError::NotIdemkv(_) => len < 9,
            OpenError::Damaged(damage) => damage.file() == path,
            _ => false,
        };
        assert!(known, "{len} of {} bytes: {error:?}", file.len());
        assert!(fs::metadata(&path).unwrap().len() <= file.len() as u64);
        assert!(fs::read(log_of(&path)).unwrap() == log, "{len}: the log was changed");
    }
}

#[test]
fn an_unclean_log_that_was_cut_off_is_refused_at_every_length() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_unclean(&path);
    let [file, log] = bytes_of(&path).map(Option::unwrap);
    for len in [0, 1, 47, 48, 4_095, 4_096, 4_608, 8_192, 65_536, 69_632, log.len() - 512, log.len() - 1] {
        fs::write(&path, &file).unwrap();
        fs::write(log_of(&path), &log[..len]).unwrap();
        let error = refused(small().open(&path));
        assert!(matches!(&error, OpenError::Damaged(damage) if damage.file() == log_of(&path)), "{error:?}");
        assert_says(&error, &["is damaged at", "restore both it and its log from a backup"]);
        assert!(fs::read(log_of(&path)).unwrap() == log[..len], "the log was changed");
    }
    fs::write(&path, &file).unwrap();
    fs::write(log_of(&path), &log).unwrap();
    assert_done(&small().open(&path).unwrap(), "logged", b"reply");
}

// ---------------------------------------------------------------------------------------------- flipped bits

/// What a key must be found to be, by its name.
type Expected = BTreeMap<String, Fate>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Done { fence: u64, attempt: u32, outcome: Outcome, body: Vec<u8> },
    Interrupted { fence: u64, attempt: u32 },
}

/// Files on a simulated disk, and what is in them.
struct Specimen {
    disk: SimDisk,
    expected: Expected,
    /// The key whose completion is the last frame of the log, which a flip makes look like a torn write.
    last: Option<String>,
}

/// What became of an opening of damaged files.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Everything is right.
    Right,
    /// The completion that was the last frame is not there; its claim is, as interrupted.
    LastIsTorn,
    /// A typed error.
    Refused,
    /// Anything else.
    Wrong(String),
}

/// Splitmix64.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn path() -> &'static Path {
    Path::new("x.idem")
}

fn on(disk: &SimDisk) -> Options {
    small().shards(4).cache_bytes(0).disk(disk).stepped()
}

/// Ends a claim on `key` in a way that depends on `n`, and notes what must be found.
fn fill(engine: &Engine, n: usize, expected: &mut Expected) {
    let key = format!("key {n}");
    let claim = claim(engine, &key);
    let (fence, attempt) = (claim.fence().get(), claim.attempt());
    let body: Vec<u8> = [0, 10, 600, 4_000][n % 4..][..1]
        .iter()
        .flat_map(|len| (0..*len).map(|at| u8::try_from((at * 7 + n * 13) % 251).unwrap()))
        .collect();
    let outcome = if n.is_multiple_of(5) { Outcome::Failure } else { Outcome::Success };
    match (n % 11, outcome) {
        (7, _) => {
            drop(claim);
            expected.insert(key, Fate::Interrupted { fence, attempt });
            return;
        }
        (_, Outcome::Failure) => claim.fail(&body).unwrap(),
        (_, Outcome::Success) => claim.complete(&body).unwrap(),
    };
    if n % 11 == 9 {
        assert!(engine.forget(&key).unwrap());
        return;
    }
    expected.insert(key, Fate::Done { fence, attempt, outcome, body });
}

/// How a specimen's last process left it.
#[derive(Clone, Copy, Debug)]
enum Left {
    /// Closed.
    Clean,
    /// Killed, some time after a checkpoint.
    Checkpointed,
    /// Killed before any checkpoint: the last state of the store is the opening's.
    Opened,
}

const LEFT: [Left; 3] = [Left::Clean, Left::Checkpointed, Left::Opened];

/// Some sixty keys over two openings, several checkpoints, and the log.
fn specimen(left: Left) -> Specimen {
    let disk = SimDisk::new();
    let mut expected = Expected::new();
    let engine = on(&disk).open(path()).unwrap();
    for n in 0..30 {
        fill(&engine, n, &mut expected);
        if n % 12 == 11 {
            engine.checkpoint().unwrap();
        }
    }
    engine.close().unwrap();
    let engine = on(&disk).open(path()).unwrap();
    for n in 30..62 {
        fill(&engine, n, &mut expected);
        if n == 42 && !matches!(left, Left::Opened) {
            engine.checkpoint().unwrap();
        }
    }
    if matches!(left, Left::Clean) {
        engine.close().unwrap();
        return Specimen { disk, expected, last: None };
    }
    let last = Some("key 61".to_owned());
    Specimen { disk: disk.image(CrashKind::KeepAll), expected, last }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may make redb panic inside, without the panic's message; `None` where a panic came out.
fn quietly<T>(run: impl FnOnce() -> T) -> Option<T> {
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

/// Opens the disk's file and reads everything in it, both ways.
fn examine(disk: &SimDisk, verify: Verify, specimen: &Specimen) -> Found {
    let read = quietly(|| read_all(disk, verify, specimen));
    read.unwrap_or_else(|| Found::Wrong("a panic came out".to_owned()))
}

fn read_all(disk: &SimDisk, verify: Verify, specimen: &Specimen) -> Found {
    let engine = match on(disk).verify(verify).open(path()) {
        Ok(engine) => engine,
        Err(error) => return judge_refusal(&error),
    };
    let mut found = BTreeMap::new();
    let mut unreadable = 0;
    for entry in engine.entries() {
        let Ok(entry) = entry else {
            unreadable += 1;
            continue;
        };
        let key = String::from_utf8_lossy(entry.key()).into_owned();
        if found.insert(key.clone(), fate_of(entry.status())).is_some() {
            return Found::Wrong(format!("{key} is there twice"));
        }
    }
    let found = found.into_iter().filter_map(|(key, fate)| Some((key, fate?))).collect();
    let by_walk = compare(&found, unreadable, specimen);
    let mut found = Expected::new();
    let mut unreadable = 0;
    for n in 0..62 {
        let key = format!("key {n}");
        match engine.get(&key) {
            Ok(status) => found.extend(fate_of(&status).map(|fate| (key, fate))),
            Err(ReadError::Damaged(_) | ReadError::Io(_)) => unreadable += 1,
            Err(error) => return Found::Wrong(format!("{key}: {error}")),
        }
    }
    let by_key = compare(&found, unreadable, specimen);
    if by_walk == by_key { by_key } else { Found::Wrong(format!("walk {by_walk:?}, keys {by_key:?}")) }
}

fn judge_refusal(error: &OpenError) -> Found {
    match error {
        OpenError::Damaged(_)
        | OpenError::NotIdemkv(_)
        | OpenError::NewerVersion { .. }
        | OpenError::OlderVersion { .. }
        | OpenError::LogOfAnotherFile(_)
        | OpenError::Io(_) => Found::Refused,
        other => Found::Wrong(format!("refused with {other:?}")),
    }
}

fn fate_of(status: &Status) -> Option<Fate> {
    match status {
        Status::Done(record) => Some(Fate::Done {
            fence: record.fence().get(),
            attempt: record.attempt(),
            outcome: record.outcome(),
            body: record.body().to_vec(),
        }),
        Status::Interrupted(lost) => {
            Some(Fate::Interrupted { fence: lost.fence().get(), attempt: lost.attempt() })
        }
        Status::InFlight(info) => {
            Some(Fate::Interrupted { fence: info.fence().get(), attempt: info.attempt() })
        }
        Status::Expired(_) | Status::Vacant => None,
        other => panic!("{other:?}"),
    }
}

fn compare(found: &Expected, unreadable: usize, specimen: &Specimen) -> Found {
    let mut missing = 0;
    let mut torn = false;
    for (key, expected) in &specimen.expected {
        match (found.get(key), expected) {
            (Some(found), expected) if found == expected => {}
            (None, _) => missing += 1,
            (Some(Fate::Interrupted { fence: found, attempt: 1 }), Fate::Done { fence, attempt: 1, .. })
                if specimen.last.as_ref() == Some(key) && found == fence =>
            {
                torn = true
            }
            (Some(found), expected) => return Found::Wrong(format!("{key} is {found:?}, not {expected:?}")),
        }
    }
    if let Some(key) = found.keys().find(|key| !specimen.expected.contains_key(*key)) {
        return Found::Wrong(format!("{key} should not be there"));
    }
    match (missing, unreadable) {
        (0, 0) if torn => Found::LastIsTorn,
        (0, 0) => Found::Right,
        // What is missing was refused with an error, each of them.
        (missing, unreadable) if missing == unreadable => Found::Refused,
        (missing, unreadable) => Found::Wrong(format!("{missing} are missing, with {unreadable} errors")),
    }
}

/// A bit of the file or of its log.
#[derive(Clone, Copy, Debug)]
struct Flip {
    in_log: bool,
    bit: u64,
}

impl Flip {
    /// Any bit, or one of a byte that isn't zero: most of a file is.
    fn draw(random: &mut u64, contents: &[Vec<u8>; 2]) -> Self {
        let in_log = next(random).is_multiple_of(3);
        let bytes = &contents[usize::from(in_log)];
        let mut at = next(random) % bytes.len() as u64;
        if !next(random).is_multiple_of(4) {
            let from = usize::try_from(at).unwrap();
            at = bytes[from..].iter().position(|byte| *byte != 0).map_or(at, |skip| at + skip as u64);
        }
        Self { in_log, bit: at * 8 + next(random) % 8 }
    }

    fn examine(self, specimen: &Specimen, verify: Verify) -> Found {
        let disk = specimen.disk.image(CrashKind::KeepAll);
        let file = if self.in_log { log_of(path()) } else { path().to_owned() };
        assert!(disk.flip(&file, self.bit), "{self:?} is outside");
        let first = examine(&disk, verify, specimen);
        if first == Found::LastIsTorn && !self.in_log {
            return Found::Wrong("the last frame is torn, by a flip outside the log".to_owned());
        }
        if first != Found::Refused {
            return first;
        }
        // An opening that was refused must not have made a later one believe that all is well.
        match examine(&disk, verify, specimen) {
            Found::Wrong(what) => Found::Wrong(format!("at the second opening: {what}")),
            Found::Right | Found::LastIsTorn | Found::Refused => Found::Refused,
        }
    }
}

fn contents(specimen: &Specimen) -> [Vec<u8>; 2] {
    [specimen.disk.read(path()).unwrap(), specimen.disk.read(&log_of(path())).unwrap()]
}

fn seed() -> u64 {
    std::env::var("IDEMKV_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x1de4)
}

/// Examines all the flips, on two threads; gives how many were right, torn and refused.
fn examine_all(flips: &[Flip], specimen: &Specimen, verify: Verify) -> [usize; 3] {
    let (front, back) = flips.split_at(flips.len() / 2);
    let run = |flips: &[Flip]| {
        let mut counts = [0; 3];
        let mut wrong = Vec::new();
        for flip in flips {
            match flip.examine(specimen, verify) {
                Found::Right => counts[0] += 1,
                Found::LastIsTorn => counts[1] += 1,
                Found::Refused => counts[2] += 1,
                Found::Wrong(what) => wrong.push(format!("{flip:?}: {what}")),
            }
        }
        (counts, wrong)
    };
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(|| run(back));
        (run(front), other.join().unwrap())
    });
    let wrong = [one.1, other.1].concat();
    assert!(
        wrong.is_empty(),
        "{} of {} flips, seed {}:\n{}",
        wrong.len(),
        flips.len(),
        seed(),
        wrong.join("\n")
    );
    [one.0[0] + other.0[0], one.0[1] + other.0[1], one.0[2] + other.0[2]]
}

#[test]
fn what_the_flips_are_made_on_is_right_to_begin_with() {
    for left in LEFT {
        let specimen = specimen(left);
        for verify in [Verify::default(), Verify::UpTo(0)] {
            let found = examine(&specimen.disk.image(CrashKind::KeepAll), verify, &specimen);
            assert_eq!(found, Found::Right, "{left:?}");
        }
    }
}

#[test]
fn two_thousand_flipped_bits_are_refused_or_harmless() {
    let mut random = seed();
    for (left, count) in LEFT.into_iter().zip([600, 800, 600]) {
        let specimen = specimen(left);
        let contents = contents(&specimen);
        let flips: Vec<Flip> = (0..count).map(|_| Flip::draw(&mut random, &contents)).collect();
        let [right, torn, refused] = examine_all(&flips, &specimen, Verify::default());
        println!("{left:?}, seed {}: {right} right, {torn} torn, {refused} refused", seed());
        assert!(refused > 50 && right > 0, "{refused} were noticed: the flips hit nothing");
    }
}

/// The bits that say which state of a file counts are few, and random flips hit few of them.
#[test]
fn a_flipped_bit_in_any_byte_of_the_headers_is_refused_or_harmless() {
    let mut random = seed();
    for left in LEFT {
        let specimen = specimen(left);
        // All bits of the flags; one of every byte.
        let store = (72..88).chain((0..320).map(|byte| byte * 8 + next(&mut random) % 8));
        let mut flips: Vec<Flip> = store.map(|bit| Flip { in_log: false, bit }).collect();
        flips.extend((0..64).map(|byte| Flip { in_log: true, bit: byte * 8 + next(&mut random) % 8 }));
        let [right, torn, refused] = examine_all(&flips, &specimen, Verify::default());
        println!("{left:?}, seed {}: {right} right, {torn} torn, {refused} refused", seed());
        assert!(refused > 100 && torn == 0);
    }
}

const FLIP_VARIABLE: &str = "IDEMKV_FLIP_FROM";
/// For each way of leaving a file.
const UNVERIFIED_FLIPS: usize = 170;

fn unverified_flips(specimen: &Specimen) -> Vec<Flip> {
    let (mut random, contents) = (!seed(), contents(specimen));
    (0..UNVERIFIED_FLIPS).map(|_| Flip::draw(&mut random, &contents)).collect()
}

/// Not a test: a process that may abort. Returns at once where nobody ordered one.
#[test]
fn flipping_process() {
    let Ok(from) = std::env::var(FLIP_VARIABLE) else { return };
    let from: usize = from.parse().unwrap();
    let specimen = specimen(LEFT[from % 3]);
    for (n, flip) in unverified_flips(&specimen).into_iter().enumerate().skip(from / 3) {
        println!("\n@at {n} {flip:?}");
        let found = flip.examine(&specimen, Verify::UpTo(0));
        println!("\n@found {found:?}");
    }
    println!("\n@over");
}

/// Runs flips from number `from` on, until they are over or the process aborts; gives where to go on.
fn flip_in_a_process(left: usize, from: usize, counts: &mut BTreeMap<String, usize>) -> usize {
    let mut child = run_again("flipping_process", &[(FLIP_VARIABLE, &(from * 3 + left).to_string())]);
    let (mut at, mut flip, mut over) = (from, String::new(), false);
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
        if let Some(found) = line.strip_prefix("@found ") {
            assert!(!found.starts_with("Wrong"), "{flip}, left {:?}: {found}", LEFT[left]);
            *counts.entry(found.to_owned()).or_default() += 1;
            at += 1;
        }
        over |= line == "@over";
        flip = if line.starts_with("@at") { line } else { flip };
    }
    let status = child.wait().unwrap();
    if over {
        assert!(status.success(), "{status}");
        return UNVERIFIED_FLIPS;
    }
    // A panic of redb's while it unwinds from another: nothing that a library can catch.
    assert_eq!(status.signal(), Some(SIGABRT), "{flip}, left {:?}: {status}", LEFT[left]);
    println!("aborted at {flip}, left {:?}", LEFT[left]);
    *counts.entry("Aborted".to_owned()).or_default() += 1;
    at + 1
}

const SIGABRT: i32 = 6;

/// Without the check of all pages redb may abort the process, as the documentation of [`Verify`] says; it must not lie.
#[test]
fn flipped_bits_in_a_file_that_is_not_verified_never_give_a_wrong_record() {
    let mut counts = BTreeMap::new();
    for left in 0..3 {
        let mut from = 0;
        while from < UNVERIFIED_FLIPS {
            from = flip_in_a_process(left, from, &mut counts);
        }
    }
    println!("seed {}: {counts:?}", seed());
    assert_eq!(counts.values().sum::<usize>(), 3 * UNVERIFIED_FLIPS);
    assert!(counts["Refused"] > 50 && counts["Right"] > 50);
}
