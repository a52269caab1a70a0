//! What needs axum: scopes by matched path, extractors, parts of responses.

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use idemkv::http::{HeldClaim, IdempotencyLayer, Keep, Problem, ProblemKind, Replayed};
use tower::ServiceExt;

use crate::client::{KEY, home};

fn asked(uri: &str, body: &str) -> Request {
    let request = axum::http::Request::post(uri).header("idempotency-key", KEY);
    request.header("content-type", "application/json").body(Body::from(body.to_owned())).unwrap()
}

async fn ask(router: &Router, uri: &str, body: &str) -> Response {
    router.clone().oneshot(asked(uri, body)).await.unwrap()
}

fn problem(response: &Response) -> Option<ProblemKind> {
    response.extensions().get::<Problem>().map(Problem::kind)
}

fn is_replay(response: &Response) -> bool {
    response.extensions().get::<Replayed>().is_some()
}

async fn text(response: Response) -> String {
    String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}

async fn refund(Path(id): Path<u32>, claim: HeldClaim, Json(amount): Json<u32>) -> (StatusCode, String) {
    (StatusCode::CREATED, format!("{id} {amount} {}", String::from_utf8_lossy(claim.scope())))
}

#[tokio::test]
async fn each_route_has_a_scope_by_its_template_and_extractors_find_what_they_need() {
    let home = home();
    let router = Router::new()
        .route("/v1/charges/{id}/refund", post(refund))
        .route("/v1/orders/{id}/refund", post(refund))
        .layer(IdempotencyLayer::matched_path(&home.engine));
    for (uri, scope) in [
        ("/v1/charges/7/refund", "POST /v1/charges/{id}/refund"),
        ("/v1/orders/7/refund", "POST /v1/orders/{id}/refund"),
    ] {
        let first = ask(&router, uri, "10").await;
        assert_eq!((first.status(), is_replay(&first)), (StatusCode::CREATED, false));
        assert_eq!(text(first).await, format!("7 10 {scope}"));
        assert!(is_replay(&ask(&router, uri, "10").await));
    }
    let other = ask(&router, "/v1/charges/8/refund", "10").await;
    assert_eq!(problem(&other), Some(ProblemKind::KeyReused), "another resource under one template");
}

#[tokio::test]
async fn around_a_nested_service_the_template_is_not_known_and_nothing_is_guessed() {
    let home = home();
    let layer = IdempotencyLayer::matched_path(&home.engine);
    let inner = || Router::new().route("/charges/{id}/refund", post(refund));
    let scope = "POST /v1/charges/{id}/refund";
    let around = Router::new().nest("/v1", inner()).layer(layer.clone());
    assert_eq!(text(ask(&around, "/v1/charges/7/refund", "10").await).await, format!("7 10 {scope}"));
    let service = Router::new().nest_service("/v1", inner()).layer(layer.clone());
    let answer = ask(&service, "/v1/charges/8/refund", "10").await;
    let expected = (StatusCode::INTERNAL_SERVER_ERROR, Some(ProblemKind::Misconfigured));
    assert_eq!((answer.status(), problem(&answer)), expected);
    let within = Router::new().nest_service("/v2", inner().layer(layer.clone()));
    let answer = ask(&within, "/v2/charges/7/refund", "10").await;
    assert_eq!(text(answer).await, "7 10 POST /v2/charges/{id}/refund");
    let named = Router::new().nest("/v1", inner()).layer(layer.scope("refunds"));
    assert_eq!(text(ask(&named, "/v1/charges/7/refund", "10").await).await, "7 10 refunds");
}

#[tokio::test]
async fn a_claim_is_optional_where_keys_are() {
    let home = home();
    let attempt =
        |claim: Option<HeldClaim>| async move { format!("{:?}", claim.map(|claim| claim.attempt())) };
    let layer = IdempotencyLayer::new(&home.engine, "charges").optional();
    let router = Router::new().route("/", post(attempt).layer(layer));
    assert_eq!(text(ask(&router, "/", "").await).await, "Some(1)");
    let without = axum::http::Request::post("/").body(Body::empty()).unwrap();
    assert_eq!(text(router.clone().oneshot(without).await.unwrap()).await, "None");
    let bare = Router::new().route("/", post(|claim: HeldClaim| async move { claim.attempt().to_string() }));
    assert_eq!(ask(&bare, "/", "").await.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn what_a_response_says_is_a_part_of_it() {
    let home = home();
    let layer = IdempotencyLayer::new(&home.engine, "charges");
    let handler = || async {
        (StatusCode::SERVICE_UNAVAILABLE, Keep::not_started(), "the bank can't be reached").into_response()
    };
    let router = Router::new().route("/", post(handler).layer(layer));
    for _ in 0..2 {
        assert!(!is_replay(&ask(&router, "/", "").await));
    }
}
