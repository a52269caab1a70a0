//! What a person reads of errors and of values: what happened, what to do, and nothing that is
//! secret.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::common::{Machine, START_MS, TTL, default_scope, fresh, request};
use idemkv::tables::TableError;
use idemkv::tables::redb::{MultimapTableDefinition, ReadableMultimapTable, TableDefinition};
use idemkv::{
    Begin, BeginError, Busy, Claim, ClaimError, CommitError, CompleteInError, Damage, EndError, Engine,
    Failure, Fault, Fingerprint, ForgetError, IoFailure, KeyError, Observer, OpenError, OptionError, Outcome,
    ReadError, ReplayError, ResolveError, RunError, SetPolicyError, Status, StoreError, TokenError,
};

/// An error says all of `words`, and names as its source the one that says `source`.
#[track_caller]
pub fn says(error: &dyn Error, words: &[&str], source: Option<&str>) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    let found = error.source().map(ToString::to_string);
    match (&found, source) {
        (Some(found), Some(source)) => assert!(found.contains(source), "{found} is the source of: {text}"),
        (None, None) => {}
        _ => panic!("{found:?} is the source of: {text}"),
    }
    assert!(!format!("{error:?}").is_empty());
}

pub fn io_failure() -> IoFailure {
    match Engine::open("no such directory/x.idem") {
        Err(OpenError::Io(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

pub fn damage() -> Damage {
    let machine = Machine::default();
    machine.open().close().unwrap();
    assert!(machine.disk.flip(Path::new("x.idem-wal"), 8 * 20));
    match machine.options().open("x.idem") {
        Err(OpenError::Damaged(damage)) => damage,
        other => panic!("{other:?}"),
    }
}

pub fn option_error() -> OptionError {
    match Machine::default().options().ttl(Duration::ZERO).open("x.idem") {
        Err(OpenError::Option(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn claim() -> Claim {
    fresh(&default_scope(&Machine::default().open()), "key")
}

/// A claim's complaint about a body of 5,000 bytes.
fn end_error() -> EndError {
    claim().complete(vec![0; 5_000]).unwrap_err()
}

#[test]
fn an_error_says_what_happened_and_what_to_do_and_names_its_source() {
    let key = KeyError::TooLong { len: 300, max: 255 };
    says(&KeyError::Empty, &["empty", "at least one byte"], None);
    says(&key, &["300", "255", "a shorter one"], None);
    says(&KeyError::ScopeTooLong { len: 300, max: 255 }, &["scope", "300", "255"], None);

    let (io, damage, option) = (io_failure(), damage(), option_error());
    assert_eq!((io.file(), io.kind()), (Path::new("no such directory/x.idem"), io::ErrorKind::NotFound));
    says(&io, &["no such directory/x.idem failed"], Some("No such file"));
    assert_eq!(damage.file(), Path::new("x.idem-wal"));
    says(&damage, &["x.idem-wal is damaged at offset 0", "from a backup"], None);
    says(&option, &["`ttl`", "0ns", "allowed is 1ms to"], None);

    let failures = [
        (Failure::Io(io.clone()), "no such directory", Some("no such directory")),
        (Failure::Damaged(damage.clone()), "offset 0", Some("offset 0")),
        (Failure::Panicked, "a thread panicked", None),
    ];
    let not_ready = Failure::FileNotReady(io.clone());
    says(&not_ready, &["takes no writes", "tries again"], Some("no such directory"));
    says(&Failure::ReadOnly, &["to be read only", "without `read_only`"], None);
    says(&Failure::Forked, &["fork of the one that opened the file", "open files after the fork"], None);
    for (failure, word, source) in &failures {
        says(failure, &["open the file again", word], *source);
        says(&BeginError::Failed(failure.clone()), &[word], Some(word));
        says(&CommitError::Failed(failure.clone()), &[word], Some(word));
    }
    says(&ClaimError::TransactionPoisoned, &["was undone", "drop every table"], None);
    says(&CommitError::Closed, &["closed; open the file again"], None);

    for (busy, words, source) in [
        (Busy::QueueFull { waited: Duration::from_millis(7) }, ["7 ms", "try again later"], None),
        (Busy::LeaseTooShort { waited: Duration::from_millis(7) }, ["7 ms", "a lease that is longer"], None),
        (Busy::TooManyClaims { max: 8 }, ["8 claims", "`max_in_flight`"], None),
        (Busy::TooManyWaiters { max: 9 }, ["9 calls", "`max_waiters`"], None),
        (Busy::TooManyProgressBytes { max: 6 }, ["6 bytes", "`max_progress_bytes`"], None),
        (Busy::DiskFull(io.clone()), ["no room", "no such directory"], Some("no such directory")),
        (Busy::FileNotReady(io.clone()), ["takes no writes", "no such directory"], Some("no such directory")),
    ] {
        says(&busy, &words, source);
        says(&BeginError::Busy(busy.clone()), &words, Some(words[0]));
        says(&CommitError::Busy(busy.clone()), &words, Some(words[0]));
        assert!(BeginError::Busy(busy).is_retryable());
    }
}

#[test]
fn an_error_of_an_opening_names_the_file_and_what_to_do_with_it() {
    let path = || PathBuf::from("x.idem");
    says(&OpenError::Option(option_error()), &["`ttl`"], Some("`ttl`"));
    says(&OpenError::Damaged(damage()), &["offset 0"], Some("offset 0"));
    says(
        &OpenError::Io(io_failure()),
        &["no such directory", "make the directory"],
        Some("no such directory"),
    );
    let newer = OpenError::NewerVersion { file: path(), found: 3, supported: 1 };
    let older = OpenError::OlderVersion { file: path(), found: 1, supported: 3 };
    for (error, words) in [
        (OpenError::NotAFile(path()), &["not a regular file"][..]),
        (OpenError::ReadOnly(path()), &["permissions"]),
        (OpenError::Locked(path()), &["close the other"]),
        (OpenError::NotIdemkv(path()), &["left alone"]),
        (newer, &["version 3", "up to 1", "a newer idemkv"]),
        (older, &["version 1", "from 3 on", "that wrote it"]),
        (OpenError::LogMissing { log: path(), opened_as: "old.idem".into() }, &["put it back", "old.idem"]),
        (
            OpenError::LogOfEarlierOpening { log: path(), opened_as: "old.idem".into() },
            &["old.idem", "open it by that name"],
        ),
        (OpenError::LogWithoutFile(path()), &["put the file back"]),
        (OpenError::LogOfAnotherFile(path()), &["put the right one back"]),
    ] {
        says(&error, &["x.idem"], None);
        says(&error, words, None);
    }
}

#[test]
fn an_error_of_a_call_about_a_key_says_what_to_do_with_the_operation() {
    let (io, damage) = (io_failure(), damage());
    let key = KeyError::Empty;
    says(&ReadError::Forked, &["fork of the one that opened the file"], None);
    for (read, word, is_source) in [
        (ReadError::Key(key), "empty", true),
        (ReadError::Closed, "closed; open the file again", false),
        (ReadError::Damaged(damage), "offset 0", true),
        (ReadError::Io(io), "no such directory", true),
    ] {
        let source = is_source.then_some(word);
        says(&read, &[word], source);
        says(&BeginError::from(read.clone()), &[word], source);
        says(&ForgetError::Read(read), &[word], Some(word));
    }
    says(&ForgetError::InFlight, &["can't be forgotten", "wait"], None);
    says(&ForgetError::Commit(CommitError::Closed), &["closed"], Some("closed"));

    let machine = Machine::default();
    let engine = machine.options().tombstone_ttl(2 * TTL).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "interrupted"));
    let Ok(Status::Interrupted(attempt)) = engine.default_scope().get("interrupted") else { panic!() };
    says(&BeginError::Unresolved(attempt), &["attempt 1", "without progress", "`resolve`"], None);
    says(&BeginError::KeyReused, &["another request", "new key"], None);
    says(&BeginError::BatchTooLong { len: 12, max: 11 }, &["12 calls", "11", "split it"], None);
    fresh(&scope, "well").complete("reply").unwrap();
    fresh(&scope, "ill").fail("reply").unwrap();
    machine.clock.advance(TTL);
    for (key, outcome) in [("well", "completed at 1800000000000 ms"), ("ill", "failed at 1800000000000 ms")] {
        let Err(late) = engine.default_scope().begin(key, request()) else { panic!() };
        assert!(!late.is_retryable());
        says(&late, &[outcome, "no longer kept", "replayed until 1800003600000 ms", "new key"], None);
    }

    says(&ResolveError::NotInterrupted(Box::new(Status::Vacant)), &["nothing to resolve"], None);
    says(&ResolveError::Begin(BeginError::KeyReused), &["another request"], Some("another request"));
    says(&TokenError::Malformed, &["pass them on as they were given"], None);
    says(&TokenError::OtherFile, &["where it was granted"], None);
    says(&TokenError::OtherScope, &["in its own"], None);
    says(&TokenError::Superseded(Box::new(Status::Vacant)), &["find out what became of the operation"], None);
    says(&TokenError::Held, &["one holder at a time"], None);
    says(&TokenError::Begin(BeginError::Closed), &["closed"], Some("closed"));
    says(&SetPolicyError::Name(key), &["empty"], Some("empty"));
    says(&SetPolicyError::Policy(option_error()), &["`ttl`"], Some("`ttl`"));
    says(&SetPolicyError::TooManyScopes { max: 5 }, &["5 scopes", "the default policy"], None);
    says(&SetPolicyError::Commit(CommitError::Closed), &["closed"], Some("closed"));
}

#[test]
fn an_error_of_a_claims_end_says_what_to_do_with_the_claim() {
    let machine = Machine::default();
    let engine = machine.options().tombstone_ttl(2 * TTL).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let _held = fresh(&scope, "held");
    drop(fresh(&scope, "dropped"));
    fresh(&scope, "done").complete("reply").unwrap();
    let superseded = |key: &str| ClaimError::Superseded(Box::new(engine.default_scope().get(key).unwrap()));
    let words = |now| [now, "end of its lease", "find out what became of the operation"];
    says(&superseded("vacant"), &words("its key is vacant"), None);
    says(&superseded("held"), &words("in flight with another claim"), None);
    says(&superseded("dropped"), &words("its key is interrupted"), None);
    says(&superseded("done"), &words("its key is done;"), None);
    machine.clock.advance(TTL);
    says(&superseded("done"), &words("its result no longer kept"), None);

    says(&ClaimError::BodyTooLarge { len: 9, max: 8 }, &["9 bytes", "8", "`max_body_bytes`"], None);
    says(&ClaimError::Option(option_error()), &["`ttl`", "end the claim again"], Some("`ttl`"));
    says(&ClaimError::NoLease, &["declare a policy with a lease"], None);
    says(&ClaimError::InsideTransaction, &["one after the other"], None);
    says(&ClaimError::BatchTooLong { len: 12, max: 11 }, &["12 calls", "split it"], None);
    says(&ClaimError::Commit(CommitError::Closed), &["closed"], Some("closed"));
    assert!(ClaimError::Commit(CommitError::Busy(Busy::TooManyClaims { max: 1 })).is_retryable());

    let ended = end_error();
    assert!(!ended.is_retryable() && !ended.reason().is_retryable());
    says(&ended, &["5000 bytes"], Some("5000 bytes"));
    let work = CompleteInError::Work { error: "no funds", claim: Box::new(claim()) };
    says(&work, &["nothing was written", "no funds"], None);
    says(&CompleteInError::<&str>::End(ended), &["5000 bytes"], Some("5000 bytes"));
}

type Ran<T> = RunError<T, &'static str>;

#[test]
fn an_error_of_a_run_says_whether_the_operation_ran() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let begin: Ran<u64> = BeginError::KeyReused.into();
    says(&begin, &["another request"], Some("another request"));
    assert!(!begin.is_retryable());
    assert!(Ran::<u64>::Begin(BeginError::Busy(Busy::TooManyClaims { max: 1 })).is_retryable());
    let held = fresh(&scope, "key");
    let Ok(Begin::InFlight(pending)) = engine.default_scope().begin("key", request()) else { panic!() };
    says(&Ran::<u64>::InFlight(pending), &["attempt 1", "still running", "try again later"], None);
    drop(held);
    let retry = Ran::<u64>::Retry("busy");
    assert!(retry.is_retryable());
    says(&retry, &["did nothing", "can be tried again"], None);
    says(&Ran::<u64>::Unknown("lost"), &["may have happened", "find out"], None);
    let not_released = Ran::<u64>::NotReleased { error: "busy", reason: end_error() };
    says(&not_released, &["could not be released", "5000 bytes"], Some("5000 bytes"));
    says(&Ran::<u64>::TaskLost, &["dropped or panicked", "find out"], None);

    let ran = scope.run("number", request(), |_| Ok::<_, Fault<String>>(f64::NAN));
    let Err(not_stored @ RunError::NotStored { reason: StoreError::Json(_), .. }) = ran else { panic!() };
    says(&not_stored, &["has run", "act on it", "change its type"], Some("JSON"));
    assert!(!not_stored.is_retryable());
    let RunError::NotStored { reason, .. } = not_stored else { panic!() };
    says(&reason, &["does not come back from JSON"], Some("not a number"));
    let source = reason.source().unwrap();
    says(source, &["not a number"], None);
    let too_large = ClaimError::BodyTooLarge { len: 9, max: 8 };
    says(&StoreError::End(too_large), &["9 bytes"], Some("9 bytes"));

    fresh(&scope, "text").complete("\"text\"").unwrap();
    let ran = scope.run("text", request(), |_| Ok::<u64, Fault<String>>(1));
    let Err(not_replayed) = ran else { panic!() };
    says(&not_replayed, &["has run", "do not run it again"], Some("read it as the type"));
    let RunError::NotReplayed { reason, .. } = not_replayed else { panic!() };
    says(&reason, &["can't be read"], Some("expected u64"));
    says(&ReplayError::NotKept, &["not kept"], None);
}

#[test]
fn what_is_shown_of_a_value_has_no_secret_and_no_body_in_it() {
    struct Silent;
    impl Observer for Silent {}

    let machine = Machine::default();
    let options = machine.options().observer(std::sync::Arc::new(Silent));
    assert!(format!("{options:?}").contains("Hooks(true)"));
    let engine = options.open("x.idem").unwrap();
    assert!(format!("{engine:?}").contains("x.idem"));
    let scope = engine.set_policy("jobs", engine.policy().lease(TTL)).unwrap();

    let mut claim = fresh(&scope, "key");
    claim.save_progress("PIN 4711").unwrap();
    let noted = claim.last_progress().unwrap();
    assert_eq!(format!("{noted:?}"), "Progress { len: 8, .. }");
    assert!(!format!("{claim:?}").contains("4711"));
    let token = claim.into_token().unwrap();
    assert_eq!(format!("{token:?}"), "ClaimToken(..)");
    let claim = scope.resume(&token).unwrap();
    let mut ending = claim.complete_async("PIN 4711");
    assert_eq!(format!("{ending:?}"), "Ending { .. }");
    let record = crate::common::run(&engine, std::pin::Pin::new(&mut ending)).unwrap();
    let shown = format!("{record:?}");
    assert!(shown.contains("outcome: Success, body_len: 8"), "{shown}");
    assert!(shown.contains("attempt: 1") && !shown.contains("4711") && !shown.contains("80, 73"), "{shown}");
    let body = record.clone().into_body();
    assert_eq!((&*body, body.as_ref()), (record.body(), &b"PIN 4711"[..]));
    assert_eq!(format!("{body:?}"), "Body(8 bytes)");
    // An observer that is interested in nothing is told of all this.
    assert!(matches!(scope.begin("key", request()), Ok(Begin::Done(_))));
    assert!(matches!(scope.begin("key", Fingerprint::of("another")), Err(BeginError::KeyReused)));

    let claim = fresh(&scope, "tables");
    let shown = claim.complete_in(|tables| Ok::<_, ()>(format!("{tables:?}"))).unwrap();
    assert_eq!(shown.body(), b"Tables { .. }");
    assert_eq!(engine.read_tables(|tables| format!("{tables:?}")).unwrap(), "ReadTables { .. }");

    let claim = fresh(&scope, "steps");
    let step = claim.step_key("charge");
    let number = u128::from_be_bytes(*step.as_bytes());
    assert_eq!(step.to_string().replace('-', ""), format!("{number:032x}"));
    assert_eq!(engine.now().to_string(), format!("{START_MS} ms since the epoch"));
    let time = engine.now().to_system_time().unwrap();
    assert_eq!(time.duration_since(UNIX_EPOCH).unwrap(), Duration::from_millis(START_MS));
}

const EVENTS: MultimapTableDefinition<'_, &str, u64> = MultimapTableDefinition::new("events");
const PLAIN: TableDefinition<'_, &str, u64> = TableDefinition::new("events");

#[test]
fn tables_with_several_values_a_key_are_written_read_and_refused_by_name() {
    const OURS: MultimapTableDefinition<'_, &str, u64> = MultimapTableDefinition::new("idemkv.events");
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let completed = claim.complete_in(|tables| {
        assert_eq!(format!("{tables:?}"), "Tables { .. }");
        assert!(matches!(tables.open_multimap_table(OURS), Err(TableError::Reserved(_))));
        let mut events = tables.open_multimap_table(EVENTS)?;
        assert!(events.insert("a", 1).is_ok() && events.insert("a", 2).is_ok());
        Ok::<_, TableError>("reply")
    });
    assert_eq!(completed.unwrap().outcome(), Outcome::Success);
    let read = engine.read_tables(|tables| {
        assert_eq!(format!("{tables:?}"), "ReadTables { .. }");
        let Err(reserved) = tables.open_multimap_table(OURS) else { panic!() };
        says(&reserved, &["`idemkv.events`", "does not start with `idemkv.`"], None);
        let Err(other) = tables.open_table(PLAIN) else { panic!() };
        says(&other, &["events", "multimap"], Some("events"));
        let events = tables.open_multimap_table(EVENTS).unwrap();
        events.get("a").unwrap().map(|value| value.unwrap().value()).collect::<Vec<_>>()
    });
    assert_eq!(read.unwrap(), [1, 2]);
    let deleted = fresh(&default_scope(&engine), "delete").complete_in(|tables| {
        let was_there = tables.delete_table(TableDefinition::<&str, u64>::new("nothing"))?;
        Ok::<_, TableError>(was_there.to_string())
    });
    assert_eq!(deleted.unwrap().body(), b"false");
}
