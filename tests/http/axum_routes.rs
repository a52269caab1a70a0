//! What needs axum: scopes by matched path, extractors, parts of responses.

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use idemkv::http::{HeldClaim, IdempotencyLayer, Keep, Problem, ProblemKind, Replayed, RequestFingerprint};
use tower::ServiceExt;

use crate::client::{Home, KEY, home};

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

/// The layer inside of what takes the prefix off, on a route and on a router.
fn nested(home: &Home, nest: fn(Router, Router) -> Router) -> Vec<Router> {
    let layers =
        [IdempotencyLayer::new(&home.engine, "POST charges"), IdempotencyLayer::matched_path(&home.engine)];
    let around = |layer: IdempotencyLayer| {
        let route = Router::new().route("/charges", post(charge).layer(layer.clone()));
        [route, Router::new().route("/charges", post(charge)).route_layer(layer)]
    };
    layers.into_iter().flat_map(around).map(|inner| nest(Router::new(), inner)).collect()
}

/// What is charged is in the path, and none of it in the route.
async fn charge(Path(account): Path<u32>, uri: axum::http::Uri, claim: HeldClaim) -> String {
    assert_eq!(uri.path(), "/charges", "the handler gets what the router left");
    format!("{account} {}", claim.attempt())
}

#[tokio::test]
async fn two_resources_whose_paths_differ_in_a_nested_prefix_are_two_requests() {
    let nests: [fn(Router, Router) -> Router; 3] = [
        |outer, inner| outer.nest("/accounts/{account}", inner),
        |outer, inner| outer.nest_service("/accounts/{account}", inner),
        |outer, inner| outer.nest("/accounts", Router::new().nest("/{account}", inner)),
    ];
    for (at, nest) in nests.into_iter().enumerate() {
        for which in 0..4 {
            let home = home();
            let router = nested(&home, nest)[which].clone();
            let first = ask(&router, "/accounts/7/charges", "10").await;
            assert_eq!((first.status(), text(first).await), (StatusCode::OK, "7 1".to_owned()));
            let other = ask(&router, "/accounts/8/charges", "10").await;
            assert_eq!(problem(&other), Some(ProblemKind::KeyReused), "nest {at}, layer {which}");
            assert!(is_replay(&ask(&router, "/accounts/7/charges", "10").await));
        }
    }
}

#[tokio::test]
async fn two_versions_that_share_a_nested_route_and_its_scope_are_two_requests() {
    let home = home();
    let count = || async { "charged" };
    let inner =
        || Router::new().route("/charges", post(count).layer(IdempotencyLayer::new(&home.engine, "charges")));
    let router = Router::new().nest("/v1", inner()).nest("/v2", inner());
    assert_eq!(text(ask(&router, "/v1/charges", "10").await).await, "charged");
    assert_eq!(problem(&ask(&router, "/v2/charges", "10").await), Some(ProblemKind::KeyReused));
}

/// How its routers are nested says nothing of a request. So a service that nests them otherwise
/// replays what it has stored before.
#[tokio::test]
async fn a_retry_is_the_same_request_however_the_routers_are_nested_by_then() {
    let plain = |home: &Home| {
        let layer = IdempotencyLayer::new(&home.engine, "charges");
        post(|| async { "charged" }).layer(layer)
    };
    for uri in ["/accounts/7/charges?a=b", "/charges?a=b"] {
        for is_nested_first in [true, false] {
            let home = home();
            let flat = Router::new()
                .route("/accounts/{account}/charges", plain(&home))
                .route("/charges", plain(&home));
            let nested = Router::new()
                .nest("/accounts/{account}", Router::new().route("/charges", plain(&home)))
                .nest("/charges", Router::new().route("/", plain(&home)));
            let (before, after) = if is_nested_first { (nested, flat) } else { (flat, nested) };
            let first = ask(&before, uri, "10").await;
            assert_eq!((first.status(), is_replay(&first)), (StatusCode::OK, false));
            let retry = ask(&after, uri, "10").await;
            let seen = (problem(&retry), is_replay(&retry));
            assert_eq!(seen, (None, true), "{uri}, nested first: {is_nested_first}");
        }
    }
}

/// All functions that a layer is given see the URI that the client sent; the handler gets what the
/// router left of it, also without a key.
#[tokio::test]
async fn what_a_layer_is_told_to_look_at_is_what_the_client_sent() {
    const SENT: &str = "/accounts/7/charges?a=b";
    let home = home();
    let seen = |parts: &axum::http::request::Parts| assert_eq!(parts.uri, SENT);
    let layer = IdempotencyLayer::scope_by(&home.engine, move |parts| {
        seen(parts);
        Some("charges".to_owned())
    })
    .tenant(move |parts| {
        seen(parts);
        Some("tenant".to_owned())
    })
    .verify(move |parts, _| {
        seen(parts);
        true
    })
    .key_from(move |parts, body| {
        seen(parts);
        (!body.is_empty()).then(|| KEY.to_owned())
    })
    .fingerprint(RequestFingerprint::custom(move |parts, body| {
        seen(parts);
        idemkv::Fingerprint::of(body)
    }))
    .optional();
    let left =
        |uri: axum::http::Uri, claim: Option<HeldClaim>| async move { format!("{uri} {}", claim.is_some()) };
    let router =
        Router::new().nest("/accounts/{account}", Router::new().route("/charges", post(left).layer(layer)));
    assert_eq!(text(ask(&router, SENT, "10").await).await, "/charges?a=b true");
    assert_eq!(text(ask(&router, SENT, "").await).await, "/charges?a=b false");
}

/// What a middleware behind the router makes of a request is a part of what it asks for, also where
/// a function of the service's own makes the fingerprint: that sees the client's URI alone.
#[tokio::test]
async fn a_uri_that_a_middleware_has_written_counts_beside_the_one_that_the_client_sent() {
    let of_path = RequestFingerprint::custom(|parts, body| {
        idemkv::Fingerprint::builder().field("path", parts.uri.path()).field("body", body).finish()
    });
    for fingerprint in [RequestFingerprint::new(), of_path] {
        a_written_uri_counts_in(fingerprint).await;
    }
}

async fn a_written_uri_counts_in(fingerprint: RequestFingerprint) {
    let home = home();
    let rewrite = axum::middleware::map_request(|mut request: Request| async move {
        if let Some(uri) = request.headers().get("x-uri") {
            *request.uri_mut() = uri.to_str().unwrap().parse().unwrap();
        }
        request
    });
    let shown = format!("{fingerprint:?}");
    let layer = IdempotencyLayer::new(&home.engine, "charges").fingerprint(fingerprint);
    let inner = Router::new().route("/charges", post(|| async { "charged" }).layer(layer).layer(rewrite));
    let router = Router::new().nest("/accounts/{account}", inner);
    let ask = |account: u32, uri: Option<&'static str>| {
        let mut request = asked(&format!("/accounts/{account}/charges"), "10");
        if let Some(uri) = uri {
            request.headers_mut().insert("x-uri", uri.parse().unwrap());
        }
        router.clone().oneshot(request)
    };
    ask(7, Some("/a?b")).await.unwrap();
    assert!(is_replay(&ask(7, Some("/a?b")).await.unwrap()));
    for (account, uri) in
        [(8, Some("/a?b")), (7, Some("/b?b")), (7, Some("/a?c")), (7, Some("/a")), (7, None)]
    {
        let other = ask(account, uri).await.unwrap();
        assert_eq!(problem(&other), Some(ProblemKind::KeyReused), "{account} {uri:?}, {shown}");
    }
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
