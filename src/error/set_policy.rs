//! Why a policy could not be declared.

use std::error::Error;
use std::fmt;

use super::{CommitError, KeyError, OptionError};

/// Why a scope could not be given a policy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SetPolicyError {
    /// The scope's name is too long.
    Name(KeyError),
    /// A part of the policy is out of range, or contradicts another.
    Policy(OptionError),
    /// As many scopes have their own policies as the limit allows.
    TooManyScopes {
        /// The limit.
        max: usize,
    },
    /// The commit did not happen, or is not known to have happened.
    Commit(CommitError),
}

impl fmt::Display for SetPolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Policy(error) => error.fmt(f),
            Self::TooManyScopes { max } => {
                write!(
                    f,
                    "{max} scopes have policies of their own, which is the limit; use the default policy"
                )
            }
            Self::Commit(error) => error.fmt(f),
        }
    }
}

impl Error for SetPolicyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Name(error) => Some(error),
            Self::Policy(error) => Some(error),
            Self::TooManyScopes { .. } => None,
            Self::Commit(error) => Some(error),
        }
    }
}

impl From<OptionError> for SetPolicyError {
    fn from(error: OptionError) -> Self {
        Self::Policy(error)
    }
}

impl From<CommitError> for SetPolicyError {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}
