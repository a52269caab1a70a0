//! Layers set up for a known contract. A preset is a starting point: every option can be changed
//! afterwards.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use super::fingerprint::RequestFingerprint;
use super::keep::Keep;
use super::key::WEBHOOK_ID;
use super::layer::IdempotencyLayer;
use super::problem::{Problem, SAFE_NEW_KEY};
use super::problem_kind::ProblemKind;
use crate::{Engine, Policy, Recovery, SetPolicyError};

/// Senders retry for days, and people deliver old events again.
const WEBHOOK_TTL: Duration = Duration::from_secs(30 * 24 * 3_600);

/// A problem in the form of Stripe's errors.
fn stripe_error(problem: &Problem) -> Response<Bytes> {
    let kind = problem.kind();
    let of_type = if kind == ProblemKind::KeyReused {
        "idempotency_error"
    } else if problem.status().is_server_error() {
        "api_error"
    } else {
        "invalid_request_error"
    };
    let code = if kind == ProblemKind::InFlight { "idempotency_key_in_use" } else { kind.code() };
    let error = serde_json::json!({
        "type": of_type,
        "code": code,
        "message": problem.detail(),
        "doc_url": problem.type_uri().map(ToString::to_string),
        "retryable": problem.is_retryable(),
        "safe_new_key": SAFE_NEW_KEY,
    });
    let mut response = Response::new(serde_json::json!({ "error": error }).to_string().into());
    *response.status_mut() = problem.status();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Late deliveries are told so for at least as long as before.
fn webhook_policy(policy: Policy) -> Policy {
    match policy.get_tombstone_ttl() {
        Some(remembered) => policy.ttl(WEBHOOK_TTL).tombstone_ttl(remembered.max(WEBHOOK_TTL)),
        None => policy.ttl(WEBHOOK_TTL),
    }
}

impl IdempotencyLayer {
    /// As draft-ietf-httpapi-idempotency-key-header-07 has it, to the letter: keys in double
    /// quotes.
    pub fn draft(engine: &Engine, scope: impl AsRef<[u8]>) -> Self {
        Self::new(engine, scope).strict()
    }

    /// As the first version of Stripe's API: POST alone, keys are optional, another payload gets
    /// 400. Problems are told in the member `error`, because Stripe's client for Node takes a body
    /// without it for a success, at any status. Errors of the handler must have that form too.
    pub fn stripe(engine: &Engine, scope: impl AsRef<[u8]>) -> Self {
        let layer = Self::new(engine, scope).optional().methods([Method::POST]);
        layer.status(ProblemKind::KeyReused, StatusCode::BAD_REQUEST).render(stripe_error)
    }

    /// For a receiver of webhooks, as Standard Webhooks describes them. Check the signature with
    /// [`verify`](Self::verify), or in front of the layer; `standard_webhooks` is this preset with
    /// the check.
    ///
    /// - The key is the header `webhook-id`. The body alone counts: the time that is signed
    ///   differs between two tries.
    /// - Success of the handler is stored. Anything else leaves the outcome
    ///   [unknown](Keep::unknown), so that `recovery` decides: with [`Recovery::Rerun`] the next
    ///   delivery runs the handler again, and its claim tells of the earlier attempts. With
    ///   [`Recovery::Refuse`] deliveries are refused until the key is resolved.
    /// - An event that is done is answered with 200 even if its response is no longer kept: a 410
    ///   would make the sender switch the endpoint off.
    /// - The scope's policy is declared: records are kept for 30 days, and so are tombstones that
    ///   would go earlier. Its other parts are those of the engine's default policy.
    ///
    /// # Errors
    ///
    /// As for [`Engine::set_policy`], which this calls, on the calling thread.
    ///
    /// ```
    /// # use idemkv::{Engine, Recovery};
    /// # use idemkv::http::IdempotencyLayer;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let layer = IdempotencyLayer::webhook(&engine, "events", Recovery::Rerun)?;
    /// # drop(layer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn webhook(
        engine: &Engine,
        scope: impl AsRef<[u8]>,
        recovery: Recovery,
    ) -> Result<Self, SetPolicyError> {
        engine.set_policy(&scope, webhook_policy(engine.policy()).recovery(recovery))?;
        let keep = |status: StatusCode| if status.is_success() { Keep::response() } else { Keep::unknown() };
        Ok(Self::new(engine, scope)
            .key_header(WEBHOOK_ID)
            .fingerprint(RequestFingerprint::body_only())
            .keep(keep)
            .status(ProblemKind::ResultNotKept, StatusCode::OK)
            .status(ProblemKind::Expired, StatusCode::OK))
    }
}
