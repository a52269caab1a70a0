//! The whole program of the guide's first part, as it is pasted into one file: with the real axum and tokio.
//!
//! The handler and `reconcile` are in `handlers.rs` too, word for word, with a bank that fails and an executor that
//! drops tasks.

#![expect(dead_code, reason = "`main` takes a port, and stays until it is stopped")]
#![expect(clippy::unused_async, reason = "a bank is asked over a network")]

// shown: main
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Router, routing::post};
use idemkv::{BeginError, Engine, Fault, Fingerprint, ResolveError, RunError, Scope};
use tokio::signal::unix::{SignalKind, signal};

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let engine = Engine::open("charges.idem")?;
    tokio::spawn(keep_asking(engine.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:4242").await?;
    axum::serve(listener, app(&engine)).with_graceful_shutdown(stop()?).await?;
    // Charges whose clients hung up go on. A container host kills after 10 to 30 seconds.
    let at_work = async {
        while engine.stats().in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), at_work).await.ok();
    engine.close_async().await?;
    Ok(())
}

pub fn app(engine: &Engine) -> Router {
    Router::new().route("/v1/charges", post(charge_route)).with_state(engine.scope("POST /v1/charges"))
}

async fn charge_route(
    State(charges): State<Scope>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, String) {
    match headers.get("idempotency-key").and_then(|key| key.to_str().ok()) {
        Some(key) => post_charge(charges, key.to_owned(), body).await,
        None => (StatusCode::BAD_REQUEST, "send an Idempotency-Key header".to_owned()),
    }
}

/// Ctrl-C, and the SIGTERM that systemd and container hosts send.
fn stop() -> Result<impl Future<Output = ()>, Error> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn keep_asking(engine: Engine) {
    loop {
        if let Err(error) = reconcile(&engine).await {
            eprintln!("{error}");
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}
// end

// shown: a bank
/// The effect. The bank acts once for each step key.
async fn bank(step: String, request: String) -> Result<String, String> {
    println!("the bank gets {request:?}, with the key {step}");
    Ok(format!("charged {request}"))
}

/// The receipt of the charge with this step key. `None` if the bank has none so far.
async fn find_charge(step: String) -> Result<Option<String>, String> {
    println!("the bank is asked for the key {step}");
    Ok(None)
}
// end

// shown: a web handler
/// POST /v1/charges: a status and a body.
pub async fn post_charge(charges: Scope, key: String, request: String) -> (StatusCode, String) {
    let fingerprint = Fingerprint::of(&request);
    // A task of its own, which goes on when the client hangs up and this future is dropped.
    let spawn = |task| drop(tokio::spawn(task));
    let ran = charges.run_async(key, fingerprint, spawn, |claim| {
        let step = claim.step_key("charge").to_string();
        Box::pin(async move { bank(step, request).await.map_err(Fault::Final) })
    });
    match ran.await {
        Ok(Ok(receipt)) => (StatusCode::OK, receipt),
        Ok(Err(declined)) => (StatusCode::PAYMENT_REQUIRED, declined),
        Err(error) => {
            // For your log alone: it may name files, and says what you can do.
            eprintln!("{error}");
            let (status, text) = told(&error);
            (status, text.to_owned())
        }
    }
}

/// What the client is told.
fn told(error: &RunError<String, String>) -> (StatusCode, &'static str) {
    match error {
        RunError::Begin(BeginError::Key(_)) => (StatusCode::BAD_REQUEST, "this key can't be used"),
        RunError::Begin(BeginError::KeyReused) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "this key belongs to another request")
        }
        RunError::Begin(BeginError::Expired(_)) => (StatusCode::GONE, "it is done: its result is over"),
        // Only where you limit the wait: `run_within_async`.
        RunError::InFlight(_) => (StatusCode::CONFLICT, "the first request is at work: try again"),
        // The effect may have happened: `reconcile` asks the bank.
        RunError::Begin(BeginError::Unresolved(_)) | RunError::Unknown(_) | RunError::TaskLost => {
            (StatusCode::CONFLICT, "the outcome is not known yet: try again later, with the same key")
        }
        error if error.is_retryable() => (StatusCode::SERVICE_UNAVAILABLE, "try again later"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "it may have happened: ask us first"),
    }
}
// end
// shown: reconcile
/// No attempt takes longer, and by then the bank has all charges that it will ever have of one.
const LONGEST: Duration = Duration::from_secs(300);

/// Asks the bank about every interrupted charge.
pub async fn reconcile(engine: &Engine) -> Result<(), Error> {
    let charges = engine.scope("POST /v1/charges");
    for open in engine.interrupted().scope(charges.name()).get()? {
        let lost = open.attempt();
        let claim = match charges.resolve_if_async(open.key(), lost.fence()).await {
            // Somebody was faster.
            Err(ResolveError::NotInterrupted(_) | ResolveError::AnotherAttempt(_)) => continue,
            resolved => resolved?,
        };
        let is_over = engine.now().saturating_since(lost.started()) > LONGEST;
        let ended = match find_charge(claim.step_key("charge").to_string()).await {
            // As the run would have stored it: in JSON.
            Ok(Some(receipt)) => {
                let json = serde_json::json!(receipt).to_string();
                claim.complete_async(json).await.map(drop)
            }
            // It certainly did not happen: the next retry runs it.
            Ok(None) if is_over => claim.release_async().await,
            // It may be on its way, or the bank does not answer: the key stays as it was.
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
