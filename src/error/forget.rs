//! Why a key could not be forgotten.

use std::error::Error;
use std::fmt;

use super::{CommitError, ReadError};

/// Why a key could not be forgotten.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ForgetError {
    /// A claim on the key is in flight; end it first.
    InFlight,
    /// The key's record could not be read.
    Read(ReadError),
    /// The commit did not happen, or is not known to have happened.
    Commit(CommitError),
}

impl fmt::Display for ForgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFlight => {
                f.write_str("the key is in flight and can't be forgotten; wait until its claim has ended")
            }
            Self::Read(error) => error.fmt(f),
            Self::Commit(error) => error.fmt(f),
        }
    }
}

impl Error for ForgetError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::InFlight => None,
            Self::Read(error) => Some(error),
            Self::Commit(error) => Some(error),
        }
    }
}

impl From<ReadError> for ForgetError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<CommitError> for ForgetError {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}
