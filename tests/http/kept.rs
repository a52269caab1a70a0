//! What is stored of a response, and what passes through.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use idemkv::http::{IdempotencyLayer, Keep, LayerBody, ProblemKind};
use idemkv::{Engine, Outcome, Status};

use crate::client::{
    Body, BoxError, Client, Gate, Home, KEY, client, full, home, home_with, post, reply, serving,
};

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

/// An upper bound is no length: a limit gives one to every stream.
#[tokio::test]
async fn an_endless_stream_with_a_limit_begins_at_once_too() {
    let home = home();
    let layer = home.layer();
    let gate = Gate::new();
    let handlers = gate.clone();
    let client = serving(&layer, move |_| {
        let gate = handlers.clone();
        let then = stream::once(async move {
            gate.pass().await;
            data(" event")
        });
        let stream = StreamBody::new(futures_util::StreamExt::chain(stream::iter([data("event")]), then));
        async move { Ok(Response::new(http_body_util::Limited::new(stream, 100).boxed_unsync())) }
    });
    let answer = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    layer.drain().await;
    gate.open();
    assert_eq!(answer.await.unwrap().unwrap().body, "event event");
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

/// A body of eight bytes, of which the second half does not come before the gate opens.
struct Stalled {
    gate: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Bytes that are still to come.
    left: usize,
}

impl http_body::Body for Stalled {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.left == 4 && self.gate.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.left -= 4;
        Poll::Ready(Some(data("half")))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left as u64)
    }
}

/// A handler that has answered, and whose body stalls until the gate opens.
fn stalling(layer: &IdempotencyLayer, gate: &Gate) -> Client {
    let gate = gate.clone();
    serving(layer, move |_| {
        let gate = gate.clone();
        let body = Stalled { gate: Box::pin(async move { gate.pass().await }), left: 8 };
        async move { Ok(Response::builder().status(201).body(body.boxed_unsync()).unwrap()) }
    })
}

/// The first half is sent, and the rest as it comes.
async fn a_stalled_body_passes_through(home: &Home, layer: IdempotencyLayer) {
    let gate = Gate::new();
    let client = stalling(&layer, &gate);
    let first = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    layer.drain().await;
    let retry = client.post(KEY, "").await;
    assert_eq!(
        (retry.problem(), &retry.json()["result_status"]),
        (Some(ProblemKind::ResultNotKept), &201.into())
    );
    assert!(matches!(home.engine.scope("charges").get(KEY).unwrap(), Status::Done(_)));
    gate.open();
    let first = first.await.unwrap().unwrap();
    assert_eq!((first.status.as_u16(), &first.body[..], first.is_broken), (201, &b"halfhalf"[..], false));
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn a_body_that_stalls_keeps_neither_its_key_nor_a_drain_waiting() {
    let home = home();
    let layer = home.layer().wait_for_body(Duration::from_millis(10));
    a_stalled_body_passes_through(&home, layer).await;
}

#[tokio::test]
async fn a_body_that_stalls_passes_through_before_its_claims_lease_ends() {
    let home = home();
    home.engine.set_policy("charges", home.engine.policy().lease(Duration::from_secs(3))).unwrap();
    a_stalled_body_passes_through(&home, home.layer()).await;
}

#[tokio::test]
async fn a_body_that_stalls_and_then_ends_in_time_is_stored() {
    let home = home();
    let gate = Gate::new();
    let client = stalling(&home.layer(), &gate);
    let first = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::InFlight));
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().body, "halfhalf");
    let retry = client.post(KEY, "").await;
    assert!(retry.is_replay() && retry.body == "halfhalf");
}

/// Nothing comes after trailers, though the body has not ended.
#[tokio::test]
async fn a_body_that_stalls_behind_its_trailers_is_whole() {
    let home = home();
    let layer = home.layer().keep_streams().wait_for_body(Duration::ZERO);
    let client = serving(&layer, |_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        let pieces = stream::iter([data("made"), Ok(Frame::trailers(trailers))]);
        let pieces = futures_util::StreamExt::chain(pieces, stream::pending());
        Ok(Response::new(StreamBody::new(pieces).boxed_unsync()))
    });
    for is_replay in [false, true] {
        let answer = client.post(KEY, "").await;
        assert_eq!((&answer.body[..], answer.is_replay()), (&b"made"[..], is_replay));
        assert_eq!(answer.trailers.unwrap()["x-sum"], "7");
    }
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
    // Of what is not stored too: these are the responses that clients retry.
    for keep in [Keep::not_started(), Keep::unknown()] {
        let client = serving(&layer, move |_| async move {
            let mut response = reply(503, "later");
            response.extensions_mut().insert(keep);
            Ok(response)
        });
        let answer = client.post("other", "").await;
        assert_eq!((answer.header("x-replayed"), answer.header("x-key")), (Some("no"), Some("other")));
        assert!(answer.header("x-started").is_some() && !answer.forbids_retries());
    }
    let bare = crate::client::client(&home.layer().no_replay_header(), 201, "made");
    assert!(bare.post(KEY, "").await.headers.is_empty());
}
