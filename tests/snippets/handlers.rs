//! The handlers of the README and the guide, word for word: the lines between two marks are shown there.

use super::bank::{axum, bank, charge, tokio};

pub mod web {
    use super::{bank, tokio};
    // shown: a web handler
    use idemkv::{BeginError, Fault, Fingerprint, RunError, Scope};

    /// POST /v1/charges: a status and a body.
    pub async fn post_charge(charges: Scope, key: String, request: String) -> (u16, String) {
        let fingerprint = Fingerprint::of(&request);
        // A task of its own, which goes on when the client hangs up and this future is dropped.
        let spawn = |task| drop(tokio::spawn(task));
        let ran = charges.run_async(key, fingerprint, spawn, |claim| {
            let step = claim.step_key("charge").to_string();
            Box::pin(async move { bank(step, request).await.map_err(Fault::Final) })
        });
        match ran.await {
            Ok(Ok(receipt)) => (200, receipt),
            Ok(Err(declined)) => (402, declined),
            Err(error) => (status(&error), error.to_string()),
        }
    }

    fn status(error: &RunError<String, String>) -> u16 {
        match error {
            RunError::Begin(BeginError::Key(_)) => 400,
            RunError::Begin(BeginError::Unresolved(_)) => 409, // ask the bank, then resolve the key
            RunError::InFlight(_) => 409, // only where you limit the wait: `run_within_async`
            RunError::Begin(BeginError::Expired(_)) => 410,
            RunError::Begin(BeginError::KeyReused) => 422,
            error if error.is_retryable() => 503,
            _ => 500,
        }
    }
    // end
}

pub mod faults {
    // shown: faults
    use idemkv::Fault;

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

pub mod endpoint {
    use super::axum;
    use super::web::post_charge;
    // shown: an endpoint
    use axum::extract::State;
    use axum::http::{HeaderMap, StatusCode};
    use idemkv::Scope;

    pub async fn charges(
        State(charges): State<Scope>,
        headers: HeaderMap,
        body: String,
    ) -> (StatusCode, String) {
        let Some(key) = headers.get("idempotency-key").and_then(|key| key.to_str().ok()) else {
            return (StatusCode::BAD_REQUEST, "send an Idempotency-Key header".to_owned());
        };
        let (status, reply) = post_charge(charges, key.to_owned(), body).await;
        (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), reply)
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
