//! The snippets of `docs/http.md`: compiled, run, and shown there word for word.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idemkv::sim::ManualClock;
use idemkv::{Engine, StepKey};
use tokio::sync::oneshot;

use crate::client::{Refused, client, home, home_with, post, serving};
use crate::loopback::{Raw, Server};
use crate::snippets::{blocks, regions};

#[expect(dead_code, reason = "compiled only: it takes a port, and stays until it is interrupted")]
mod whole {
    // shown: the whole program
    use axum::{Json, Router, routing::post};
    use idemkv::Engine;
    use idemkv::http::{HeldClaim, IdempotencyLayer};

    #[tokio::main]
    async fn main() -> Result<(), Box<dyn std::error::Error>> {
        let engine = Engine::open("charges.idem")?;
        let charges = IdempotencyLayer::new(&engine, "POST /v1/charges");
        let app = Router::new().route("/v1/charges", post(charge).layer(charges.clone()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:4242").await?;
        let stop = async { drop(tokio::signal::ctrl_c().await) };
        axum::serve(listener, app).with_graceful_shutdown(stop).await?;
        charges.drain().await; // runs whose clients hung up
        engine.close_async().await?;
        Ok(())
    }

    async fn charge(claim: HeldClaim, Json(amount): Json<u32>) -> String {
        println!("calling the bank, with the key {}", claim.step_key("charge"));
        format!("charged {amount}\n")
    }
    // end
}

mod program {
    use super::{BankError, bank};

    // shown: several routes
    use std::error::Error;

    use axum::routing::post;
    use axum::{Json, Router};
    use idemkv::Engine;
    use idemkv::http::{HeldClaim, IdempotencyLayer};
    use tokio::net::TcpListener;

    pub async fn serve(
        engine: Engine,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Box<dyn Error>> {
        let charges = IdempotencyLayer::new(&engine, "POST /v1/charges");
        let refunds = charges.scope("POST /v1/refunds");
        let app = Router::new()
            .route("/v1/charges", post(charge).layer(charges.clone()))
            .route("/v1/refunds", post(charge).layer(refunds));

        axum::serve(listener, app).with_graceful_shutdown(stop).await?;
        charges.drain().await; // runs whose clients hung up
        engine.close_async().await?;
        Ok(())
    }

    async fn charge(claim: HeldClaim, Json(amount): Json<u32>) -> Result<String, BankError> {
        bank(amount, claim.step_key("charge")).await
    }
    // end
}

mod errors {
    use super::BankError;

    // shown: what is known
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};
    use idemkv::http::Keep;

    impl IntoResponse for BankError {
        fn into_response(self) -> Response {
            let (busy, lost) = (StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT);
            match self {
                Self::Unreachable => (busy, Keep::not_started(), "send it again").into_response(),
                Self::TimedOut => (lost, Keep::unknown(), "it may have been charged").into_response(),
                Self::Declined => (StatusCode::PAYMENT_REQUIRED, "declined").into_response(),
            }
        }
    }
    // end
}

mod interrupted {
    use super::find_charge;

    // shown: interrupted requests
    use std::error::Error;
    use std::time::Duration;

    use axum::http::Response;
    use axum::http::header::{CONTENT_TYPE, HeaderValue};
    use idemkv::http::IdempotencyLayer;
    use idemkv::{Engine, ResolveError};

    /// No attempt takes longer, and by then the bank has all charges that it will ever have of one.
    const LONGEST: Duration = Duration::from_secs(300);

    pub async fn reconcile(engine: &Engine, layer: &IdempotencyLayer) -> Result<(), Box<dyn Error>> {
        let charges = engine.scope("POST /v1/charges");
        for open in engine.interrupted().scope(charges.name()).get()? {
            let lost = open.attempt();
            let claim = match charges.resolve_if_async(open.key(), lost.fence()).await {
                // A retry was faster, or another process.
                Err(ResolveError::NotInterrupted(_) | ResolveError::AnotherAttempt(_)) => continue,
                resolved => resolved?,
            };
            let is_over = engine.now().saturating_since(lost.started()) > LONGEST;
            let ended = match find_charge(claim.step_key("charge")).await {
                Ok(Some(receipt)) => {
                    // Nothing may fail here: a claim that is dropped is one more attempt.
                    let mut response = Response::new(receipt);
                    let text = HeaderValue::from_static("text/plain; charset=utf-8");
                    response.headers_mut().insert(CONTENT_TYPE, text);
                    layer.complete(claim, response).await.map(drop)
                }
                Ok(None) if is_over => claim.release_async().await,
                // The charge may be on its way, or the bank does not answer: ask again later.
                Ok(None) | Err(_) => claim.put_back_async().await,
            };
            if let Err(error) = ended {
                eprintln!("{error}");
                if let Some(claim) = error.into_claim() {
                    claim.put_back_async().await?;
                }
            }
        }
        Ok(())
    }
    // end
}

/// The bank has the first charge that it is asked for, does not answer the second time, and has no
/// other.
async fn find_charge(_: StepKey) -> Result<Option<String>, BankError> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    match ASKED.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(Some("charged 10".to_owned())),
        1 => Err(BankError::TimedOut),
        _ => Ok(None),
    }
}

