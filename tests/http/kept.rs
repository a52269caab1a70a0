//! What is stored of a response, and what passes through.

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use idemkv::http::{LayerBody, ProblemKind};
use idemkv::{Engine, Outcome, Status};

use crate::client::{Body, BoxError, Client, KEY, client, full, home, home_with, reply, serving};

/// What a stream gives.
type Piece = Result<Frame<Bytes>, BoxError>;

/// A body whose length nobody knows.
fn streamed(pieces: Vec<Piece>) -> Body {
    StreamBody::new(stream::iter(pieces)).boxed_unsync()
}

#[allow(clippy::unnecessary_wraps, reason = "as a stream gives them")]
fn data(piece: &'static str) -> Piece {
    Ok(Frame::data(Bytes::from_static(piece.as_bytes())))
}

fn streaming(layer: &idemkv::http::IdempotencyLayer, pieces: fn() -> Vec<Piece>) -> Client {
    serving(layer, move |_| async move { Ok(Response::new(streamed(pieces()))) })
}

#[tokio::test]
async fn headers_come_back_in_order_with_repeats_and_cookies_do_not() {
    let home = home();
    let layer = home.layer().never_store(HeaderName::from_static("x-request-id"));
    let client = serving(&layer, |_| async {
        let mut response = reply(201, "made");
        for (name, value) in [
            ("x-b", "1"),
            ("location", "/v1/charges/7"),
            ("x-a", "1, 2"),
            ("x-b", "a,b"),
            ("etag", "\"7\""),
            ("set-cookie", "a=b"),
            ("set-cookie", "c=d"),
            ("www-authenticate", "Basic"),
            ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("content-length", "4"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("x-request-id", "7"),
            ("vary", "accept"),
            ("idempotent-replayed", "forged"),
        ] {
            response.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Ok(response)
    });
    let list = |headers: &HeaderMap| -> Vec<(String, Vec<u8>)> {
        headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
    };
    let (first, retry) = (client.post(KEY, "").await, client.post(KEY, "").await);
    assert_eq!(first.headers.get_all("set-cookie").iter().count(), 2, "the first reply has them");
    let mut expected = list(&first.headers);
    expected.retain(|(name, _)| ["x-b", "location", "x-a", "etag", "vary"].contains(&name.as_str()));
    expected.push(("idempotent-replayed".to_owned(), b"true".to_vec()));
    assert_eq!(list(&retry.headers), expected);
    assert_eq!((retry.status.as_u16(), &retry.body[..]), (201, &b"made"[..]));
}

#[tokio::test]
async fn bytes_of_all_values_come_back() {
    let home = home();
    let body: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
    let sent = body.clone();
    let client = serving(&home.layer(), move |_| {
        let body = sent.clone();
        async move { Ok(Response::new(full(body))) }
    });
    for _ in 0..2 {
        assert_eq!(client.post(KEY, "").await.body, body);
    }
}

#[tokio::test]
async fn trailers_come_back() {
    let home = home();
    let client = serving(&home.layer(), |_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        let body = full("made").with_trailers(async move { Some(Ok::<_, BoxError>(trailers)) });
        Ok(Response::new(body.boxed_unsync()))
    });
    for _ in 0..2 {
        let answer = client.post(KEY, "").await;
        assert_eq!(
            (&answer.body[..], answer.trailers.unwrap()["x-sum"].as_bytes()),
            (&b"made"[..], &b"7"[..])
        );
    }
}

#[tokio::test]
async fn what_is_never_stored_of_headers_is_not_stored_of_trailers_either() {
    let home = home();
    let layer = home.layer().never_store(HeaderName::from_static("x-secret"));
    let client = serving(&layer, |_| async {
        let mut trailers = HeaderMap::new();
        for name in ["set-cookie", "x-secret", "x-sum"] {
            trailers.insert(name, HeaderValue::from_static("7"));
        }
        let body = full("made").with_trailers(async move { Some(Ok::<_, BoxError>(trailers)) });
        Ok(Response::new(body.boxed_unsync()))
    });
    assert_eq!(client.post(KEY, "").await.trailers.unwrap().len(), 3);
    let trailers = client.post(KEY, "").await.trailers.unwrap();
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
}

#[tokio::test]
async fn a_stream_passes_through_and_is_remembered_as_done() {
    let home = home();
    let client = streaming(&home.layer(), || vec![data("one "), data("two")]);
    assert_eq!(client.post(KEY, "").await.body, "one two");
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::ResultNotKept));
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn an_endless_stream_begins_at_once() {
    let home = home();
    let layer = home.layer();
    let service = tower::ServiceExt::oneshot(
        tower::Layer::layer(
            &layer,
            tower::service_fn(|_: http::Request<LayerBody<http_body_util::Full<Bytes>>>| async {
                let endless = stream::iter([data("event")]);
                let endless = StreamBody::new(futures_util::StreamExt::chain(endless, stream::pending()));
                Ok::<_, std::convert::Infallible>(Response::new(endless.boxed_unsync()))
            }),
        ),
        crate::client::post(KEY, ""),
    );
    let mut body = service.await.unwrap().into_body();
    let event = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(event, "event");
    layer.drain().await;
}

