//! Requests that change something.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::{Extension, Json};
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::access::Operator;
use super::journal::{Change, Noted, SCOPE};
use super::names::{escaped, parse};
use super::problem::Problem;
use super::shared::Shared;
use super::view::state;
use crate::http::body_of_record;
use crate::{Claim, EndError, Fence, Scope, Seen, Status};

/// Bytes of a request.
const REQUEST_MAX: usize = 8 << 20;
const CHANGED: &str = "The key has changed since it was shown: look at it again.";
/// Bytes of a reason.
const REASON_MAX: usize = 2_000;

/// Which key is changed, in which state, and why.
#[derive(Debug, Deserialize)]
struct Target {
    scope: String,
    key: String,
    /// As the operator saw it, so that nothing else is changed.
    state: String,
    /// Of the attempt that the operator saw, so that a change is not made to another one.
    fence: u64,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    #[serde(flatten)]
    target: Target,
    outcome: HowItEnded,
    result: Option<GivenResult>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum HowItEnded {
    /// It took effect.
    Completed,
    /// It failed, and a retry must get that failure.
    Failed,
    /// It certainly did not happen, in no attempt: a retry runs it.
    DidNotHappen,
}

/// What retries get.
#[derive(Debug, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case")]
enum GivenResult {
    /// These bytes, for a service that stores its own.
    Bytes { body: String },
    /// A response, in the form of the HTTP layer.
    Response { status: u16, content_type: String, body: String },
}

impl GivenResult {
    fn into_bytes(self, outcome: HowItEnded) -> Result<Vec<u8>, Problem> {
        match self {
            Self::Bytes { body } => Ok(body.into_bytes()),
            Self::Response { status, content_type, body } => {
                let mut response = Response::new(body);
                *response.status_mut() = StatusCode::from_u16(status)
                    .ok()
                    .filter(|status| !status.is_informational())
                    .ok_or_else(|| {
                        Problem::bad("the response's status is not valid: give one from 200 to 999")
                    })?;
                let status = response.status();
                let is_failure = status.is_client_error() || status.is_server_error();
                if is_failure != (outcome == HowItEnded::Failed) {
                    let right = if is_failure { "failed" } else { "took effect" };
                    return Err(Problem::bad(format_args!(
                        "the layer stores a response with status {status} for an operation that {right}: choose \
                         that, or give another status"
                    )));
                }
                if !content_type.is_empty() {
                    let content_type = HeaderValue::from_str(&content_type)
                        .map_err(|_invalid| Problem::bad("the response's content type is not valid"))?;
                    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
                }
                Ok(body_of_record(&response))
            }
        }
    }
}

/// What was done.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    did: &'static str,
}

/// The end of a change that goes on if the client hangs up, so that reason and change stay
/// together.
async fn detached(
    change: impl Future<Output = Result<&'static str, Problem>> + Send + 'static,
) -> Result<Json<Done>, Problem> {
    let did = tokio::spawn(change).await.map_err(Problem::internal)??;
    Ok(Json(Done { did }))
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let bytes = to_bytes(body, REQUEST_MAX).await.map_err(Problem::too_large)?;
    serde_json::from_slice(&bytes).map_err(Problem::bad)
}

pub(super) async fn resolve(
    State(shared): State<Arc<Shared>>,
    Extension(operator): Extension<Operator>,
    body: Body,
) -> Result<Json<Done>, Problem> {
    let asked: Resolve = read(body).await?;
    let body = match (asked.outcome, asked.result) {
        (HowItEnded::DidNotHappen, None) => Vec::new(),
        (HowItEnded::DidNotHappen, Some(_)) => {
            return Err(Problem::bad("an operation that did not happen has no result"));
        }
        (HowItEnded::Completed | HowItEnded::Failed, Some(result)) => result.into_bytes(asked.outcome)?,
        (HowItEnded::Completed | HowItEnded::Failed, None) => {
            return Err(Problem::bad("retries get the result: give it (it may be empty)"));
        }
    };
    let key = AimedAt::of(&shared, &asked.target)?;
    detached(async move { key.resolve(&shared, &operator, asked.outcome, &body).await }).await
}

