//! Hostile keys, headers and bodies: each gets an answer, and none gets at another's.

use std::collections::HashSet;
use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::Full;
use idemkv::http::{LayerBody, Problem, ProblemKind};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};

use crate::client::{KEY, client, home, post, request};

#[tokio::test]
async fn repeated_headers_are_refused_whatever_they_say() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    for second in [KEY, "", "other"] {
        let mut asked = post(KEY, "");
        asked.headers_mut().append("idempotency-key", HeaderValue::from_str(second).unwrap());
        assert_eq!(client.send(asked).await.problem(), Some(ProblemKind::KeyMalformed), "{second}");
    }
    assert_eq!(client.runs(), 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_it_says_so_or_not() {
    let home = home();
    let client = client(&home.layer().max_request_bytes(10), 201, "made");
    assert_eq!(client.post("a", &"x".repeat(10)).await.status, 201);
    let answer = client.post("b", &"x".repeat(11)).await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (413, Some(ProblemKind::BodyTooLarge)));
    assert_eq!(client.post("b", "short").await.status, 201, "nothing was claimed");
}

/// A body that comes byte by byte without an end, and says nothing of its length.
struct Endless(usize);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        assert!(self.0 < 2_000, "it is read on and on");
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

/// A body that ends early.
pub struct Broken;

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(Some(Err(std::io::ErrorKind::UnexpectedEof.into())))
    }
}

#[tokio::test]
async fn a_body_without_an_end_and_one_that_breaks_off_are_refused() {
    let home = home();
    let layer = home.layer().max_request_bytes(1_000);
    let kind = |response: http::Response<LayerBody<Full<Bytes>>>| {
        response.extensions().get::<Problem>().map(Problem::kind)
    };
    let service = layer.layer(service_fn(|_: Request<LayerBody<Endless>>| async {
        Ok::<_, Infallible>(http::Response::new(Full::from("made")))
    }));
    let asked = Request::post("/").header("idempotency-key", KEY).body(Endless(0)).unwrap();
    assert_eq!(kind(service.oneshot(asked).await.unwrap()), Some(ProblemKind::BodyTooLarge));
    let service = layer.layer(service_fn(|_: Request<LayerBody<Broken>>| async {
        Ok::<_, Infallible>(http::Response::new(Full::from("made")))
    }));
    let asked = Request::post("/").header("idempotency-key", KEY).body(Broken).unwrap();
    assert_eq!(kind(service.oneshot(asked).await.unwrap()), Some(ProblemKind::BodyUnreadable));
    let limited =
        layer.layer(service_fn(|_: Request<LayerBody<http_body_util::Limited<Full<Bytes>>>>| async {
            Ok::<_, Infallible>(http::Response::new(Full::from("made")))
        }));
    let body = http_body_util::Limited::new(Full::from("too long"), 3);
    assert!(body.size_hint().lower() <= 1_000);
    let asked = Request::post("/").header("idempotency-key", KEY).body(body).unwrap();
    let answer = limited.oneshot(asked).await.unwrap();
    assert_eq!(answer.status(), 413, "the limit of a layer around this one");
}

#[tokio::test]
async fn what_is_in_an_answer_is_never_what_the_client_sent() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    for key in ["<script>alert(1)</script>", "\"</title><script>\"", "{\"a\":1}", "%0d%0aSet-Cookie: a=b"] {
        let answer = client.post(key, "<body>").await;
        let body = String::from_utf8_lossy(&answer.body);
        assert!(!body.contains("script") && !body.contains("<body>"), "{body}");
        assert!(!answer.headers.contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn ten_thousand_header_values_come_back() {
    let home = home();
    let client = crate::client::serving(&home.layer(), |_| async {
        let mut response = crate::client::reply(200, "made");
        for number in 0..10_000_u32 {
            response.headers_mut().append("x-many", HeaderValue::from(number));
        }
        Ok(response)
    });
    client.post(KEY, "").await;
    let retry = client.post(KEY, "").await;
    let numbers: Vec<u32> = retry
        .headers
        .get_all("x-many")
        .iter()
        .map(|value| value.to_str().unwrap().parse().unwrap())
        .collect();
    assert!(retry.is_replay() && numbers == (0..10_000).collect::<Vec<_>>());
}

/// A map of headers takes no more than so many names.
#[tokio::test]
async fn a_response_that_is_full_of_headers_comes_back_without_a_panic() {
    let home = home();
    let layer = home.layer().max_response_bytes(4 << 20).echo_key(HeaderName::from_static("x-key"));
    let client = crate::client::serving(&layer, |_| async {
        let mut response = crate::client::reply(503, "made");
        for number in 0.. {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            if response.headers_mut().try_insert(name, HeaderValue::from(number)).is_err() {
                break;
            }
        }
        Ok(response)
    });
    let (first, retry) = (client.post(KEY, "").await, client.post(KEY, "").await);
    assert_eq!((first.status.as_u16(), retry.status.as_u16()), (503, 503));
    assert!(first.headers.len() > 20_000 && first.headers == retry.headers);
    assert_eq!(client.runs(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes come as a key, the answer is the handler's or a 400. Two keys are one only
    /// where they say the same.
    #[test]
    fn any_bytes_as_keys_get_a_response_or_a_400(keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let home = home();
            let client = client(&home.layer(), 201, "made");
            let mut seen = HashSet::new();
            for key in keys {
                let Ok(value) = HeaderValue::from_bytes(&key) else { continue };
                let mut asked = request("POST", "/", &[], "");
                asked.headers_mut().insert("idempotency-key", value);
                let answer = client.send(asked).await;
                if answer.status == 201 {
                    let text = String::from_utf8(key).unwrap().trim().to_owned();
                    let is_new = seen.insert(text.clone());
                    prop_assert!(is_new != answer.is_replay() || text.starts_with('"'), "{text}");
                } else {
                    prop_assert_eq!(answer.problem(), Some(ProblemKind::KeyMalformed));
                }
            }
            Ok(())
        })?;
    }
}
