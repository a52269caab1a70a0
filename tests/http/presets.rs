//! Presets for known contracts.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use idemkv::http::{IdempotencyLayer, Keep, ProblemKind};
use idemkv::{Engine, Recovery};

use crate::client::{KEY, client, gated, home, home_with, post, reply, request, serving};

#[tokio::test]
async fn the_draft_takes_strings_alone() {
    let home = home();
    let client = client(&IdempotencyLayer::draft(&home.engine, "charges"), 201, "made");
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::KeyMalformed));
    assert_eq!(client.post(&format!("\"{KEY}\""), "").await.status, 201);
    assert_eq!(client.send(request("POST", "/", &[], "")).await.status, 400);
}

#[tokio::test]
async fn stripe_takes_bare_keys_or_none_and_answers_another_payload_with_400() {
    let home = home();
    let client = client(&IdempotencyLayer::stripe(&home.engine, "charges"), 500, "result");
    assert_eq!(client.send(request("POST", "/", &[], "")).await.status, 500);
    client.post(KEY, "").await;
    let retry = client.post(KEY, "").await;
    assert_eq!((retry.status.as_u16(), retry.header("idempotent-replayed")), (500, Some("true")));
    let reused = client.post(KEY, "other").await;
    assert_eq!((reused.status.as_u16(), reused.problem()), (400, Some(ProblemKind::KeyReused)));
    assert_eq!(client.runs(), 2);
}

/// Its client for Node takes an answer without the member `error` for a success, whatever its
/// status.
#[tokio::test]
async fn stripe_clients_find_the_error_where_they_look_for_it() {
    let home = home();
    let layer = IdempotencyLayer::stripe(&home.engine, "charges").required();
    let (client, gate) = gated(&layer);
    let first = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    let (missing, reused, in_flight) = (
        client.send(request("POST", "/", &[], "")).await,
        client.post(KEY, "other").await,
        client.post(KEY, "").await,
    );
    gate.open();
    first.await.unwrap().unwrap();
    for (answer, status, kind, code) in [
        (missing, 400, "invalid_request_error", "key_missing"),
        (reused, 400, "idempotency_error", "key_reused"),
        (in_flight, 409, "invalid_request_error", "idempotency_key_in_use"),
    ] {
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["type"], &error["code"]),
            (status, &kind.into(), &code.into())
        );
        assert!(error["message"].as_str().unwrap().contains("key"));
        assert!(error["doc_url"].as_str().unwrap().contains("/http/problems/"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.forbids_retries(), code != "idempotency_key_in_use");
    }
    home.engine.close_async().await.unwrap();
    let closed = client.post("other", "").await;
    assert_eq!((closed.status.as_u16(), &closed.json()["error"]["type"]), (503, &"api_error".into()));
}

fn delivery(id: &str, time: &str, body: &str) -> Request<Full<Bytes>> {
    let headers = [("webhook-id", id), ("webhook-timestamp", time), ("webhook-signature", time)];
    request("POST", "/hooks", &headers, body)
}

#[tokio::test]
async fn a_webhook_is_handled_once_whatever_time_its_tries_are_signed_with() {
    let home = home();
    let layer = IdempotencyLayer::webhook(&home.engine, "events", Recovery::Rerun).unwrap();
    let client = client(&layer, 204, "");
    for time in ["1", "2", "3"] {
        assert_eq!(client.send(delivery("msg_1", time, "paid")).await.status, 204);
    }
    assert_eq!(client.send(delivery("msg_1", "4", "forged")).await.problem(), Some(ProblemKind::KeyReused));
    assert_eq!(client.runs(), 1);
    assert!(home.engine.scope("events").policy().get_ttl() >= Duration::from_secs(75 * 3_600));
}

/// The options that the guide shows: a week is less than the time of webhooks.
#[tokio::test]
async fn webhooks_take_the_times_of_a_service_that_remembers_keys_for_less() {
    let day = Duration::from_secs(24 * 3_600);
    let clock = idemkv::sim::ManualClock::at_millis(1_800_000_000_000);
    let home = home_with(Engine::options().clock(&clock).ttl(day).tombstone_ttl(7 * day));
    let layer = IdempotencyLayer::webhook(&home.engine, "events", Recovery::Rerun).unwrap();
    let client = client(&layer, 200, "handled");
    client.send(delivery("msg_1", "1", "paid")).await;
    clock.advance(29 * day);
    assert_eq!(client.send(delivery("msg_1", "2", "paid")).await.body, "handled");
    assert_eq!(client.runs(), 1);
    let policy = home.engine.scope("events").policy();
    assert_eq!((policy.get_ttl(), policy.get_tombstone_ttl()), (30 * day, Some(30 * day)));
}

#[tokio::test]
async fn a_webhook_that_was_not_handled_runs_again_if_that_was_chosen() {
    for recovery in [Recovery::Rerun, Recovery::Refuse] {
        let home = home();
        let layer = IdempotencyLayer::webhook(&home.engine, "events", recovery).unwrap();
        let failing = client(&layer, 500, "try later");
        assert_eq!(failing.send(delivery("msg_1", "1", "paid")).await.status, 500);
        let working = client(&layer, 200, "handled");
        let second = working.send(delivery("msg_1", "2", "paid")).await;
        match recovery {
            Recovery::Rerun => assert_eq!(second.body, "handled"),
            _ => assert_eq!(second.problem(), Some(ProblemKind::OutcomeUnknown)),
        }
    }
}

#[tokio::test]
async fn a_duplicate_of_a_webhook_is_a_success_even_if_its_response_is_gone() {
    let clock = idemkv::sim::ManualClock::at_millis(1_800_000_000_000);
    let day = Duration::from_secs(24 * 3_600);
    let home = home_with(Engine::options().clock(&clock).tombstone_ttl(90 * day));
    let layer = IdempotencyLayer::webhook(&home.engine, "events", Recovery::Rerun).unwrap();
    let client = serving(&layer, |_| async {
        let mut response = reply(200, "secret");
        response.extensions_mut().insert(Keep::outcome());
        Ok(response)
    });
    client.send(delivery("msg_1", "1", "paid")).await;
    let duplicate = client.send(delivery("msg_1", "2", "paid")).await;
    assert_eq!((duplicate.status.as_u16(), duplicate.problem()), (200, Some(ProblemKind::ResultNotKept)));
    clock.advance(31 * day);
    let late = client.send(delivery("msg_1", "3", "paid")).await;
    assert_eq!((late.status.as_u16(), late.problem()), (200, Some(ProblemKind::Expired)));
    assert_eq!(client.runs(), 1);
}