pub(super) async fn forget(
    State(shared): State<Arc<Shared>>,
    Extension(operator): Extension<Operator>,
    body: Body,
) -> Result<Json<Done>, Problem> {
    let key = AimedAt::of(&shared, &read(body).await?)?;
    detached(async move { key.forget(&shared, &operator).await }).await
}

/// The key of a change.
struct AimedAt {
    scope: Scope,
    key: Vec<u8>,
    state: String,
    fence: u64,
    reason: String,
}

impl AimedAt {
    fn of(shared: &Shared, target: &Target) -> Result<Self, Problem> {
        let scope = shared.engine.scope(parse(&target.scope).map_err(Problem::bad)?);
        let key = parse(&target.key).map_err(Problem::bad)?;
        let reason = target.reason.trim().to_owned();
        if reason.is_empty() || reason.len() > REASON_MAX {
            return Err(Problem::bad(format_args!("give a reason, of at most {REASON_MAX} bytes")));
        }
        Ok(Self { scope, key, state: target.state.clone(), fence: target.fence, reason })
    }

    async fn note(&self, shared: &Shared, operator: &Operator, did: &str) -> Result<Noted, Problem> {
        let change = Change {
            at_ms: shared.engine.now().as_millis(),
            did: did.to_owned(),
            operator: operator.0.to_string(),
            reason: self.reason.clone(),
            scope: escaped(self.scope.name()),
            key: escaped(&self.key),
            hash: self.scope.key_hash(&self.key).map_err(Problem::bad)?.to_string(),
        };
        shared.journal.note(self.scope.name(), &self.key, &change).await
    }

    /// Refuses what the operator did not see. An attempt has the same fence while it is in flight
    /// and once it is done.
    fn expect(&self, status: &Status, fence: Fence) -> Result<(), Problem> {
        if state(status) == self.state && fence.get() == self.fence {
            return Ok(());
        }
        Err(Problem::changed(CHANGED))
    }

    async fn status(&self) -> Result<Status, Problem> {
        self.scope.get_async(&self.key).await.map_err(Problem::of_read)
    }

    async fn resolve(
        &self,
        shared: &Shared,
        operator: &Operator,
        outcome: HowItEnded,
        body: &[u8],
    ) -> Result<&'static str, Problem> {
        let status = self.status().await?;
        let Status::Interrupted(lost) = &status else {
            return Err(Problem::changed("The key is not interrupted: look at it again."));
        };
        self.expect(&status, lost.fence())?;
        let did = match outcome {
            HowItEnded::Completed => "resolved as completed",
            HowItEnded::Failed => "resolved as failed",
            HowItEnded::DidNotHappen => "resolved as did not happen",
        };
        let noted = self.note(shared, operator, did).await?;
        let (problem, is_unmade) = match self.scope.resolve_if_async(&self.key, lost.fence()).await {
            Ok(claim) => match end(claim, outcome, body).await {
                Ok(()) => {
                    shared.journal.made(noted).await;
                    return Ok(did);
                }
                Err(error) => unmade(error).await,
            },
            Err(error) => (Problem::of_resolve(error), true),
        };
        if is_unmade {
            shared.journal.take_back(noted).await;
        }
        Err(problem)
    }

    async fn forget(&self, shared: &Shared, operator: &Operator) -> Result<&'static str, Problem> {
        if self.scope.name() == SCOPE.as_bytes() {
            return Err(Problem::bad("reasons are not forgotten by hand: they go when their time is over"));
        }
        let status = self.status().await?;
        let (fence, seen) = match &status {
            Status::Vacant => return Err(Problem::absent("There is nothing to forget.")),
            Status::InFlight(_) => {
                return Err(Problem::changed("The key is in flight: only its own claim can end it."));
            }
            Status::Interrupted(lost) => (lost.fence(), Seen::from(lost)),
            Status::Done(record) => (record.fence(), Seen::from(record)),
            Status::Expired(tombstone) => (tombstone.fence(), Seen::from(tombstone)),
            Status::Unreadable(error) => return Err(Problem::of_read(error.clone())),
        };
        self.expect(&status, fence)?;
        let noted = self.note(shared, operator, "forgotten").await?;
        match self.scope.forget_if_async(&self.key, seen).await {
            Ok(true) => {
                shared.journal.made(noted).await;
                Ok("forgotten")
            }
            Ok(false) => {
                shared.journal.take_back(noted).await;
                Err(Problem::changed(CHANGED))
            }
            Err(error) => {
                // After a failed commit it may be forgotten.
                if !may_be_forgotten(&error) {
                    shared.journal.take_back(noted).await;
                }
                Err(Problem::of_forget(error))
            }
        }
    }
}

