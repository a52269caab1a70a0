//! Why a shared store gave no answer.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::StoreFailure;

/// Why a shared store gave no answer. Only calls on an engine over a shared store have this error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SharedError {
    /// The store gave no answer in time. Nothing was granted, ended or changed, and will not be.
    Unavailable(StoreFailure),
    /// The store's answer got lost, and could not be found out in time. The change may have
    /// happened. The same call again is safe, and finds out. No begin has this error.
    Unknown(StoreFailure),
    /// The session of this process is not known to live, and could not be renewed in this time.
    /// Nothing was granted.
    NoSession(Duration),
    /// Another process connected with this one's instance name, which ended the session and the
    /// claims of this one. This engine grants nothing any more; connect again.
    Replaced,
    /// The tables are not those that this engine connected to: they were made anew, or are from a
    /// backup of another store. This engine grants nothing any more; connect again.
    OtherStore,
    /// As many calls wait for the store as may. Nothing was done.
    Busy {
        /// The limit.
        max: usize,
    },
}

impl SharedError {
    /// Whether the same call can succeed later, with no change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Unknown(_) | Self::NoSession(_) | Self::Busy { .. } => true,
            Self::Replaced | Self::OtherStore => false,
        }
    }
}

#[cfg(any(feature = "http", feature = "queue"))]
impl SharedError {
    /// Whether the store gave no answer, which is no word on what it was asked to store.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Self::Unavailable(failure) => failure.kind() != super::FailureKind::Full,
            Self::Unknown(_) | Self::NoSession(_) | Self::Replaced | Self::OtherStore | Self::Busy { .. } => {
                true
            }
        }
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(failure) => write!(f, "nothing was done: {failure}"),
            Self::Unknown(failure) => {
                write!(f, "whether it was done is unknown, and the same call again finds out: {failure}")
            }
            Self::NoSession(waited) => write!(
                f,
                "the session of this process could not be renewed within {} ms; look at the store",
                waited.as_millis()
            ),
            Self::Replaced => f.write_str(
                "another process connected with the instance name of this one; give each process its own, and connect again",
            ),
            Self::OtherStore => f.write_str(
                "the tables are not those that this process connected to: they were made anew, or restored from another store; connect again",
            ),
            Self::Busy { max } => write!(f, "{max} calls wait for the store, which is the limit; try later"),
        }
    }
}

impl Error for SharedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unavailable(failure) | Self::Unknown(failure) => Some(failure),
            Self::NoSession(_) | Self::Replaced | Self::OtherStore | Self::Busy { .. } => None,
        }
    }
}
