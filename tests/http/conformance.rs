//! draft-ietf-httpapi-idempotency-key-header-07, clause by clause: what a server does about each.

use idemkv::http::{IdempotencyLayer, ProblemKind, is_uuid};

use crate::client::{Answer, KEY, client, gated, home, post, reply, request, serving};

/// The clauses, in the draft's words, with the test of each. A clause without a test is one that a
/// client has to keep.
const CLAUSES: [(&str, &str, &str); 23] = [
    ("2.1", "Its value MUST be a String", "a_key_is_a_string"),
    ("2.2", "key MUST be unique and MUST NOT be reused with another payload", "a_key_is_not_reused"),
    ("2.2", "Uniqueness MUST be defined by the resource owner", "the_owner_defines_what_is_unique"),
    ("2.2", "it is RECOMMENDED that a UUID be used", "a_format_can_be_required"),
    ("2.3", "MAY require time based keys", "a_format_can_be_required"),
    ("2.3", "SHOULD define such expiration policy", "expired_keys_are_told"),
    ("2.4", "a fingerprint MAY be used", "a_key_is_not_reused"),
    ("2.5.1", "clients SHOULD understand the requirements", ""),
    ("2.5.1", "clients MAY send a key with any valid value", "keys_that_nobody_asked_for_do_no_harm"),
    ("2.5.1", "a client SHOULD send a unique key", ""),
    ("2.5.2", "resources MUST publish a specification", "answers_link_to_documentation"),
    ("2.5.2", "it MUST include expiration", "answers_link_to_documentation"),
    ("2.5.2", "a server SHOULD identify the key", "a_key_is_a_string"),
    ("2.5.2", "generate a fingerprint if required", "a_key_is_not_reused"),
    ("2.5.2", "enforce idempotency", "a_retry_gets_the_result"),
    ("2.6", "first request: SHOULD process normally", "a_first_request_is_processed_normally"),
    ("2.6", "retry: SHOULD respond with the result, success or an error", "a_retry_gets_the_result"),
    ("2.6", "concurrent: SHOULD respond with a conflict", "a_concurrent_request_gets_a_conflict"),
    ("2.7", "missing: SHOULD reply with 400 and a link", "answers_link_to_documentation"),
    ("2.7", "another payload: SHOULD reply with 422 and a link", "answers_link_to_documentation"),
    ("2.7", "concurrent: SHOULD reply with 409 and a link", "a_concurrent_request_gets_a_conflict"),
    (
        "2.7",
        "clients MUST correct, or the resource MUST fail the request",
        "what_is_not_corrected_fails_again",
    ),
    (
        "5",
        "always validate the key before processing; a composite key MAY be used",
        "keys_are_validated_first",
    ),
];

#[test]
fn every_clause_has_its_test() {
    let (source, page) = (include_str!("conformance.rs"), include_str!("../../docs/http.md"));
    for (section, clause, test) in CLAUSES {
        assert!(test.is_empty() || source.contains(&format!("async fn {test}(")), "{section} {clause}");
        assert!(page.contains(&format!("| {section} |")), "docs/http.md does not tell of {section}");
    }
}

#[tokio::test]
async fn a_key_is_a_string() {
    let home = home();
    let (lenient, strict) = (client(&home.layer(), 201, "made"), client(&home.layer().strict(), 201, "made"));
    let quoted = format!("\"{KEY}\"");
    assert!(!lenient.post(&quoted, "a").await.is_replay());
    assert!(strict.post(&quoted, "a").await.is_replay());
    assert!(lenient.post(KEY, "a").await.is_replay(), "the same key without quotes");
    assert_eq!(strict.post(KEY, "a").await.problem(), Some(ProblemKind::KeyMalformed));
    for value in ["1", ":YQ==:", "?1", "\"a\", \"b\"", "(\"a\")"] {
        let answer = strict.post(value, "a").await;
        assert_eq!(
            (answer.status.as_u16(), answer.problem()),
            (400, Some(ProblemKind::KeyMalformed)),
            "{value}"
        );
    }
}

#[tokio::test]
async fn a_key_is_not_reused() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    client.post(KEY, "amount=10").await;
    let answer = client.post(KEY, "amount=11").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (422, Some(ProblemKind::KeyReused)));
    assert!(client.post(KEY, "amount=10").await.is_replay());
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn the_owner_defines_what_is_unique() {
    let home = home();
    let layer = home.layer().tenant(|parts| Some(parts.headers.get("account")?.to_str().ok()?.to_owned()));
    let (charges, refunds) = (client(&layer, 201, "made"), client(&layer.scope("refunds"), 201, "made"));
    let of = |account: &str| request("POST", "/", &[("idempotency-key", KEY), ("account", account)], "");
    for client in [&charges, &refunds] {
        for account in ["a", "b"] {
            assert!(!client.send(of(account)).await.is_replay());
            assert!(client.send(of(account)).await.is_replay());
        }
    }
    let answer = charges.post(KEY, "").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (400, Some(ProblemKind::TenantMissing)));
    assert_eq!((charges.runs(), refunds.runs()), (2, 2));
}