async fn end(claim: Claim, outcome: HowItEnded, body: &[u8]) -> Result<(), EndError> {
    match outcome {
        HowItEnded::Completed => claim.complete_async(body).await.map(drop),
        HowItEnded::Failed => claim.fail_async(body).await.map(drop),
        HowItEnded::DidNotHappen => claim.release_async().await,
    }
}

/// Whether the change was certainly not made: then the claim came back, and the key becomes what it
/// was. A shared store that did not answer gives the claim back too. It takes the claim as unused
/// only if the change was not made, so its second answer tells.
async fn unmade(error: EndError) -> (Problem, bool) {
    let problem = Problem::of_end(&error);
    let is_unmade = match error.into_claim() {
        Some(claim) => claim.put_back_async().await.is_ok(),
        None => false,
    };
    (problem, is_unmade)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A backup that was made.
#[derive(Debug, Serialize)]
pub(super) struct MadeBackup {
    file: String,
    bytes: u64,
    time_ms: u64,
}

/// Makes a backup in the folder that the service chose, under a name that the router chooses.
pub(super) async fn backup(
    State(shared): State<Arc<Shared>>,
    Extension(_operator): Extension<Operator>,
    body: Body,
) -> Result<Json<MadeBackup>, Problem> {
    let Nothing {} = read(body).await?;
    let folder = shared.backups.clone().ok_or_else(|| Problem::absent("No folder for backups is set."))?;
    let copying = move || {
        let file = format!("backup-{}.idem", shared.engine.now().as_millis());
        let made = shared.engine.backup(folder.join(&file)).map_err(Problem::of_backup)?;
        Ok(MadeBackup { file, bytes: made.bytes, time_ms: made.time.as_millis() })
    };
    Ok(Json(tokio::task::spawn_blocking(copying).await.map_err(Problem::internal)??))
}

/// Whether the key may be forgotten all the same.
fn may_be_forgotten(error: &crate::ForgetError) -> bool {
    #[cfg(feature = "postgres")]
    if let crate::ForgetError::Commit(crate::CommitError::Shared(crate::SharedError::Unknown(_))) = error {
        return true;
    }
    matches!(error, crate::ForgetError::Commit(crate::CommitError::Failed(_)))
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::sim::SimDisk;
    use crate::{ClaimError, Engine, Fingerprint};

    /// An end that was refused, and gave its claim back.
    fn refused(engine: &Engine) -> EndError {
        let scope = engine.default_scope();
        // Refused if it is interrupted already.
        drop(scope.begin("key", Fingerprint::of("request")));
        let claim = scope.resolve("key").unwrap();
        EndError::new(ClaimError::BodyTooLarge { len: 2, max: 1 }, Some(claim))
    }

    fn is_unmade(engine: &Engine, error: EndError) -> bool {
        let mut unmade = pin!(unmade(error));
        for _ in 0..10 {
            if let Poll::Ready((_, is_unmade)) = unmade.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                return is_unmade;
            }
            engine.step();
        }
        panic!("it hangs");
    }

    #[test]
    fn a_change_whose_claim_could_not_be_put_back_may_be_made() {
        let engine = Engine::options().disk(&SimDisk::new()).stepped().open("x.idem").unwrap();
        let error = refused(&engine);
        assert!(is_unmade(&engine, error));
        let error = refused(&engine);
        engine.clone().close().unwrap();
        assert!(!is_unmade(&engine, error));
    }
}
