//! The handlers of the README and the guide, word for word: the lines between two marks are shown there.

use super::bank::{bank, charge, find_charge, tokio};

pub mod web {
    use super::{bank, tokio};
    use axum::http::StatusCode;
    use idemkv::{BeginError, Fault, Fingerprint, RunError, Scope};

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
}

pub mod reconciled {
    use super::{Error, find_charge};
    use idemkv::{Engine, ResolveError};
    use std::time::Duration;

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
}

pub mod faults {
    use idemkv::Fault;

    // shown: faults
    pub enum BankError {
        Declined(String),
        Busy,
        TimedOut,
    }

    pub fn fault(error: BankError) -> Fault<String> {
        match error {
            BankError::Declined(why) => Fault::Final(why),
            BankError::Busy => Fault::Retry("the bank took no request".to_owned()),
            BankError::TimedOut => Fault::Unknown("the bank did not answer".to_owned()),
        }
    }
    // end
}

pub mod plain {
    use super::{bank, tokio};
    // shown: a handler without serde
    use idemkv::{Begin, Fingerprint, Record, Scope};
    use std::time::Duration;

    type Error = Box<dyn std::error::Error + Send + Sync>;

    pub async fn post_charge(charges: Scope, key: String, request: String) -> Result<Record, Error> {
        let handled = tokio::spawn(async move {
            let fingerprint = Fingerprint::of(&request);
            match charges.begin_or_wait_async(key, fingerprint, Duration::from_secs(5)).await? {
                Begin::Fresh(claim) => {
                    let step = claim.step_key("charge").to_string();
                    Ok(match bank(step, request).await {
                        Ok(receipt) => claim.complete_async(receipt).await?,
                        Err(declined) => claim.fail_async(declined).await?,
                    })
                }
                Begin::Done(record) => Ok(record),
                Begin::InFlight(_pending) => Err("another request is at it".into()), // 409
            }
        });
        handled.await? // dropped with its client; the task goes on
    }
    // end
}

pub mod tasks {
    use super::charge;
    use idemkv::{Engine, Fingerprint};

    pub async fn handle(engine: Engine, key: String, request: Fingerprint) -> Result<(), super::Error> {
        let charge = || charge(key.clone());
        let key = &key;
        // shown: from tasks
        use idemkv::Begin;

        let charges = engine.scope("charges");
        match charges.begin_async(key, request).await? {
            Begin::Fresh(claim) => {
                let record = claim.complete_async(charge().await).await?;
                println!("ran: {:?}", record.body());
            }
            Begin::InFlight(pending) => println!("{:?}", pending.await?),
            Begin::Done(record) => println!("replayed: {:?}", record.body()),
        }
        // end
        Ok(())
    }
}

pub mod waiting {
    use super::charge;
    use futures_executor::block_on;
    use idemkv::{Engine, Fingerprint};

    pub fn handle(engine: &Engine, key: &str, request: Fingerprint) -> Result<(), super::Error> {
        let charge = || block_on(charge(key.to_owned()));
        // shown: waiting
        use idemkv::Begin;
        use std::time::Duration;

        match engine.scope("charges").begin_or_wait(key, request, Duration::from_secs(2))? {
            Begin::Fresh(claim) => drop(claim.complete(charge())?),
            Begin::Done(record) => println!("{:?}", record.body()),
            Begin::InFlight(_pending) => println!("409"),
        }
        // end
        Ok(())
    }
}

pub mod program {
    use super::bank_blocking as charge;
    use idemkv::{Begin, Engine, Fingerprint};

    pub fn handle(engine: &Engine, key: &str, request: &[u8]) -> Result<(), super::Error> {
        let charges = engine.scope("charges");
        // shown: program
        match charges.begin(key, Fingerprint::of(request))? {
            Begin::Fresh(claim) => {
                let record = claim.complete(charge(request))?; // durable when it returns
                println!("ran: {}", String::from_utf8_lossy(record.body()));
            }
            Begin::InFlight(_pending) => println!("409: another caller is at it"),
            Begin::Done(record) => println!("replayed: {}", String::from_utf8_lossy(record.body())),
        }
        // end
        Ok(())
    }
}

pub mod typed {
    use super::bank_blocking;
    use idemkv::{Engine, Fingerprint};

    pub fn handle(engine: &Engine, key: &str, request: Fingerprint) -> Result<(), super::Error> {
        let bank = |_step: String| {
            bank_blocking(key.as_bytes());
            Ok::<u64, String>(1_000)
        };
        // shown: typed
        use idemkv::Fault;

        let charged: Result<u64, String> = engine.scope("charges").run(key, request, |claim| {
            // Fault::Final is stored, Fault::Retry did nothing, Fault::Unknown leaves the key interrupted.
            bank(claim.step_key("charge").to_string()).map_err(Fault::Final)
        })?;
        println!("{charged:?}");
        // end
        Ok(())
    }
}

pub type Error = Box<dyn std::error::Error + Send + Sync>;

fn bank_blocking(request: &[u8]) -> String {
    futures_executor::block_on(charge(String::from_utf8_lossy(request).into_owned()))
}
