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
use idemkv::http::{LayerBody, Replayed};
use idemkv::{Begin, Fingerprint, Recovery, Status, Waited};
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

/// A service that takes one call, and another one once it has a place again.
#[derive(Clone)]
struct InLine {
    places: Arc<AtomicUsize>,
    gate: Gate,
}

impl Service<Asked> for InLine {
    type Response = Response<Full<Bytes>>;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<Self::Response, Refused>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        // Its caller polls it by hand.
        if self.places.load(Ordering::SeqCst) == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, _: Asked) -> Self::Future {
        self.places.store(0, Ordering::SeqCst);
        let gate = self.gate.clone();
        Box::pin(async move {
            gate.pass().await;
            Err(Refused("lost"))
        })
    }
}

/// The first request is interrupted, and the duplicate stands in line for longer than its budget.
/// The claim that it finds then is waited for with what is left of that.
#[tokio::test]
async fn the_time_in_line_is_no_part_of_the_budget_of_a_wait() {
    const BUDGET: Duration = Duration::from_secs(2);
    let home = home();
    let rerun = home.engine.policy().recovery(Recovery::Rerun);
    let scope = home.engine.set_policy_async("charges", rerun).await.unwrap();
    let gate = Gate::new();
    let inner = InLine { places: Arc::new(AtomicUsize::new(1)), gate: gate.clone() };
    let places = Arc::clone(&inner.places);
    let layer = home.layer().wait(BUDGET);
    let service = layer.layer(inner);
    let mut duplicate = Box::pin(service.clone().ready_oneshot().await.unwrap().call(post("key", "")));
    let first = tokio::spawn(service.clone().oneshot(post("key", "")));
    gate.reached().await;
    assert!(poll_immediate(&mut duplicate).await.is_none(), "it waits");
    gate.open();
    assert_eq!(first.await.unwrap().err(), Some(Refused("lost")));
    assert!(poll_immediate(&mut duplicate).await.is_none(), "it stands in line");
    // As long as somebody else's wait takes.
    let Begin::Fresh(other) = scope.begin("other", Fingerprint::of("")).unwrap() else { panic!() };
    let Begin::InFlight(pending) = scope.begin("other", Fingerprint::of("")).unwrap() else { panic!() };
    assert!(matches!(pending.wait_timeout(BUDGET).unwrap(), Waited::TimedOut));
    other.release().unwrap();
    let Status::Interrupted(lost) = scope.get("key").unwrap() else { panic!() };
    let Begin::Fresh(second) = scope.begin("key", *lost.fingerprint()).unwrap() else { panic!() };
    places.store(1, Ordering::SeqCst);
    assert!(poll_immediate(&mut duplicate).await.is_none(), "it waits again");
    layer.complete(second, Response::new("made")).await.unwrap();
    let answer = duplicate.await.unwrap();
    assert!(answer.extensions().get::<Replayed>().is_some() && answer.status() == 200);
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
