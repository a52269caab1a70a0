//! Where keys come from, and which methods need them.

use http::{HeaderName, Method};
use idemkv::http::{IdempotencyLayer, ProblemKind, RequestFingerprint};

use crate::client::{KEY, client, home, request};

#[tokio::test]
async fn a_key_comes_from_another_header() {
    let home = home();
    let client = client(&home.layer().key_header(HeaderName::from_static("paypal-request-id")), 201, "made");
    let asked = || request("POST", "/", &[("paypal-request-id", KEY)], "");
    assert!(!client.send(asked()).await.is_replay());
    assert!(client.send(asked()).await.is_replay());
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::KeyMissing));
}

#[tokio::test]
async fn a_key_comes_from_a_field_of_the_body() {
    let home = home();
    let key = |body: &[u8]| {
        let body: serde_json::Value = serde_json::from_slice(body).ok()?;
        Some(body.get("idempotency_key")?.as_str()?.to_owned())
    };
    let layer = home.layer().key_from(move |_parts, body| key(body));
    let required = client(&layer, 201, "made");
    let with_key = r#"{"idempotency_key":"a key","amount":10}"#;
    assert!(!required.send(request("POST", "/", &[], with_key)).await.is_replay());
    assert!(required.send(request("POST", "/", &[], with_key)).await.is_replay());
    let other = r#"{"idempotency_key":"a key","amount":11}"#;
    assert_eq!(required.send(request("POST", "/", &[], other)).await.problem(), Some(ProblemKind::KeyReused));
    assert_eq!(required.send(request("POST", "/", &[], "{}")).await.problem(), Some(ProblemKind::KeyMissing));
    let empty = r#"{"idempotency_key":""}"#;
    assert_eq!(
        required.send(request("POST", "/", &[], empty)).await.problem(),
        Some(ProblemKind::KeyMalformed)
    );
    let optional = client(&layer.optional(), 201, "made");
    for _ in 0..2 {
        assert!(!optional.send(request("POST", "/", &[], "{}")).await.is_replay());
    }
    assert_eq!(optional.runs(), 2);
}

#[tokio::test]
async fn post_and_patch_need_keys_and_other_methods_by_choice() {
    let home = home();
    let standard = client(&home.layer(), 200, "done");
    for (method, needs) in
        [("POST", true), ("PATCH", true), ("PUT", false), ("DELETE", false), ("GET", false)]
    {
        let answer = standard.send(request(method, "/", &[], "")).await;
        assert_eq!(answer.problem().is_some(), needs, "{method}");
    }
    let chosen = home.layer().methods([Method::PUT, Method::DELETE, Method::GET, Method::HEAD]);
    let chosen = client(&chosen, 200, "done");
    for (method, needs) in [("POST", false), ("PUT", true), ("DELETE", true), ("GET", false), ("HEAD", false)]
    {
        let answer = chosen.send(request(method, "/", &[], "")).await;
        assert_eq!(answer.problem().is_some(), needs, "{method}");
    }
}

#[tokio::test]
async fn a_scope_by_function_that_names_none_is_told_and_runs_nothing() {
    let home = home();
    let layer = IdempotencyLayer::scope_by(&home.engine, |parts| {
        let path = parts.uri.path();
        path.starts_with("/v1/").then(|| format!("{} {path}", parts.method))
    });
    let client = client(&layer, 201, "made");
    assert_eq!(client.post(KEY, "").await.status, 201);
    assert!(client.post(KEY, "").await.is_replay());
    let elsewhere = client.send(request("POST", "/v1/other", &[("idempotency-key", KEY)], "")).await;
    assert!(!elsewhere.is_replay(), "another scope");
    let answer = client.send(request("POST", "/", &[("idempotency-key", KEY)], "")).await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (500, Some(ProblemKind::Misconfigured)));
    let long = client
        .send(request("POST", &format!("/v1/{}", "x".repeat(300)), &[("idempotency-key", KEY)], ""))
        .await;
    assert_eq!(long.problem(), Some(ProblemKind::Misconfigured));
    assert_eq!(client.runs(), 2);
}

#[tokio::test]
async fn another_payload_can_be_served_with_the_stored_response() {
    let home = home();
    let client = client(&home.layer().fingerprint(RequestFingerprint::ignored()), 201, "made");
    client.post(KEY, "amount=10").await;
    assert!(client.post(KEY, "amount=11").await.is_replay());
}

#[tokio::test]
async fn tenant_and_key_together_must_fit() {
    let home = home();
    let client = client(&home.layer().tenant(|_| Some("t".repeat(100))), 201, "made");
    assert_eq!(client.post(&"k".repeat(154), "").await.status, 201);
    let answer = client.post(&"k".repeat(155), "").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (400, Some(ProblemKind::KeyMalformed)));
}
