//! What a person reads of rarer errors, and what `Debug` shows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{Machine, TTL, default_scope, fresh, request};
use crate::display::{damage, io_failure, option_error, says};
use idemkv::{
    BackupError, BeginError, ClaimError, CommitError, End, Engine, Event, Failure, Fingerprint, Observer,
    OpenError, ReadError, Record, ResolveError, Status,
};

#[test]
fn an_error_of_a_backup_says_what_to_do_before_the_next() {
    let exists = BackupError::Exists("b.idem".into());
    says(&exists, &["b.idem exists already", "another name"], None);
    says(&BackupError::Running, &["another backup", "wait until it is there"], None);
    says(&BackupError::InsideTransaction, &["inside a transaction", "afterwards"], None);
    says(&BackupError::from(io_failure()), &["no backup was made"], Some("no such directory"));
    says(&BackupError::from(CommitError::Closed), &["no backup was made", "closed"], Some("closed"));
    let copy = BackupError::from(OpenError::Damaged(damage()));
    says(&copy, &["no backup was made", "the copy does not open"], Some("offset 0"));
    // An error of the system is told as one, in whatever step it comes.
    let io = BackupError::from(OpenError::Io(io_failure()));
    assert!(matches!(io, BackupError::Io(_)), "{io:?}");
}

#[test]
fn an_error_of_a_name_says_which_name_would_do() {
    says(&OpenError::NoPath, &["the path is empty", "give the path of a file"], None);
    let long = OpenError::NameTooLong { path: "x.idem".into(), len: 252, max: 251 };
    says(&long, &["x.idem", "252 bytes", "at most 251"], None);
    let beside = OpenError::LogBesideBackup("x.idem-wal".into());
    says(&beside, &["is a backup", "x.idem-wal", "move the log away"], None);
}

#[test]
fn a_call_that_can_not_be_made_where_it_was_made_says_so() {
    for error in [BeginError::InsideTransaction, BeginError::from(CommitError::InsideTransaction)] {
        says(&error, &["transaction"], None);
        assert!(!error.is_retryable());
    }
    says(&CommitError::InsideTransaction, &["transaction"], None);
    for error in [BeginError::InsideCallback, BeginError::from(CommitError::InsideCallback)] {
        says(&error, &["thread"], None);
    }
    let away = Failure::TakenAway(PathBuf::from("x.idem"));
    says(&away, &["x.idem", "put the file and its log back"], None);
    let forked = BeginError::from(ReadError::Forked);
    says(&forked, &["open files after the fork"], Some("fork"));
    assert!(matches!(forked, BeginError::Failed(Failure::Forked)));
}

#[test]
fn the_state_of_a_key_is_told_in_words() {
    let machine = Machine::default();
    let engine = machine.options().tombstone_ttl(2 * TTL).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    let Ok(Status::Interrupted(attempt)) = engine.default_scope().get("key") else { panic!() };
    let another = ResolveError::AnotherAttempt(attempt);
    says(&another, &["another attempt", "attempt 1", "look at the key again"], None);
    fresh(&scope, "done").complete("reply").unwrap();
    machine.clock.advance(TTL);
    let expired = scope.get("done").unwrap();
    assert!(expired.to_string().starts_with("expired: "), "{expired}");
    let unread = Status::Unreadable(ReadError::Damaged(damage()));
    assert!(unread.to_string().starts_with("its record can't be read: "), "{unread}");
    let superseded = ClaimError::Superseded(Box::new(unread));
    says(&superseded, &["done, but its record can't be read"], None);
}

#[test]
fn debug_output_of_calls_and_lists_shows_no_key_and_no_body() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let ends = [End::complete("PIN 4711"), End::fail("PIN 4711"), End::release()];
    let shown = format!("{ends:?}");
    assert_eq!(shown, r#"[End("Complete"), End("Fail"), End("Release")]"#);
    let claims = ["one", "two", "three"].map(|key| fresh(&scope, key));
    assert!(engine.end_many(claims.into_iter().zip(ends).collect()).iter().all(Result::is_ok));
    let entries = format!("{:?}", engine.entries());
    assert!(entries.starts_with("Entries(") && !entries.contains("one"), "{entries}");
    let listing = format!("{:?}", engine.in_flight());
    assert!(listing.starts_with("Listing {"), "{listing}");
    assert_eq!(format!("{:?}", Fingerprint::builder()), "FingerprintBuilder { .. }");
    assert!(!format!("{:?}", option_error()).is_empty());
}

#[derive(Default)]
struct Counts {
    replays: AtomicUsize,
    events: AtomicUsize,
}

impl Observer for Counts {
    fn replayed(&self, _record: &Record) {
        self.replays.fetch_add(1, Ordering::Relaxed);
    }

    fn event(&self, _event: &Event<'_>) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn two_observers_are_both_told_of_everything() {
    let (one, two) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
    let machine = Machine::default();
    let both = Arc::new((Arc::clone(&one), Arc::clone(&two)));
    let engine: Engine = machine.options().observer(both).open(Path::new("x.idem")).unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    assert!(scope.begin("key", request()).is_ok());
    for counts in [&one, &two] {
        assert_eq!(counts.replays.load(Ordering::Relaxed), 1);
        // Opened, granted, ended.
        assert!(counts.events.load(Ordering::Relaxed) >= 3);
    }
    assert_eq!(one.events.load(Ordering::Relaxed), two.events.load(Ordering::Relaxed));
}