#[tokio::test]
async fn streams_can_be_kept_up_to_the_limit() {
    let home = home();
    let layer = home.layer().keep_streams().max_response_bytes(7);
    let client = streaming(&layer, || vec![data("one "), data(""), data("two")]);
    for is_replay in [false, true] {
        let answer = client.post("a", "").await;
        assert_eq!((&answer.body[..], answer.is_replay()), (&b"one two"[..], is_replay));
    }
    let client = streaming(&layer, || vec![data("one "), data("two "), data("three")]);
    assert_eq!(client.post("b", "").await.body, "one two three");
    assert_eq!(client.post("b", "").await.problem(), Some(ProblemKind::ResultNotKept));
}

#[tokio::test]
async fn a_body_over_the_limit_passes_through_whole() {
    let home = home();
    let client = client(&home.layer().max_response_bytes(3), 201, "made");
    assert_eq!(client.post(KEY, "").await.body, "made");
    let retry = client.post(KEY, "").await;
    assert_eq!(
        (retry.problem(), &retry.json()["result_status"]),
        (Some(ProblemKind::ResultNotKept), &201.into())
    );
}

#[tokio::test]
async fn a_body_over_the_engines_limit_passes_through_whole_too() {
    let home = home_with(Engine::options().max_body_bytes(64));
    let client = client(&home.layer(), 201, "a body of sixty bytes, which with its head is over the limit");
    assert_eq!(client.post(KEY, "").await.body.len(), 60);
    let retry = client.post(KEY, "").await;
    assert_eq!(
        (retry.problem(), &retry.json()["result_status"]),
        (Some(ProblemKind::ResultNotKept), &201.into())
    );
    let tiny = home_with(Engine::options().max_body_bytes(0));
    let client = crate::client::client(&tiny.layer(), 201, "made");
    assert_eq!(client.post(KEY, "").await.body, "made");
    let retry = client.post(KEY, "").await;
    assert_eq!(
        (retry.problem(), retry.json().get("result_status")),
        (Some(ProblemKind::ResultNotKept), None)
    );
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_handed_on_as_it_came_and_remembered_as_done() {
    let home = home();
    let client = streaming(&home.layer().keep_streams(), || vec![data("half"), Err("broken".into())]);
    let first = client.post(KEY, "").await;
    assert!(first.is_broken);
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::ResultNotKept));
}

#[tokio::test]
async fn a_record_says_whether_the_status_was_a_success() {
    let home = home();
    for (status, outcome) in
        [(201, Outcome::Success), (302, Outcome::Success), (402, Outcome::Failure), (500, Outcome::Failure)]
    {
        let key = status.to_string();
        client(&home.layer(), status, "result").post(&key, "").await;
        let Status::Done(record) = home.engine.scope("charges").get(&key).unwrap() else { panic!() };
        assert_eq!(record.outcome(), outcome);
    }
}

#[tokio::test]
async fn a_record_that_is_no_response_is_told_and_changed_by_nobody() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    client.post(KEY, "").await;
    let Status::Done(stored) = home.engine.scope("charges").get(KEY).unwrap() else { panic!() };
    let scope = home.engine.scope("charges");
    scope.forget(KEY).unwrap();
    let idemkv::Begin::Fresh(claim) = scope.begin(KEY, *stored.fingerprint()).unwrap() else { panic!() };
    claim.complete("what another program stored").unwrap();
    let answer = client.post(KEY, "").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (500, Some(ProblemKind::RecordUnreadable)));
    assert!(answer.forbids_retries());
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn marks_of_replays_are_options() {
    let home = home();
    let [marker, key, started] = ["x-replayed", "x-key", "x-started"].map(HeaderName::from_static);
    let layer = home
        .layer()
        .replay_header(marker, HeaderValue::from_static("yes"))
        .first_reply_value(HeaderValue::from_static("no"))
        .echo_key(key)
        .started_header(started);
    let client = client(&layer, 201, "made");
    let (first, retry) = (client.post(KEY, "").await, client.post(KEY, "").await);
    assert_eq!((first.header("x-replayed"), retry.header("x-replayed")), (Some("no"), Some("yes")));
    assert_eq!((first.header("x-key"), retry.header("x-key")), (Some(KEY), Some(KEY)));
    assert!(first.header("x-started").unwrap().parse::<u64>().unwrap() > 1_700_000_000_000);
    assert_eq!(first.header("x-started"), retry.header("x-started"));
    let bare = crate::client::client(&home.layer().no_replay_header(), 201, "made");
    assert!(bare.post(KEY, "").await.headers.is_empty());
}
