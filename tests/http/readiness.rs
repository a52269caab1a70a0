//! An inner service that takes so many requests at once: who has a place in it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, poll_immediate};
use http::{Request, Response};
use http_body_util::Full;
use idemkv::http::LayerBody;
use idemkv::{Recovery, Status};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::client::{Gate, Refused, home, post};

type Asked = Request<LayerBody<Full<Bytes>>>;

/// With two places, a duplicate that waits would have the second one.
#[tokio::test]
async fn a_duplicate_that_waits_keeps_no_other_request_from_the_service() {
    let home = home();
    let gate = Gate::new();
    let handlers = gate.clone();
    let inner = service_fn(move |request: Asked| {
        let gate = handlers.clone();
        async move {
            if request.uri().path() == "/slow" {
                gate.pass().await;
            }
            Ok::<_, Infallible>(Response::new(Full::from("made")))
        }
    });
    let limited = ConcurrencyLimitLayer::new(2).layer(inner);
    let service = home.layer().wait(Duration::from_secs(60)).layer(limited);
    let at = |key: &str, path: &'static str| {
        let mut request = post(key, "");
        *request.uri_mut() = path.parse().unwrap();
        service.clone().oneshot(request)
    };
    let first = tokio::spawn(at("slow", "/slow"));
    gate.reached().await;
    let mut duplicate = Box::pin(at("slow", "/slow"));
    assert!(poll_immediate(&mut duplicate).await.is_none(), "it waits");
    // It would not return.
    at("other", "/fast").await.unwrap();
    gate.open();
    first.await.unwrap().unwrap();
    duplicate.await.unwrap();
}

/// A service that is ready for one request, and then fails where it is asked for more.
#[derive(Clone)]
struct ReadyOnce {
    was_ready: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    gate: Gate,
}

impl Service<Asked> for ReadyOnce {
    type Response = Response<Full<Bytes>>;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<Self::Response, Refused>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        let failed = self.calls.load(Ordering::SeqCst) > 0 && self.was_ready.swap(true, Ordering::SeqCst);
        Poll::Ready(if failed { Err(Refused("not ready")) } else { Ok(()) })
    }

    fn call(&mut self, _: Asked) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.clone();
        Box::pin(async move {
            gate.pass().await;
            Err(Refused("lost"))
        })
    }
}

/// The first request is interrupted, so the duplicate that waits gets a claim, and finds the
/// service not ready.
#[tokio::test]
async fn a_request_that_the_service_is_not_ready_for_was_not_started() {
    let home = home();
    let rerun = home.engine.policy().recovery(Recovery::Rerun);
    home.engine.set_policy_async("charges", rerun).await.unwrap();
    let gate = Gate::new();
    let inner = ReadyOnce { was_ready: Arc::default(), calls: Arc::default(), gate: gate.clone() };
    let calls = Arc::clone(&inner.calls);
    let service = home.layer().wait(Duration::from_secs(60)).layer(inner);
    let first = tokio::spawn(service.clone().oneshot(post("key", "")));
    gate.reached().await;
    let mut duplicate = Box::pin(service.clone().oneshot(post("key", "")));
    assert!(poll_immediate(&mut duplicate).await.is_none(), "it waits");
    gate.open();
    assert_eq!(first.await.unwrap().err(), Some(Refused("lost")));
    assert_eq!(duplicate.await.err(), Some(Refused("not ready")));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // The release leaves what was known of the first attempt.
    let Status::Interrupted(interruption) = home.engine.scope("charges").get("key").unwrap() else {
        panic!()
    };
    assert_eq!(interruption.attempt(), 1);
}
