//! What counts of a request, and what does not.

use super::*;
use http::Request;

fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

impl RequestFingerprint {
    /// Of a request whose URI nothing has changed.
    fn of(&self, parts: &Parts, body: &[u8]) -> Fingerprint {
        self.of_request(parts, None, body)
    }
}

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn json(fingerprint: &RequestFingerprint, body: &str) -> Fingerprint {
    fingerprint.of(&parts("POST", "/", &JSON), body.as_bytes())
}

#[test]
fn method_path_query_content_type_and_body_count_and_other_headers_do_not() {
    let fingerprint = RequestFingerprint::new();
    let base = fingerprint.of(&parts("POST", "/a?x=1", &JSON), b"body");
    let others = [
        fingerprint.of(&parts("PATCH", "/a?x=1", &JSON), b"body"),
        fingerprint.of(&parts("POST", "/b?x=1", &JSON), b"body"),
        fingerprint.of(&parts("POST", "/a?x=2", &JSON), b"body"),
        fingerprint.of(&parts("POST", "/a", &JSON), b"body"),
        fingerprint.of(&parts("POST", "/a?x=1", &[]), b"body"),
        fingerprint.of(&parts("POST", "/a?x=1", &[JSON[0], ("content-type", "text/xml")]), b"body"),
        fingerprint.of(&parts("POST", "/a?x=1", &JSON), b"body2"),
    ];
    assert!(others.iter().all(|other| *other != base));
    let retry = [JSON[0], ("date", "now"), ("traceparent", "7"), ("authorization", "x")];
    assert_eq!(fingerprint.of(&parts("POST", "/a?x=1", &retry), b"body"), base);
    let counts_one = fingerprint.header(HeaderName::from_static("x-currency"));
    let euro = counts_one.of(&parts("POST", "/", &[("x-currency", "EUR")]), b"");
    assert_ne!(euro, counts_one.of(&parts("POST", "/", &[("x-currency", "USD")]), b""));
    assert_ne!(euro, counts_one.of(&parts("POST", "/", &[]), b""));
}

