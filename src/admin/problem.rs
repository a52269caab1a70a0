//! Answers to requests that can't be served: problem details (RFC 9457).

use std::fmt::Display;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{self, HeaderValue};
use problem_details::{JsonProblemDetails, ProblemDetails};

use crate::{
    BackupError, BeginError, ClaimError, CommitError, EndError, ForgetError, ReadError, ResolveError,
};

/// Only authorised requests get one, so it says what the engine says.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
}

#[derive(serde::Serialize)]
struct Members {
    code: &'static str,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Display) -> Self {
        Self { status, code, title, detail: detail.to_string() }
    }

    pub(super) fn refused() -> Self {
        let detail = "The service does not let this request see or do this.";
        Self::new(StatusCode::FORBIDDEN, "refused", "Refused", detail)
    }

    pub(super) fn forged(why: &str) -> Self {
        let detail = format!("The request does not come from the page: {why}.");
        Self::new(StatusCode::FORBIDDEN, "forged", "Not from the page", detail)
    }

    pub(super) fn bad(detail: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "Request can't be read", detail)
    }

    pub(super) fn too_large(detail: impl Display) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Too large", detail)
    }

    pub(super) fn absent(detail: impl Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "absent", "There is no such thing", detail)
    }

    /// The key is not what the operator saw.
    pub(super) fn changed(detail: impl Display) -> Self {
        Self::new(StatusCode::CONFLICT, "changed", "Key is in another state", detail)
    }

    pub(super) fn busy(detail: impl Display) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Try again", detail)
    }

    fn stopped(detail: impl Display) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", "Engine has stopped", detail)
    }

    pub(super) fn internal(detail: impl Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "It failed", detail)
    }

    #[cfg(feature = "postgres")]
    fn of_shared(error: &crate::SharedError) -> Self {
        if error.is_retryable() { Self::busy(error) } else { Self::stopped(error) }
    }

    pub(super) fn of_read(error: ReadError) -> Self {
        match error {
            ReadError::Key(error) => Self::bad(error),
            ReadError::Closed | ReadError::Forked => Self::stopped(error),
            ReadError::Damaged(_) | ReadError::Io(_) => Self::internal(error),
            #[cfg(feature = "postgres")]
            ReadError::NoFile | ReadError::InsideCallback => Self::internal(error),
            #[cfg(feature = "postgres")]
            ReadError::Shared(error) => Self::of_shared(&error),
        }
    }

    fn of_commit(error: CommitError) -> Self {
        match error {
            CommitError::Busy(error) => Self::busy(error),
            CommitError::Failed(_) | CommitError::Closed => Self::stopped(error),
            CommitError::InsideCallback | CommitError::InsideTransaction => Self::internal(error),
            #[cfg(feature = "postgres")]
            CommitError::Shared(error) => Self::of_shared(&error),
        }
    }

    pub(super) fn of_begin(error: BeginError) -> Self {
        match error {
            BeginError::Key(error) => Self::bad(error),
            BeginError::Busy(error) => Self::busy(error),
            BeginError::Failed(_) | BeginError::Closed => Self::stopped(error),
            BeginError::KeyReused | BeginError::Unresolved(_) | BeginError::Expired(_) => {
                Self::changed(error)
            }
            BeginError::InsideCallback
            | BeginError::InsideTransaction
            | BeginError::OwnKey
            | BeginError::DuplicateInBatch { .. }
            | BeginError::BatchTooLong { .. }
            | BeginError::Damaged(_)
            | BeginError::Io(_) => Self::internal(error),
            #[cfg(feature = "postgres")]
            BeginError::Shared(error) => Self::of_shared(&error),
        }
    }

    pub(super) fn of_resolve(error: ResolveError) -> Self {
        match error {
            ResolveError::NotInterrupted(status) => Self::changed(format!("The key is {status}.")),
            ResolveError::AnotherAttempt(_) => Self::changed(error),
            ResolveError::Begin(error) => Self::of_begin(error),
        }
    }

    pub(super) fn of_end(error: &EndError) -> Self {
        match error.reason() {
            ClaimError::BodyTooLarge { .. } => Self::too_large(error),
            ClaimError::Superseded(_) => Self::changed(error),
            ClaimError::Commit(error) => Self::of_commit(error.clone()),
            ClaimError::Option(_)
            | ClaimError::NoLease
            | ClaimError::InsideTransaction
            | ClaimError::TransactionPoisoned
            | ClaimError::BatchTooLong { .. } => Self::internal(error),
            #[cfg(feature = "postgres")]
            ClaimError::NotShared => Self::internal(error),
        }
    }

    pub(super) fn of_forget(error: ForgetError) -> Self {
        match error {
            ForgetError::InFlight => Self::changed(error),
            ForgetError::Read(error) => Self::of_read(error),
            ForgetError::Commit(error) => Self::of_commit(error),
        }
    }

    pub(super) fn of_backup(error: BackupError) -> Self {
        match error {
            BackupError::Exists(_) | BackupError::Running => Self::busy(error),
            BackupError::Commit(error) => Self::of_commit(error),
            BackupError::InsideTransaction | BackupError::Io(_) | BackupError::Copy(_) => {
                Self::internal(error)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = ProblemDetails::new()
            .with_status(self.status)
            .with_title(self.title)
            .with_detail(self.detail)
            .with_extensions(Members { code: self.code });
        // Nothing in it can't be written.
        let body = JsonProblemDetails::from(details).to_body_string().unwrap_or_default();
        let content_type = HeaderValue::from_static(JsonProblemDetails::<()>::CONTENT_TYPE);
        (self.status, [(header::CONTENT_TYPE, content_type)], body).into_response()
    }
}
