//! `RunError`: why a run returned no stored result.

use std::error::Error;
use std::fmt;

use crate::error::{BeginError, ClaimError, EndError};
use crate::typed::json::JsonError;
use crate::{Claim, Pending, Record};

/// Why [`run`](crate::Scope::run) returned no stored result.
///
/// If the operation ran, its result is in the error:
///
/// ```
/// # use idemkv::{Engine, Fault, Fingerprint, RunError};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// let measures = engine.scope("measures");
/// let measured = measures.run("key", Fingerprint::of("request"), |_claim| Ok::<f64, Fault<String>>(f64::NAN));
/// let Err(RunError::NotStored { result, claim, .. }) = measured else { panic!() };
/// assert!(result?.is_nan()); // JSON has no such number
/// if let Some(claim) = claim {
///     claim.fail("\"not a number\"")?; // what the retries get
/// }
/// # let again = measures.run("key", Fingerprint::of("request"), |_claim| Ok::<f64, Fault<String>>(0.0))?;
/// # assert_eq!(again, Err("not a number".to_owned()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<T, E> {
    /// The key could not be begun. This call ran nothing.
    Begin(BeginError),
    /// Another caller still has the claim, and the time is up. This call ran nothing.
    InFlight(Pending),
    /// The operation returned [`Fault::Retry`](crate::Fault::Retry), and the claim was released.
    Retry(E),
    /// The operation returned [`Fault::Unknown`](crate::Fault::Unknown): the key is interrupted.
    Unknown(E),
    /// The operation returned [`Fault::Retry`](crate::Fault::Retry), and the claim could not be
    /// released. If the claim is still good, `reason` has it ([`EndError::into_claim`]): release
    /// it later. Dropping it interrupts the key.
    NotReleased {
        /// The operation's error.
        error: E,
        /// Why the claim could not be released.
        reason: EndError,
    },
    /// The operation ran, and its result could not be stored.
    NotStored {
        /// The result. The operation has run, but retries will not get this result.
        result: Result<T, E>,
        /// The claim, if nothing was written: end it with a result that can be stored. Dropping
        /// it interrupts the key. `None` if the claim was lost, or a commit failed, whose outcome
        /// is unknown until the file is opened again.
        claim: Option<Box<Claim>>,
        /// Why.
        reason: StoreError,
    },
    /// The operation has run before, and its record is not a result of this type.
    NotReplayed {
        /// The record.
        record: Record,
        /// Why.
        reason: ReplayError,
    },
    /// The task that ran the operation was dropped by its executor, or panicked: the key is
    /// interrupted, unless its result was stored already. If the executor dropped the task before
    /// its first poll, the key is as it was before the call.
    TaskLost,
}

/// Why a result could not be stored.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// JSON can't represent the result, or would alter it.
    Json(JsonError),
    /// The claim could not be completed with it.
    End(ClaimError),
}

/// Why a record is not a result of the requested type.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// Its body was not kept: see [`Record::is_body_kept`].
    NotKept,
    /// Its body is not JSON of that type.
    Json(JsonError),
}

impl<T, E> RunError<T, E> {
    /// Whether the same call can succeed later, unchanged. `false` also if that would run an
    /// operation again that may have had its effect: only the operation can know whether that is
    /// safe.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Begin(error) => error.is_retryable(),
            Self::InFlight(_) | Self::Retry(_) => true,
            Self::Unknown(_)
            | Self::NotReleased { .. }
            | Self::NotStored { .. }
            | Self::NotReplayed { .. }
            | Self::TaskLost => false,
        }
    }
}

impl<T, E> fmt::Display for RunError<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(error) => error.fmt(f),
            Self::InFlight(pending) => write!(
                f,
                "attempt {} at the operation is still running; wait for it, or try again later",
                pending.attempt()
            ),
            Self::Retry(_) => f.write_str("the operation did nothing, and says that it can be tried again"),
            Self::Unknown(_) => f.write_str(
                "the operation failed, and its effect may have happened; find out before it is run again",
            ),
            Self::NotReleased { reason, .. } => write!(
                f,
                "the operation did nothing, but its claim could not be released, so the next attempt may be told of an interruption: {reason}"
            ),
            Self::NotStored { reason, .. } => write!(
                f,
                "the operation has run, but its result could not be stored and comes with this error; act on it, because no retry will get it: {reason}"
            ),
            Self::NotReplayed { reason, .. } => write!(
                f,
                "the operation has run, but its record is not a result of this type; look at the record, and do not run it again: {reason}"
            ),
            Self::TaskLost => f.write_str(
                "the task that ran the operation was dropped or panicked, so its effect may have happened; find out before it is run again",
            ),
        }
    }
}

impl<T: fmt::Debug, E: fmt::Debug> Error for RunError<T, E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Begin(error) => Some(error),
            Self::NotReleased { reason, .. } => Some(reason),
            Self::NotStored { reason, .. } => Some(reason),
            Self::NotReplayed { reason, .. } => Some(reason),
            Self::InFlight(_) | Self::Retry(_) | Self::Unknown(_) | Self::TaskLost => None,
        }
    }
}

impl<T, E> From<BeginError> for RunError<T, E> {
    fn from(error: BeginError) -> Self {
        Self::Begin(error)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "it does not come back from JSON ({error}); change its type"),
            Self::End(error) => error.fmt(f),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::End(error) => Some(error),
        }
    }
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotKept => f.write_str("its body was not kept"),
            Self::Json(error) => {
                write!(f, "its body can't be read ({error}); read it as the type it was stored as")
            }
        }
    }
}

impl Error for ReplayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotKept => None,
            Self::Json(error) => Some(error),
        }
    }
}
