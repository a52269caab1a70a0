//! Keys, bodies, requests and options out of range.

use std::time::Duration;

use crate::helpers::{REQUEST, assert_done, assert_says, claim, refused_and_unchanged, small};
use idemkv::{
    Begin, BeginError, ClaimError, Engine, Fingerprint, ForgetError, KeyError, OpenError, ReadError, Status,
};

const OTHER_REQUEST: &[u8] = b"amount=11";

#[test]
fn an_empty_key_is_refused_by_every_call() {
    let directory = tempfile::tempdir().unwrap();
    let engine = small().open(directory.path().join("x.idem")).unwrap();
    let error = engine.default_scope().begin("", Fingerprint::of(REQUEST)).unwrap_err();
    assert!(matches!(error, BeginError::Key(KeyError::Empty)) && !error.is_retryable());
    assert_says(&error, &["is empty", "send one of at least one byte"]);
    assert!(matches!(engine.default_scope().get("").unwrap_err(), ReadError::Key(KeyError::Empty)));
    let error = engine.default_scope().forget("").unwrap_err();
    assert!(matches!(error, ForgetError::Read(ReadError::Key(KeyError::Empty))), "{error}");
}

#[test]
fn a_key_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let engine = small().max_key_bytes(300).open(directory.path().join("x.idem")).unwrap();
    let key = "k".repeat(301);
    let error = engine.default_scope().begin(&key, Fingerprint::of(REQUEST)).unwrap_err();
    assert!(matches!(error, BeginError::Key(KeyError::TooLong { len: 301, max: 300 })), "{error}");
    assert_says(&error, &["301 bytes", "the limit is 300", "send a shorter one"]);
    // The limit is for claims. A key that no file can have is refused by every call.
    assert!(matches!(engine.default_scope().get(&key).unwrap(), Status::Vacant));
    let longest = "k".repeat(4_097);
    assert!(matches!(
        engine.default_scope().get(&longest).unwrap_err(),
        ReadError::Key(KeyError::TooLong { .. })
    ));
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
    assert!(matches!(engine.default_scope().get("key").unwrap(), Status::InFlight(_)));
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
        let error = engine.default_scope().begin(key, Fingerprint::of(OTHER_REQUEST)).unwrap_err();
        assert!(matches!(error, BeginError::KeyReused) && !error.is_retryable(), "{key}: {error}");
        assert_says(
            &error,
            &["used for another request", "repeat the first request unchanged", "a new operation only"],
        );
    };
    ["done", "interrupted", "in flight"].iter().for_each(|key| check(&engine, key));
    assert_done(&engine, "done", b"reply");
    assert!(matches!(engine.default_scope().get("interrupted").unwrap(), Status::Interrupted(_)));
    assert!(matches!(engine.default_scope().get("in flight").unwrap(), Status::InFlight(_)));
    drop(out);
    engine.close().unwrap();
    // A record that is read from the file, and claims that an opening found dead.
    let engine = small().open(&path).unwrap();
    ["done", "interrupted", "in flight"].iter().for_each(|key| check(&engine, key));
    assert_done(&engine, "done", b"reply");
    assert_eq!(engine.scope("").resolve("in flight").unwrap().attempt(), 2);
}

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
