//! Why a begin gave no answer.

use std::error::Error;
use std::fmt;

#[cfg(feature = "postgres")]
use super::SharedError;
use super::{
    Busy, CLOSED, CommitError, Damage, Failure, INSIDE_CALLBACK, INSIDE_TRANSACTION, IoFailure, KeyError,
    ReadError, too_long_a_batch,
};
use crate::Interruption;
use crate::record::tombstone::Tombstone;

/// Why [`begin`](crate::Scope::begin) gave no answer. The operation was not granted to the caller.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BeginError {
    /// The key can't be used.
    Key(KeyError),
    /// The key was used before, with another fingerprint: a client sent two requests under one
    /// key.
    KeyReused,
    /// The last attempt ended without an outcome, and the scope's policy grants no further one.
    /// Find out whether its effect happened, then [`resolve`](crate::Scope::resolve) or
    /// [`forget`](crate::Scope::forget) the key.
    Unresolved(Interruption),
    /// A waker, or other code that the engine calls, made a blocking call, which would wait for
    /// its own thread. Nothing was granted.
    InsideCallback,
    /// The calling operation itself holds the claim that it would wait for: it was called by
    /// [`Scope::run`](crate::Scope::run) with this very key, or it is the work of a
    /// [`Claim::complete_in`](crate::Claim::complete_in) on it.
    OwnKey,
    /// The work of a [`Claim::complete_in`](crate::Claim::complete_in) would wait for another
    /// caller's claim, whose holder may itself wait for the end of that work; or for log space
    /// that only a checkpoint could free. Nothing was granted.
    InsideTransaction,
    /// A request before this one in the batch asks for the same, and was granted the claim. The
    /// answer to that request is for this one too.
    DuplicateInBatch {
        /// The position of that request in the batch.
        first: usize,
    },
    /// The batch has too many requests; none of them was begun.
    BatchTooLong {
        /// Requests in it.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The operation has run, but its result is no longer kept: the retry came too late. See
    /// [`Options::tombstone_ttl`](crate::Options::tombstone_ttl).
    Expired(Tombstone),
    /// A limit held for too long; trying again later can succeed.
    Busy(Busy),
    /// The engine stopped granting claims; records known to be durable are still replayed.
    Failed(Failure),
    /// The engine is closed.
    Closed,
    /// The key's record on disk is damaged.
    Damaged(Damage),
    /// The key's record on disk could not be read.
    Io(IoFailure),
    /// The shared store gave no answer. Nothing was granted.
    #[cfg(feature = "postgres")]
    Shared(SharedError),
}

impl BeginError {
    /// Whether the same call can succeed later, with no change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        #[cfg(feature = "postgres")]
        if let Self::Shared(error) = self {
            return error.is_retryable();
        }
        matches!(self, Self::Busy(_))
    }
}

impl fmt::Display for BeginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => error.fmt(f),
            Self::KeyReused => f.write_str(
                "the idempotency key was used for another request; repeat the first request unchanged, and send a new key \
                 with a new operation only",
            ),
            Self::Unresolved(interruption) => write!(
                f,
                "the operation was interrupted, so its effect may have happened ({interruption}); \
                 find out, then say so with `resolve`"
            ),
            Self::InsideCallback => f.write_str(INSIDE_CALLBACK),
            Self::OwnKey => f.write_str(
                "the operation would wait for its own claim, and so for ever; use the claim that it has, or another key for a part of it",
            ),
            Self::InsideTransaction => f.write_str(INSIDE_TRANSACTION),
            Self::DuplicateInBatch { first } => write!(
                f,
                "request {first} of the batch has the same key and was granted the claim; answer this request with its result"
            ),
            Self::BatchTooLong { len, max } => too_long_a_batch(f, *len, *max),
            Self::Expired(tombstone) => write!(
                f,
                "the operation has run and its result is no longer kept ({tombstone}); \
                 look for its effect, and send a new key only if it is to run again"
            ),
            Self::Busy(busy) => busy.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
            Self::Closed => f.write_str(CLOSED),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Io(failure) => failure.fmt(f),
            #[cfg(feature = "postgres")]
            Self::Shared(error) => error.fmt(f),
        }
    }
}

impl Error for BeginError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Key(error) => Some(error),
            Self::KeyReused
            | Self::Unresolved(_)
            | Self::OwnKey
            | Self::InsideCallback
            | Self::InsideTransaction
            | Self::DuplicateInBatch { .. }
            | Self::Expired(_)
            | Self::BatchTooLong { .. }
            | Self::Closed => None,
            Self::Busy(busy) => Some(busy),
            Self::Failed(failure) => Some(failure),
            Self::Damaged(damage) => Some(damage),
            Self::Io(failure) => Some(failure),
            #[cfg(feature = "postgres")]
            Self::Shared(error) => Some(error),
        }
    }
}

impl From<KeyError> for BeginError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl From<ReadError> for BeginError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Key(error) => Self::Key(error),
            ReadError::Closed => Self::Closed,
            ReadError::Forked => Self::Failed(Failure::Forked),
            #[cfg(feature = "postgres")]
            ReadError::NoFile => Self::Failed(Failure::NoFile),
            ReadError::Damaged(damage) => Self::Damaged(damage),
            ReadError::Io(failure) => Self::Io(failure),
            #[cfg(feature = "postgres")]
            ReadError::InsideCallback => Self::InsideCallback,
            #[cfg(feature = "postgres")]
            ReadError::Shared(error) => Self::Shared(error),
        }
    }
}

impl From<CommitError> for BeginError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Busy(busy) => Self::Busy(busy),
            CommitError::Failed(failure) => Self::Failed(failure),
            CommitError::Closed => Self::Closed,
            CommitError::InsideCallback => Self::InsideCallback,
            CommitError::InsideTransaction => Self::InsideTransaction,
            #[cfg(feature = "postgres")]
            CommitError::Shared(error) => Self::Shared(error),
        }
    }
}

#[cfg(feature = "postgres")]
impl From<SharedError> for BeginError {
    fn from(error: SharedError) -> Self {
        Self::Shared(error)
    }
}
