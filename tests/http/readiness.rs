//! An inner service that takes so many requests at once: who has a place in it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// A service whose readiness differs once it was called.
#[derive(Clone)]
struct OneCall {
    then: Poll<Result<(), Refused>>,
    calls: Arc<AtomicUsize>,
    gate: Gate,
}

impl Service<Asked> for OneCall {
    type Response = Response<Full<Bytes>>;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<Self::Response, Refused>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        if self.calls.load(Ordering::SeqCst) == 0 { Poll::Ready(Ok(())) } else { self.then.clone() }
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

/// The first request is interrupted, so the duplicate that waits could have a claim.
async fn a_duplicate_finds(then: Poll<Result<(), Refused>>) {
    let home = home();
    let rerun = home.engine.policy().recovery(Recovery::Rerun);
    home.engine.set_policy_async("charges", rerun).await.unwrap();
    let gate = Gate::new();
    let inner = OneCall { then: then.clone(), calls: Arc::default(), gate: gate.clone() };
    let calls = Arc::clone(&inner.calls);
    let layer = home.layer().wait(Duration::from_secs(60));
    let service = layer.layer(inner);
    let mut duplicate = Box::pin(service.clone().ready_oneshot().await.unwrap().call(post("key", "")));
    let first = tokio::spawn(service.clone().oneshot(post("key", "")));
    gate.reached().await;
    assert!(poll_immediate(&mut duplicate).await.is_none(), "it waits");
    gate.open();
    assert_eq!(first.await.unwrap().err(), Some(Refused("lost")));
    match then {
        Poll::Ready(_) => assert_eq!(duplicate.await.err(), Some(Refused("not ready"))),
        Poll::Pending => {
            assert!(poll_immediate(&mut duplicate).await.is_none(), "there is no place");
            assert_eq!(layer.running(), 0);
            drop(duplicate);
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // Nothing was claimed again.
    let Status::Interrupted(interruption) = home.engine.scope("charges").get("key").unwrap() else {
        panic!()
    };
    assert_eq!(interruption.attempt(), 1);
    assert_eq!(home.engine.stats().fresh, 1);
}

#[tokio::test]
async fn a_request_that_the_service_refuses_after_a_wait_claims_nothing() {
    a_duplicate_finds(Poll::Ready(Err(Refused("not ready")))).await;
}

/// A claim would wait with it, and its lease run out.
#[tokio::test]
async fn a_request_that_waits_for_its_place_has_no_claim() {
    a_duplicate_finds(Poll::Pending).await;
}
