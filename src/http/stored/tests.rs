//! The stored response comes back as it was, and no bytes make the decoder panic.

use super::*;
use crate::{Begin, CommitMode, Engine, Fingerprint};
use http::header::{CONTENT_TYPE, SET_COOKIE};

/// A record with these bytes.
fn record(engine: &Engine, bytes: &[u8]) -> Record {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let key = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
    let Begin::Fresh(claim) = engine.default_scope().begin(key, Fingerprint::of("")).unwrap() else {
        panic!()
    };
    claim.complete(bytes).unwrap()
}

fn engine() -> (tempfile::TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    // Nothing here has to outlive the machine.
    let options = Engine::options().commit_mode(CommitMode::Buffered);
    let engine = options.open(dir.path().join("x.idem")).unwrap();
    (dir, engine)
}

fn example() -> (HeaderMap, Whole) {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-b", "1"),
        ("content-type", "text/plain"),
        ("x-a", "1, 2"),
        ("set-cookie", "secret"),
        ("x-b", "3"),
        ("x-empty", ""),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let mut sensitive = HeaderValue::from_bytes(b"\xff\t\x80").unwrap();
    sensitive.set_sensitive(true);
    headers.append("x-bytes", sensitive);
    let mut trailers = HeaderMap::new();
    trailers.append("x-sum", HeaderValue::from_static("7"));
    (headers, Whole { data: Bytes::from_static(b"\0body"), trailers: Some(trailers) })
}

#[test]
fn status_headers_in_order_with_repeats_trailers_and_body_come_back() {
    let (_dir, engine) = engine();
    let (mut headers, whole) = example();
    let unstored = Unstored::of(&headers, &[]);
    let bytes = encode(StatusCode::CREATED, &headers, &unstored, Some((&whole).into()));
    let stored = decode(&record(&engine, &bytes)).unwrap();
    headers.remove(SET_COOKIE);
    assert_eq!(stored.status, StatusCode::CREATED);
    // In order, which an equality of maps does not look at.
    let list = |headers: &HeaderMap| -> Vec<_> {
        headers.iter().map(|(name, value)| (name.clone(), value.clone(), value.is_sensitive())).collect()
    };
    let mut expected = list(&headers);
    // A removal moves the last header into the gap.
    expected.sort_by_key(|(name, ..)| name.as_str().to_owned());
    let mut found = list(&stored.headers);
    assert_eq!(
        found.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(),
        ["x-b", "x-b", "content-type", "x-a", "x-empty", "x-bytes"]
    );
    found.sort_by_key(|(name, ..)| name.as_str().to_owned());
    assert_eq!(found, expected);
    let body = stored.body.unwrap();
    assert_eq!((body.data, body.trailers), (whole.data, whole.trailers));
}

#[test]
fn without_its_body_the_head_comes_back() {
    let (_dir, engine) = engine();
    let (headers, _) = example();
    let unstored = Unstored::of(&headers, &[CONTENT_TYPE]);
    let bytes = encode(StatusCode::OK, &headers, &unstored, None);
    let stored = decode(&record(&engine, &bytes)).unwrap();
    assert!(stored.body.is_none() && !stored.headers.contains_key(CONTENT_TYPE));
}

#[test]
fn golden_bytes() {
    let mut headers = HeaderMap::new();
    headers.append("a", HeaderValue::from_static("b"));
    let unstored = Unstored::of(&headers, &[]);
    let whole = Whole { data: Bytes::from_static(b"body"), trailers: None };
    let bytes = encode(StatusCode::OK, &headers, &unstored, Some((&whole).into()));
    assert_eq!(bytes, b"\x01\x00\xc8\x00\x01\0\0\0\x01\0\0\0\x01\0\0\0ab\0\0\0\0body");
}

#[test]
fn bytes_cut_off_anywhere_and_bytes_changed_anywhere_never_panic() {
    let (_dir, engine) = engine();
    let (headers, whole) = example();
    let unstored = Unstored::of(&headers, &[]);
    let bytes = encode(StatusCode::CREATED, &headers, &unstored, Some((&whole).into()));
    let head = bytes.len() - whole.data.len();
    for len in 0..bytes.len() {
        assert_eq!(decode(&record(&engine, &bytes[..len])).is_some(), len >= head, "{len}");
    }
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            drop(decode(&record(&engine, &changed)));
        }
    }
    for hostile in [
        &[1, 0, 200, 0, 255, 255, 255, 255][..],
        &[2, 0, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[1, 2, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert!(decode(&record(&engine, hostile)).is_none());
    }
    assert!(
        decode(&record(&engine, &[1, 1, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7])).is_none(),
        "a body that was not kept"
    );
}
