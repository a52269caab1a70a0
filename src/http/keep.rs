//! What is kept of a response, and what it says of the operation.

use std::time::Duration;

use http::StatusCode;

const TTL_MIN: Duration = Duration::from_millis(1);
const TTL_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// What a response says of its operation, and what is kept of it. A handler puts it into the
/// extensions of its response; otherwise the layer's [rule](super::IdempotencyLayer::keep)
/// decides.
///
/// ```
/// use http::{Response, StatusCode};
/// use idemkv::http::Keep;
///
/// // The connection to the bank was refused: nothing was charged, so a retry may run.
/// let mut response = Response::new("the bank can't be reached");
/// *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
/// response.extensions_mut().insert(Keep::not_started());
/// ```
///
/// With axum it is a part of a response: `(status, Keep::not_started(), "try later")`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it says something in the extensions of a response only"]
pub struct Keep {
    pub(super) what: What,
    pub(super) ttl: Option<Duration>,
}

/// What becomes of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Response,
    Outcome,
    NotStarted,
    Unknown,
}

impl Keep {
    const fn new(what: What) -> Self {
        Self { what, ttl: None }
    }

    /// The rule of a layer that was given none.
    pub(super) fn by_default(status: StatusCode) -> Self {
        match status {
            // A layer behind this one has dropped the handler, or a service downstream is late.
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Self::unknown(),
            _ => Self::response(),
        }
    }

    /// The operation is done, with success or not. Retries get this response. The default, except
    /// for the statuses of a time-out.
    pub const fn response() -> Self {
        Self::new(What::Response)
    }

    /// The operation is done. Of the response, status and headers are kept; retries get
    /// [`ResultNotKept`](super::ProblemKind::ResultNotKept). For bodies that must not be stored,
    /// such as secrets.
    pub const fn outcome() -> Self {
        Self::new(What::Outcome)
    }

    /// This attempt certainly did nothing, so the next request with this key runs. What an
    /// earlier, interrupted attempt did stays unknown.
    ///
    /// A status alone does not prove it: a 503 may come from the second step of an operation.
    pub const fn not_started() -> Self {
        Self::new(What::NotStarted)
    }

    /// Nobody knows whether the operation had its effect: a downstream call timed out. The key is
    /// interrupted. Retries get [`OutcomeUnknown`](super::ProblemKind::OutcomeUnknown) until it is
    /// resolved; with [`Recovery::Rerun`](crate::Recovery::Rerun) the next one runs, and its claim
    /// tells of this attempt.
    pub const fn unknown() -> Self {
        Self::new(What::Unknown)
    }

    /// How long this response is replayed, in place of the policy's time. 1 ms to 100 years; a time
    /// outside that range is moved to its nearest end.
    ///
    /// A shorter time does not free the key: for the rest of the time that the policy remembers
    /// it, retries get [`Expired`](super::ProblemKind::Expired) and run nothing.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl.clamp(TTL_MIN, TTL_MAX));
        self
    }
}