#[derive(Debug)]
pub enum BankError {
    Unreachable,
    TimedOut,
    Declined,
}

impl fmt::Display for BankError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Error for BankError {}

async fn bank(amount: u32, step: StepKey) -> Result<String, BankError> {
    assert_eq!(step.to_string().len(), 36);
    match amount {
        1 => Err(BankError::Unreachable),
        2 => Err(BankError::TimedOut),
        3 => Err(BankError::Declined),
        _ => Ok(format!("charged {amount}")),
    }
}

#[test]
fn the_document_shows_what_is_tested() {
    assert_eq!(blocks(include_str!("../../docs/http.md")), regions(include_str!("shown.rs")));
}

#[tokio::test]
async fn the_program_serves_replays_drains_and_closes() {
    let home = home();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let address = listener.local_addr().unwrap();
    let engine = home.engine.clone();
    let serving = program::serve(engine, listener, async { drop(stopped.await) });
    let clients = async {
        let post = |key: &'static str, amount: &'static str| async move {
            Raw::read(Server::send_json(address, key, amount).await).await
        };
        let (first, retry) = (post("a", "10").await, post("a", "10").await);
        assert_eq!((first.status, &first.body[..]), (200, &b"charged 10"[..]));
        assert!(retry.is_replay());
        assert_eq!((post("b", "1").await.status, post("b", "1").await.status), (503, 503));
        assert_eq!((post("c", "2").await.status, post("c", "2").await.status), (504, 409));
        assert_eq!(post("d", "3").await.status, 402);
        assert!(post("d", "3").await.is_replay());
        stop.send(()).unwrap();
    };
    let (served, ()) = futures_util::join!(serving, clients);
    served.unwrap();
}

#[tokio::test]
async fn what_was_interrupted_gets_the_outcome_that_the_bank_knows() {
    let clock = ManualClock::at_millis(1_800_000_000_000);
    let home = home_with(Engine::options().clock(&clock));
    let layer = idemkv::http::IdempotencyLayer::new(&home.engine, "POST /v1/charges");
    let handler = client(&layer, 200, "charged anew");
    let unknown = serving(&layer, |_| async { Err(Refused("lost")) });
    for key in ["a", "b", "c"] {
        unknown.ask(post(key, "")).await.unwrap_err();
        clock.advance(Duration::from_secs(1));
    }
    let lost = || home.engine.interrupted().get().unwrap();
    let before: Vec<_> = lost().into_iter().skip(1).map(|key| key.position().parts()).collect();
    interrupted::reconcile(&home.engine, &layer).await.unwrap();
    // The bank did not answer of `b`, and may get the charge of `c` yet: both are as they were.
    let left = lost();
    assert_eq!(left.iter().map(|key| key.position().parts()).collect::<Vec<_>>(), before);
    assert!(left.iter().all(|key| key.attempt().attempt() == 1), "no attempt was used up");
    clock.advance(Duration::from_secs(300));
    interrupted::reconcile(&home.engine, &layer).await.unwrap();
    assert!(lost().is_empty());
    let mut answers = vec![];
    for key in ["a", "b", "c"] {
        let answer = handler.post(key, "").await;
        answers.push((
            answer.is_replay(),
            answer.body.clone(),
            answer.header("content-type").map(str::to_owned),
        ));
    }
    let text = Some("text/plain; charset=utf-8".to_owned());
    let anew = (false, "charged anew".into(), None);
    assert_eq!(answers, [(true, "charged 10".into(), text), anew.clone(), anew]);
}
