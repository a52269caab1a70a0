//! Faults that other implementations had, each by the name under which it was reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt, StreamBody};
use idemkv::http::{IdempotencyLayer, ProblemKind};

use crate::client::{KEY, client, home, post, reply, request, serving};

/// gofiber/fiber#4693
#[tokio::test]
async fn header_values_are_not_split_at_commas() {
    let home = home();
    let client = serving(&home.layer(), |_| async {
        let mut response = reply(200, "");
        let date = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
        response.headers_mut().append("last-modified", date);
        response.headers_mut().append("link", HeaderValue::from_static("<a>, <b>"));
        response.headers_mut().append("link", HeaderValue::from_static("<c>"));
        Ok(response)
    });
    client.post(KEY, "").await;
    let retry = client.post(KEY, "").await;
    assert_eq!(retry.headers["last-modified"], "Thu, 01 Jan 1970 00:00:00 GMT");
    let links: Vec<_> = retry.headers.get_all("link").iter().collect();
    assert_eq!(links, ["<a>, <b>", "<c>"]);
}

/// actor-ts#1308
#[tokio::test]
async fn a_streamed_body_is_not_replayed_empty() {
    let home = home();
    let client = serving(&home.layer(), |_| async {
        let piece = Ok(http_body::Frame::data(bytes::Bytes::from_static(b"streamed")));
        Ok(Response::new(StreamBody::new(futures_util::stream::iter([piece])).boxed_unsync()))
    });
    assert_eq!(client.post(KEY, "").await.body, "streamed");
    let retry = client.post(KEY, "").await;
    assert_eq!((retry.status.as_u16(), retry.problem()), (409, Some(ProblemKind::ResultNotKept)));
}

/// fullstackhero/docs#240
#[tokio::test]
async fn location_and_201_come_back() {
    let home = home();
    let client = serving(&home.layer(), |_| async {
        let mut response = reply(201, "made");
        response.headers_mut().insert("location", HeaderValue::from_static("/v1/charges/7"));
        Ok(response)
    });
    client.post(KEY, "").await;
    let retry = client.post(KEY, "").await;
    assert_eq!((retry.status.as_u16(), retry.header("location")), (201, Some("/v1/charges/7")));
}

/// theam/facility#196, RamaAditya49/titen#37
#[tokio::test]
async fn another_query_string_or_resource_is_another_request() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    let to = |uri: &str| request("POST", uri, &[("idempotency-key", KEY)], "");
    client.send(to("/v1/charges/7/refund?amount=1")).await;
    for uri in ["/v1/charges/7/refund?amount=2", "/v1/charges/7/refund", "/v1/charges/8/refund?amount=1"] {
        assert_eq!(client.send(to(uri)).await.problem(), Some(ProblemKind::KeyReused), "{uri}");
    }
    assert!(client.send(to("/v1/charges/7/refund?amount=1")).await.is_replay());
}

/// granit-dotnet#1151
#[tokio::test]
async fn cookies_and_challenges_are_not_replayed() {
    let home = home();
    let client = serving(&home.layer(), |_| async {
        let mut response = reply(401, "");
        for name in ["set-cookie", "www-authenticate"] {
            response.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static("secret"));
        }
        Ok(response)
    });
    assert_eq!(client.post(KEY, "").await.header("set-cookie"), Some("secret"));
    let retry = client.post(KEY, "").await;
    assert!(
        retry.is_replay()
            && retry.header("set-cookie").is_none()
            && retry.header("www-authenticate").is_none()
    );
}

/// arun0009/idempotent#217
#[tokio::test]
async fn one_user_does_not_get_anothers_reply() {
    let home = home();
    let layer = home.layer().tenant(|parts| Some(parts.headers.get("user")?.to_str().ok()?.to_owned()));
    let client = serving(&layer, |request| async move {
        let user = request.headers()["user"].to_str().unwrap().to_owned();
        Ok(reply(200, "").map(|_| crate::client::full(user)))
    });
    for user in ["1", "2", "1", "2"] {
        let asked = request("POST", "/", &[("idempotency-key", KEY), ("user", user)], "");
        assert_eq!(client.send(asked).await.body, user.to_owned());
    }
    assert_eq!(client.runs(), 2);
}

/// idempot-js#186, grape-idempotency#10
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_duplicates_one_runs_and_a_lost_race_is_a_conflict() {
    let home = home();
    let effects = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&effects);
    let client = serving(&home.layer(), move |_| {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(reply(201, "made"))
        }
    });
    for round in 0..50 {
        let twins: Vec<_> = (0..8).map(|_| tokio::spawn(client.ask(post(&round.to_string(), "")))).collect();
        for twin in twins {
            let answer = twin.await.unwrap().unwrap();
            let is_conflict = answer.status == 409 && answer.problem() == Some(ProblemKind::InFlight);
            assert!(answer.status == 201 || is_conflict, "{answer:?}");
        }
        assert_eq!(effects.load(Ordering::SeqCst), round + 1);
    }
}

/// trinity#1422
#[tokio::test]
async fn two_requests_with_one_body_and_two_keys_both_run() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    for key in ["a", "b"] {
        assert!(!client.post(key, "amount=10").await.is_replay());
    }
    assert_eq!(client.runs(), 2);
}

/// Truxify#9428
#[tokio::test]
async fn a_malformed_key_is_a_400() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    for key in ["\"", "a b", "", "{}"] {
        assert_eq!(client.post(key, "").await.status, 400);
    }
}

/// hono-idempotency#60: a fault of what the owner gave is not swallowed. A function that panics is
/// the connection's to tell of, and nothing was claimed.
#[tokio::test]
async fn a_panic_of_a_function_that_was_given_is_not_swallowed() {
    let home = home();
    let layer = home.layer().tenant(|_| std::panic::resume_unwind(Box::new("a planned panic")));
    let client = client(&layer, 201, "made");
    assert!(tokio::spawn(client.ask(post(KEY, ""))).await.unwrap_err().is_panic());
    assert_eq!((client.runs(), home.engine.stats().begins()), (0, 0));
}

/// grape-idempotency#20
#[tokio::test]
async fn nothing_runs_while_the_store_is_down() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    home.engine.clone().close().unwrap();
    assert_eq!(client.post(KEY, "").await.status, 503);
    assert_eq!(client.runs(), 0);
}

/// http-cache#121
#[tokio::test]
async fn extensions_of_requests_and_responses_survive() {
    #[derive(Clone, PartialEq, Debug)]
    struct Mark(u8);
    let home = home();
    let client = serving(&home.layer(), |request| async move {
        let mut response = reply(200, "");
        response.extensions_mut().insert(request.extensions().get::<Mark>().unwrap().clone());
        Ok(response)
    });
    let mut asked = post(KEY, "");
    asked.extensions_mut().insert(Mark(7));
    assert_eq!(client.send(asked).await.extensions.get::<Mark>(), Some(&Mark(7)));
}

/// tower-http#713, tower-sessions#108: the layer is `Clone`, and its error is the inner service's.
#[test]
fn the_layer_and_its_service_are_what_frameworks_ask_for() {
    fn is_given<T: Clone + Send + Sync + 'static>() {}
    fn is_sent<T: Send>() {}
    is_given::<IdempotencyLayer>();
    is_given::<idemkv::http::Idempotency<tower::util::BoxCloneSyncService<(), (), ()>>>();
    is_sent::<idemkv::http::ResponseFuture<crate::client::Body, crate::client::Refused>>();
    is_sent::<idemkv::http::HeldClaim>();
}
