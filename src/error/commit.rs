//! Why a commit did not happen.

use std::error::Error;
use std::fmt;

#[cfg(feature = "postgres")]
use super::SharedError;
use super::{Busy, CLOSED, Failure, INSIDE_CALLBACK, INSIDE_TRANSACTION};

/// Why a commit did not happen, or is not known to have happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// A limit held for too long; nothing was written.
    Busy(Busy),
    /// A commit failed: whether this one is on disk is unknown until the file is opened again.
    Failed(Failure),
    /// The engine is closed; nothing was written.
    Closed,
    /// A waker, or other code that the engine calls, made a blocking call, which would wait for
    /// its own thread. Nothing was written.
    InsideCallback,
    /// The work of a [`Claim::complete_in`](crate::Claim::complete_in) needs log space that only a
    /// checkpoint could free, and no checkpoint comes before the work is over. Nothing was
    /// written.
    InsideTransaction,
    /// The shared store gave no answer. [`SharedError`] says whether the change may have happened.
    #[cfg(feature = "postgres")]
    Shared(SharedError),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(busy) => busy.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
            Self::Closed => f.write_str(CLOSED),
            Self::InsideCallback => f.write_str(INSIDE_CALLBACK),
            Self::InsideTransaction => f.write_str(INSIDE_TRANSACTION),
            #[cfg(feature = "postgres")]
            Self::Shared(error) => error.fmt(f),
        }
    }
}

impl Error for CommitError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Busy(busy) => Some(busy),
            Self::Failed(failure) => Some(failure),
            Self::Closed | Self::InsideCallback | Self::InsideTransaction => None,
            #[cfg(feature = "postgres")]
            Self::Shared(error) => Some(error),
        }
    }
}

#[cfg(feature = "postgres")]
impl From<SharedError> for CommitError {
    fn from(error: SharedError) -> Self {
        Self::Shared(error)
    }
}
