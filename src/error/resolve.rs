//! Why a key could not be resolved.

use std::error::Error;
use std::fmt;

use super::BeginError;
use crate::Interruption;
use crate::status::Status;

/// Why an interrupted key could not be resolved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ResolveError {
    /// The key is not interrupted; this is its state.
    NotInterrupted(Box<Status>),
    /// The key is interrupted, but not by the attempt that was named: by this one.
    AnotherAttempt(Interruption),
    /// No claim was granted.
    Begin(BeginError),
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInterrupted(_) => {
                f.write_str("the key is not interrupted, so there is nothing to resolve; check its state")
            }
            Self::AnotherAttempt(now) => {
                write!(f, "another attempt on the key was interrupted since ({now}); look at the key again")
            }
            Self::Begin(error) => error.fmt(f),
        }
    }
}

impl Error for ResolveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotInterrupted(_) | Self::AnotherAttempt(_) => None,
            Self::Begin(error) => Some(error),
        }
    }
}

impl From<BeginError> for ResolveError {
    fn from(error: BeginError) -> Self {
        Self::Begin(error)
    }
}
