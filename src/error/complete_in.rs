//! Why a claim could not be completed together with an effect.

use std::error::Error;
use std::fmt;

use super::EndError;
use crate::Claim;

/// Why a claim was not completed in a transaction. Nothing was written, unless the commit failed:
/// then the next opening decides whether it counts.
#[derive(Debug)]
#[non_exhaustive]
pub enum CompleteInError<E> {
    /// The closure returned this error. The claim is still good.
    Work {
        /// The closure's error.
        error: E,
        /// The claim.
        claim: Box<Claim>,
    },
    /// The claim could not be completed.
    End(EndError),
}

impl<E: fmt::Display> fmt::Display for CompleteInError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work { error, .. } => write!(f, "nothing was written, because of this: {error}"),
            Self::End(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> Error for CompleteInError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Work { .. } => None,
            Self::End(error) => Some(error),
        }
    }
}

impl<E> From<EndError> for CompleteInError<E> {
    fn from(error: EndError) -> Self {
        Self::End(error)
    }
}
