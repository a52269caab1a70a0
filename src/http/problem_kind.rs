//! What can be wrong with a request, and what each means for the client.

use std::fmt;

use http::StatusCode;

/// Why a request did not get the response of its operation.
///
/// `docs/http.md` has the table, and [`problems`](super::problems) a page for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The route requires a key. 400.
    KeyMissing,
    /// The key is malformed, repeated, too long, or refused by
    /// [`check_key`](super::IdempotencyLayer::check_key). 400.
    KeyMalformed,
    /// The request is not what its sender signed: it was refused by
    /// [`verify`](super::IdempotencyLayer::verify). 403.
    NotVerified,
    /// The request belongs to no [tenant](super::IdempotencyLayer::tenant). 400.
    TenantMissing,
    /// The key was used for another request. 422.
    KeyReused,
    /// The first request with this key is at work. 409, with `Retry-After`.
    InFlight,
    /// The first request was interrupted, and its effect may have happened. 409.
    OutcomeUnknown,
    /// The operation is done, and its response was not kept. 409.
    ResultNotKept,
    /// The operation is done, and its response is no longer kept. 410.
    Expired,
    /// The body is over the limit. 413.
    BodyTooLarge,
    /// The body ended early, or could not be read. 400, with `Retry-After`.
    BodyUnreadable,
    /// A limit of the store, or of its disk, is reached. 503, with `Retry-After`.
    StoreBusy,
    /// The store grants nothing, or could not store this result. 503, with `Retry-After`.
    StoreFailed,
    /// The stored response can't be read. 500.
    RecordUnreadable,
    /// The handler panicked, or its task was lost. 500.
    HandlerLost,
    /// The layer can't work as it was set up. 500.
    Misconfigured,
}

/// What is known of a kind.
struct Facts {
    code: &'static str,
    title: &'static str,
    status: StatusCode,
    /// Default of `Retry-After`: of what is retryable, and of nothing else.
    retry_after_s: Option<u32>,
}

impl ProblemKind {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::KeyMissing,
        Self::KeyMalformed,
        Self::NotVerified,
        Self::TenantMissing,
        Self::KeyReused,
        Self::InFlight,
        Self::OutcomeUnknown,
        Self::ResultNotKept,
        Self::Expired,
        Self::BodyTooLarge,
        Self::BodyUnreadable,
        Self::StoreBusy,
        Self::StoreFailed,
        Self::RecordUnreadable,
        Self::HandlerLost,
        Self::Misconfigured,
    ];

    fn facts(self) -> Facts {
        let facts =
            |code, title, status, retry_after_s: Option<u32>| Facts { code, title, status, retry_after_s };
        let (bad, conflict) = (StatusCode::BAD_REQUEST, StatusCode::CONFLICT);
        let (down, broken) = (StatusCode::SERVICE_UNAVAILABLE, StatusCode::INTERNAL_SERVER_ERROR);
        match self {
            Self::KeyMissing => facts("key_missing", "Idempotency key is missing", bad, None),
            Self::KeyMalformed => facts("key_malformed", "Idempotency key is malformed", bad, None),
            Self::NotVerified => facts("not_verified", "Signature is not valid", StatusCode::FORBIDDEN, None),
            Self::TenantMissing => facts("tenant_missing", "Request belongs to no tenant", bad, None),
            Self::KeyReused => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                facts("key_reused", "Idempotency key is already used", status, None)
            }
            Self::InFlight => {
                let title = "A request is outstanding for this idempotency key";
                facts("in_flight", title, conflict, Some(1))
            }
            Self::OutcomeUnknown => {
                facts("outcome_unknown", "Outcome of the operation is unknown", conflict, None)
            }
            Self::ResultNotKept => {
                let title = "Operation is done and its response was not kept";
                facts("result_not_kept", title, conflict, None)
            }
            Self::Expired => {
                let title = "Operation is done and its response has expired";
                facts("expired", title, StatusCode::GONE, None)
            }
            Self::BodyTooLarge => {
                facts("body_too_large", "Body is too large", StatusCode::PAYLOAD_TOO_LARGE, None)
            }
            Self::BodyUnreadable => facts("body_unreadable", "Body can't be read", bad, Some(1)),
            Self::StoreBusy => facts("store_busy", "Too many operations at once", down, Some(1)),
            Self::StoreFailed => facts("store_failed", "Service is out of order", down, Some(30)),
            Self::RecordUnreadable => {
                facts("record_unreadable", "Stored response can't be read", broken, None)
            }
            Self::HandlerLost => facts("handler_lost", "Operation was interrupted", broken, None),
            Self::Misconfigured => {
                facts("misconfigured", "Service is not set up for this request", broken, None)
            }
        }
    }

    /// Its name for programs: the member `code` of a problem.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.facts().code
    }

    /// Its name for people: the member `title` of a problem.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.facts().title
    }

    /// Its status, where the layer sets [no other](super::IdempotencyLayer::status).
    #[must_use]
    pub fn default_status(self) -> StatusCode {
        self.facts().status
    }

    /// Whether the same request with the same key can get another answer later. Where an
    /// interrupted operation runs again, [`Problem::is_retryable`](super::Problem::is_retryable)
    /// says so of more kinds.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        self.facts().retry_after_s.is_some()
    }

    pub(super) fn default_retry_after_s(self) -> Option<u32> {
        self.facts().retry_after_s
    }
}

/// The [code](Self::code).
impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
