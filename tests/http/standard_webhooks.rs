//! Webhooks with the signatures that Standard Webhooks describes.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use idemkv::http::{IdempotencyLayer, ProblemKind, StandardWebhooks};
use idemkv::{Recovery, Status};
use standardwebhooks::Webhook;

use crate::client::{Client, Home, client, home, request};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEXT: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn receiver() -> (Home, Client) {
    let home = home();
    let signatures = StandardWebhooks::new(SECRET).unwrap().secret(NEXT).unwrap();
    let layer = IdempotencyLayer::standard_webhooks(&home.engine, "events", Recovery::Rerun, signatures);
    let client = client(&layer.unwrap(), 204, "");
    (home, client)
}

/// Seconds since 1970, so many seconds from now.
fn time(from_now: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + from_now
}

fn delivery(id: &str, time: i64, signature: &str, body: &str) -> Request<Full<Bytes>> {
    let time = time.to_string();
    let headers = [("webhook-id", id), ("webhook-timestamp", &*time), ("webhook-signature", signature)];
    request("POST", "/hooks", &headers, body)
}

fn signed(secret: &str, id: &str, from_now: i64, body: &str) -> Request<Full<Bytes>> {
    let time = time(from_now);
    delivery(id, time, &Webhook::new(secret).unwrap().sign(id, time, body.as_bytes()).unwrap(), body)
}

#[tokio::test]
async fn a_signed_event_is_handled_once_whenever_it_is_delivered() {
    let (_home, client) = receiver();
    for from_now in [-200, 0, 200] {
        assert_eq!(client.send(signed(SECRET, "msg_1", from_now, "paid")).await.status, 204);
    }
    assert_eq!(client.send(signed(NEXT, "msg_1", 0, "paid")).await.status, 204, "the secret changes");
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn what_is_not_signed_runs_nothing_and_takes_no_id() {
    let (home, client) = receiver();
    let now = time(0);
    let good = Webhook::new(SECRET).unwrap().sign("msg_1", now, b"paid").unwrap();
    let other = Webhook::new("whsec_AAAA").unwrap().sign("msg_1", now, b"paid").unwrap();
    let forged = [
        ("another body", delivery("msg_1", now, &good, "paid twice")),
        ("another id", delivery("msg_2", now, &good, "paid")),
        ("another time", delivery("msg_1", now + 1, &good, "paid")),
        ("another secret", delivery("msg_1", now, &other, "paid")),
        ("no signature", delivery("msg_1", now, "", "paid")),
        ("an empty signature", delivery("msg_1", now, "v1,", "paid")),
        ("another version", delivery("msg_1", now, &good.replace("v1,", "v2,"), "paid")),
        ("too long ago", signed(SECRET, "msg_1", -400, "paid")),
        ("before all time", delivery("msg_1", i64::MIN, &good, "paid")),
        ("not yet", signed(SECRET, "msg_1", 400, "paid")),
        ("no headers", request("POST", "/hooks", &[("webhook-id", "msg_1")], "paid")),
        // The signature of "msg" at time 1 with the body "2.paid" covers the same bytes.
        ("a full stop", signed(SECRET, "msg.1", 0, "paid")),
    ];
    for (what, request) in forged {
        let answer = client.send(request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.problem()),
            (403, Some(ProblemKind::NotVerified)),
            "{what}"
        );
    }
    assert_eq!(client.runs(), 0);
    assert!(matches!(home.engine.scope("events").get("msg_1"), Ok(Status::Vacant)));
    let both = format!("{other} {good}");
    assert_eq!(client.send(delivery("msg_1", now, &both, "paid")).await.status, 204, "one of two is enough");
}

#[test]
fn a_secret_that_can_not_be_one_is_refused_and_not_shown() {
    for secret in ["", "whsec_", "whsec_not base64!"] {
        let error = StandardWebhooks::new(secret).unwrap_err();
        assert_eq!(
            error.to_string(),
            "option `secret` is not shown; allowed is base64, with or without `whsec_` before it, and not empty"
        );
    }
    let shown = format!("{:?}", StandardWebhooks::new(SECRET).unwrap());
    assert!(!shown.contains("MfKQ"), "{shown}");
}

#[cfg(feature = "axum")]
mod receiver {
    use axum::body::Bytes;

    // shown: receiver
    use std::error::Error;

    use axum::Router;
    use axum::routing::post;
    use idemkv::http::{IdempotencyLayer, StandardWebhooks};
    use idemkv::{Engine, Recovery};

    pub fn receiver(engine: &Engine, secret: &str) -> Result<Router, Box<dyn Error>> {
        let signatures = StandardWebhooks::new(secret)?;
        let layer = IdempotencyLayer::standard_webhooks(engine, "events", Recovery::Rerun, signatures)?;
        Ok(Router::new().route("/hooks", post(handle_event).layer(layer)))
    }
    // end

    async fn handle_event(event: Bytes) -> String {
        format!("handled {} bytes", event.len())
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn the_receiver_of_the_document_is_this_one_and_works() {
    use crate::snippets::{blocks, regions};
    use tower::ServiceExt;

    let shown = blocks(include_str!("../../docs/patterns.md"))[1];
    assert_eq!(shown, regions(include_str!("standard_webhooks.rs"))[0]);

    let home = home();
    let router = receiver::receiver(&home.engine, SECRET).unwrap();
    let statuses = [
        signed(SECRET, "msg_1", 0, "paid"),
        signed(SECRET, "msg_1", 9, "paid"),
        signed(NEXT, "msg_2", 0, "paid"),
    ];
    for (request, status) in statuses.into_iter().zip([200, 200, 403]) {
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
    }
}
