//! Requests that are not what their sender signed.

use http::StatusCode;
use idemkv::Status;
use idemkv::http::ProblemKind;

use crate::client::{KEY, client, home, post, request};

/// In place of a signature: the body ends so.
fn is_signed(body: &[u8]) -> bool {
    body.ends_with(b"signed")
}

#[tokio::test]
async fn a_request_that_is_not_signed_learns_and_changes_nothing() {
    let home = home();
    let client = client(&home.layer().verify(|_parts, body| is_signed(body)), 201, "made");
    let forged = client.post(KEY, "pay me").await;
    assert_eq!((forged.status.as_u16(), forged.problem()), (403, Some(ProblemKind::NotVerified)));
    assert!(forged.forbids_retries());
    assert!(matches!(home.engine.scope("charges").get(KEY), Ok(Status::Vacant)));
    assert_eq!(client.post(KEY, "pay; signed").await.status, 201, "the key is the rightful sender's");
    assert_eq!(
        client.post(KEY, "pay me").await.problem(),
        Some(ProblemKind::NotVerified),
        "and not `key_reused`"
    );
    assert!(client.post(KEY, "pay; signed").await.is_replay());
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn where_keys_are_optional_a_request_without_one_is_checked_too() {
    let home = home();
    let layer = home.layer().optional().verify(|_parts, body| is_signed(body));
    let client = client(&layer, 201, "made");
    let forged = client.send(request("POST", "/", &[], "pay me")).await;
    assert_eq!((forged.problem(), client.runs()), (Some(ProblemKind::NotVerified), 0));
    assert_eq!(client.send(request("POST", "/", &[], "pay; signed")).await.status, 201);
    assert_eq!(client.send(request("GET", "/", &[], "")).await.status, 201, "methods that pass are not");
}

#[tokio::test]
async fn the_check_sees_the_head_as_it_came() {
    let home = home();
    let layer = home.layer().verify(|parts, _body| parts.headers.contains_key("x-signature"));
    let client = client(&layer, 201, "made");
    assert_eq!(client.send(post(KEY, "")).await.problem(), Some(ProblemKind::NotVerified));
    let signed = request("POST", "/v1/charges", &[("idempotency-key", KEY), ("x-signature", "1")], "");
    assert_eq!(client.send(signed).await.status, 201);
}

/// Azure's `Repeatability-First-Sent`: a retry that comes too late is refused with 412.
#[tokio::test]
async fn a_window_of_acceptance_is_a_check_with_a_status_of_its_own() {
    const NOW_S: u64 = 1_800_000_000;
    let home = home();
    let layer = home.layer().status(ProblemKind::NotVerified, StatusCode::PRECONDITION_FAILED);
    let layer = layer.verify(|parts, _| {
        let sent = parts.headers.get("first-sent").and_then(|sent| sent.to_str().ok()?.parse::<u64>().ok());
        sent.is_some_and(|sent| NOW_S.saturating_sub(sent) <= 300)
    });
    let client = client(&layer, 201, "made");
    let sent = |key: &str, ago: u64| {
        let first = (NOW_S - ago).to_string();
        request("POST", "/", &[("idempotency-key", key), ("first-sent", &first)], "")
    };
    assert_eq!(client.send(sent("a", 10)).await.status, 201);
    assert!(client.send(sent("a", 300)).await.is_replay());
    for late in [sent("a", 301), sent("b", 400)] {
        assert_eq!(client.send(late).await.status, 412);
    }
    assert_eq!(client.runs(), 1);
}