#[tokio::test]
async fn a_format_can_be_required() {
    let home = home();
    let client = client(&home.layer().check_key(is_uuid), 201, "made");
    assert_eq!(client.post(KEY, "").await.status, 201);
    assert_eq!(client.post("7", "").await.problem(), Some(ProblemKind::KeyMalformed));
}

#[tokio::test]
async fn expired_keys_are_told() {
    let clock = idemkv::sim::ManualClock::at_millis(1_800_000_000_000);
    let day = std::time::Duration::from_secs(24 * 3_600);
    let home =
        crate::client::home_with(idemkv::Engine::options().clock(&clock).ttl(day).tombstone_ttl(7 * day));
    let client = client(&home.layer(), 201, "made");
    client.post(KEY, "").await;
    clock.advance(2 * day);
    let answer = client.post(KEY, "").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (410, Some(ProblemKind::Expired)));
    assert!(answer.forbids_retries());
    assert_eq!(client.post(KEY, "other").await.problem(), Some(ProblemKind::KeyReused));
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn keys_that_nobody_asked_for_do_no_harm() {
    let home = home();
    let client = client(&home.layer().optional(), 200, "read");
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        for _ in 0..2 {
            let answer = client.send(request(method, "/", &[("idempotency-key", "not \"valid")], "")).await;
            assert!(answer.status == 200 && !answer.is_replay() && answer.problem().is_none(), "{method}");
        }
    }
    assert_eq!(client.runs(), 12);
}

#[tokio::test]
async fn a_first_request_is_processed_normally() {
    let home = home();
    let client = serving(&home.layer(), |request| async move {
        assert_eq!(request.uri(), "/v1/charges");
        assert_eq!(request.headers()["idempotency-key"], KEY);
        let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        assert_eq!(body, "amount=10");
        Ok(reply(201, "made"))
    });
    let answer = client.post(KEY, "amount=10").await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (201, &b"made"[..]));
    assert!(answer.headers.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn a_retry_gets_the_result() {
    let home = home();
    for status in [200, 201, 202, 204, 302, 400, 402, 404, 429, 500, 502, 503] {
        let client = client(&home.layer(), status, if status == 204 { "" } else { "result" });
        let key = status.to_string();
        let (first, retry) = (client.post(&key, "").await, client.post(&key, "").await);
        assert_eq!((first.status, &first.body), (retry.status, &retry.body));
        assert_eq!(retry.header("idempotent-replayed"), Some("true"));
        assert_eq!(first.header("idempotent-replayed"), None);
        assert_eq!(client.runs(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_concurrent_request_gets_a_conflict() {
    let home = home();
    let (client, gate) = gated(&home.layer());
    let first = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    let twin = client.post(KEY, "").await;
    assert_eq!((twin.status.as_u16(), twin.problem()), (409, Some(ProblemKind::InFlight)));
    assert_eq!(twin.header("retry-after"), Some("1"));
    assert!(links(&twin).ends_with("/in_flight"));
    assert!(!twin.forbids_retries());
    assert_eq!(client.post(KEY, "other").await.problem(), Some(ProblemKind::KeyReused), "checked first");
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().status, 201);
    assert_eq!(client.runs(), 1);
}

fn links(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("content-language"), Some("en"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status.as_u16());
    assert!(problem["title"].is_string() && problem["detail"].is_string());
    problem["type"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn answers_link_to_documentation() {
    let home = home();
    let layer = home.layer().documentation("https://api.example.com/docs/");
    let client = client(&layer, 201, "made");
    client.post(KEY, "").await;
    let missing = client.send(request("POST", "/", &[], "")).await;
    let reused = client.post(KEY, "other").await;
    assert_eq!(
        (missing.status.as_u16(), links(&missing).as_str()),
        (400, "https://api.example.com/docs/key_missing")
    );
    assert_eq!(
        (reused.status.as_u16(), links(&reused).as_str()),
        (422, "https://api.example.com/docs/key_reused")
    );
}

#[tokio::test]
async fn what_is_not_corrected_fails_again() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    client.post(KEY, "").await;
    for _ in 0..3 {
        assert_eq!(client.send(request("POST", "/", &[], "")).await.problem(), Some(ProblemKind::KeyMissing));
        assert_eq!(client.post("a b", "").await.problem(), Some(ProblemKind::KeyMalformed));
        assert_eq!(client.post(KEY, "other").await.problem(), Some(ProblemKind::KeyReused));
    }
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn keys_are_validated_first() {
    let home = home();
    let client = client(&IdempotencyLayer::draft(&home.engine, "charges").check_key(is_uuid), 201, "made");
    let before = home.engine.stats().begins();
    for key in ["7", "\"7\"", "\"\u{7f}\"", "' OR 1=1 --", "\"..\\..\\secret\""] {
        let mut asked = request("POST", "/", &[], "");
        let value = http::HeaderValue::from_bytes(key.as_bytes());
        let Ok(value) = value else { continue };
        asked.headers_mut().insert("idempotency-key", value);
        assert_eq!(client.send(asked).await.problem(), Some(ProblemKind::KeyMalformed), "{key}");
    }
    assert_eq!(home.engine.stats().begins(), before, "the store was asked");
}