#[test]
fn the_order_of_json_keys_counts_unless_it_is_told_not_to() {
    let (exact, sorted) = (RequestFingerprint::new(), RequestFingerprint::new().json_key_order());
    let (one, other) =
        (r#"{"a":1,"b":[{"c":"x","d":2.50}]}"#, "{ \"b\": [{\"d\":2.50, \"c\":\"x\"}], \"a\":1 }\n");
    assert_ne!(json(&exact, one), json(&exact, other));
    assert_eq!(json(&sorted, one), json(&sorted, other));
    for changed in [
        r#"{"a":1,"b":[{"c":"x","d":2.5}]}"#,
        r#"{"a":1,"b":[{"c":"x","d":2}]}"#,
        r#"{"a":"1","b":[{"c":"x","d":2.50}]}"#,
        r#"{"a":1,"b":{"c":"x","d":2.50}}"#,
        r#"{"a":1,"b":[{"c":"x","d":2.50},null]}"#,
    ] {
        assert_ne!(json(&sorted, one), json(&sorted, changed), "{changed}");
    }
}

#[test]
fn numbers_that_a_float_cannot_tell_apart_are_told_apart() {
    let sorted = RequestFingerprint::new().json_key_order();
    assert_ne!(json(&sorted, r#"{"a":9007199254740993.1}"#), json(&sorted, r#"{"a":9007199254740993.0}"#));
    assert_ne!(
        json(&sorted, r#"{"a":123456789012345678901}"#),
        json(&sorted, r#"{"a":123456789012345678902}"#)
    );
}

#[test]
fn what_sorting_would_not_say_all_of_counts_byte_for_byte() {
    let sorted = RequestFingerprint::new().json_key_order();
    assert_ne!(json(&sorted, r#"{"a":1,"a":2}"#), json(&sorted, r#"{"a":2}"#));
    assert_ne!(json(&sorted, r#"{"a":1,"a":2}"#), json(&sorted, r#"{"a":2,"a":1}"#));
    assert_ne!(json(&sorted, "{"), json(&sorted, "{ "));
    let nested = |space: &str| format!("{}{space}{}", "[".repeat(100), "]".repeat(100));
    assert_ne!(json(&sorted, &nested("")), json(&sorted, &nested(" ")));
    // Deep enough to overflow a stack.
    json(&sorted, &"[".repeat(1 << 20));
    let text = RequestFingerprint::new().json_key_order().of(&parts("POST", "/", &[]), b"{\"b\":1,\"a\":2}");
    assert_ne!(
        text,
        RequestFingerprint::new().json_key_order().of(&parts("POST", "/", &[]), b"{\"a\":2,\"b\":1}")
    );
}

#[test]
fn the_order_of_query_parameters_can_be_left_out_but_not_that_of_one_parameters_values() {
    let of = |fingerprint: &RequestFingerprint, uri: &str| fingerprint.of(&parts("POST", uri, &[]), b"");
    let (exact, sorted) = (RequestFingerprint::new(), RequestFingerprint::new().query_order());
    assert_ne!(of(&exact, "/?a=1&b=2"), of(&exact, "/?b=2&a=1"));
    assert_eq!(of(&sorted, "/?a=1&b=2&a=3"), of(&sorted, "/?b=2&a=1&a=3"));
    assert_ne!(of(&sorted, "/?a=1&a=3"), of(&sorted, "/?a=3&a=1"));
    assert_ne!(of(&sorted, "/?"), of(&sorted, "/"));
}

#[test]
fn a_multipart_boundary_can_be_left_out_and_content_that_looks_like_one_counts() {
    let multipart = RequestFingerprint::new().multipart_boundary();
    let of = |boundary: &str, content: &str| {
        let content_type = format!("multipart/form-data; boundary=\"{boundary}\"; charset=utf-8");
        let body = format!("--{boundary}\r\n\r\n{content}\r\n--{boundary}--\r\n");
        multipart.of(&parts("POST", "/", &[("content-type", &content_type)]), body.as_bytes())
    };
    assert_eq!(of("x1", "file"), of("other2", "file"));
    assert_ne!(of("x1", "file"), of("x1", "file2"));
    assert_ne!(of("x1", "mid--x1 line"), of("x2", "mid--x2 line"));
    assert_ne!(of("x1", "a\r\n--x1\r\nb"), of("x1", "a\r\n--x2\r\nb"));
    let without = RequestFingerprint::new();
    let plain =
        |content_type: &str| without.of(&parts("POST", "/", &[("content-type", content_type)]), b"--a\r\n");
    assert_ne!(plain("multipart/mixed; boundary=a"), plain("multipart/mixed; boundary=b"));
}

#[test]
fn the_body_alone_or_nothing_can_count() {
    let (body, nothing) = (RequestFingerprint::body_only(), RequestFingerprint::ignored());
    assert_eq!(body.of(&parts("POST", "/a", &JSON), b"x"), body.of(&parts("PUT", "/b?c", &[]), b"x"));
    assert_ne!(body.of(&parts("POST", "/a", &JSON), b"x"), body.of(&parts("POST", "/a", &JSON), b"y"));
    assert_eq!(nothing.of(&parts("POST", "/a", &JSON), b"x"), nothing.of(&parts("PUT", "/b", &[]), b"y"));
    let custom = RequestFingerprint::custom(|parts, _| Fingerprint::of(parts.uri.path()));
    assert_eq!(custom.of(&parts("POST", "/a", &JSON), b"x"), custom.of(&parts("PUT", "/a", &[]), b"y"));
}

/// A change of this makes every retry look like a reused key.
#[test]
fn golden_fingerprints() {
    let request = parts("POST", "/a?x=1", &JSON);
    let shown = format!(
        "{:?} {:?} {:?}",
        RequestFingerprint::new().of(&request, b"{}"),
        RequestFingerprint::new().json_key_order().of(&request, b"{}"),
        RequestFingerprint::body_only().of(&request, b"{}"),
    );
    let golden = [
        "Fingerprint(0e34df04d03f4661..)",
        "Fingerprint(9cf5ddb0515eda87..)",
        "Fingerprint(98510d74639ca0a8..)",
    ];
    assert_eq!(shown, golden.join(" "));
}
