//! Keys in headers: which are taken, and which are refused.

use super::*;

fn key(value: &[u8], is_strict: bool) -> Option<String> {
    let mut headers = HeaderMap::new();
    headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
    KeyRules { is_strict, ..KeyRules::default() }.in_header(&headers).ok().flatten()
}

#[test]
fn a_quoted_key_and_a_bare_one_are_the_same_key() {
    let uuid = "8e03978e-40d5-43e8-bc93-6894a57f9324";
    for value in
        [uuid.to_owned(), format!("\"{uuid}\""), format!("  \"{uuid}\"  "), format!("\"{uuid}\";v=1")]
    {
        assert_eq!(key(value.as_bytes(), false).as_deref(), Some(uuid), "{value}");
        assert_eq!(key(value.as_bytes(), true).is_some(), value.contains('"'), "{value}");
    }
}

#[test]
fn bare_keys_of_real_clients_are_taken() {
    for value in
        ["auto_8e03978e-40d5", "stripe-node-retry-8e03978e", "clkyoesmbgyb", "aGVsbG8+/w==", "7", "a:b/c@d"]
    {
        assert_eq!(key(value.as_bytes(), false).as_deref(), Some(value));
        assert_eq!(key(value.as_bytes(), true), None);
    }
}

#[test]
fn strings_are_unescaped() {
    assert_eq!(key(br#""a \"b\" \\c""#, true).as_deref(), Some(r#"a "b" \c"#));
    assert_eq!(key(br#""\"""#, false).as_deref(), Some("\""));
}

#[test]
fn what_is_no_string_and_no_bare_key_is_refused() {
    let values: [&[u8]; 19] = [
        b"",
        b"  ",
        b"\"\"",
        b"\"",
        b"\"a",
        b"a\"",
        b"\"a\" b",
        b"\"a\", \"b\"",
        b"a, b",
        b"a b",
        b"a;b",
        b":YQ==:",
        b"?1",
        b"@1",
        b"(a b)",
        b"\"\\n\"",
        "ä".as_bytes(),
        b"\"\xff\"",
        b"%\"a\"",
    ];
    for value in values {
        assert_eq!(key(value, false), None, "{}", value.escape_ascii());
    }
}

#[test]
fn a_key_may_have_255_bytes_and_no_more() {
    for (len, is_taken) in [(1, true), (255, true), (256, false), (10_000, false)] {
        assert_eq!(key("k".repeat(len).as_bytes(), false).is_some(), is_taken, "{len}");
        assert_eq!(key(format!("\"{}\"", "k".repeat(len)).as_bytes(), true).is_some(), is_taken, "{len}");
    }
}

#[test]
fn a_header_that_comes_twice_is_refused_even_with_one_key() {
    let mut headers = HeaderMap::new();
    headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
    headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
    assert_eq!(KeyRules::default().in_header(&headers).unwrap_err().kind, ProblemKind::KeyMalformed);
}

#[test]
fn keys_from_elsewhere_are_checked_too() {
    let function: KeyOf = Arc::new(|_, body| String::from_utf8(body.to_vec()).ok());
    let rules = KeyRules {
        source: KeySource::Function(function),
        check: Some(Arc::new(|key| key != "no")),
        is_strict: true,
    };
    let (parts, ()) = http::Request::new(()).into_parts();
    assert_eq!(rules.in_request(&parts, b"a key").unwrap().as_deref(), Some("a key"));
    assert_eq!(rules.in_request(&parts, b"\xff").unwrap(), None);
    for body in [&b""[..], b"no", b"a\nb", b"acme\x1fkey", &[b'k'; 256]] {
        assert!(rules.in_request(&parts, body).is_err(), "{}", body.escape_ascii());
    }
}

#[test]
fn tenants_never_meet_however_names_and_keys_are_put_together() {
    let tenants = [None, Some(""), Some("a"), Some("a\x1f"), Some("a\x1fb"), Some("\x1f"), Some("ab")];
    let keys = ["a", "b", "ab", "a b"];
    let mut seen = std::collections::HashSet::new();
    for tenant in tenants {
        for key in keys {
            assert!(seen.insert(composed(tenant, key).into_owned()), "{tenant:?} {key}");
        }
    }
}
