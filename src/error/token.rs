//! `TokenError`: why a claim could not be resumed from its token.

use std::error::Error;
use std::fmt;

use super::BeginError;
use crate::status::Status;

/// Why a claim could not be resumed from its token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// These bytes are not a token, or they were altered.
    Malformed,
    /// Another file granted the claim.
    OtherFile,
    /// The claim belongs to another scope.
    OtherScope,
    /// The claim is not the current one for its key: it has ended, or its lease ran out. This is
    /// the key's state now.
    Superseded(Box<Status>),
    /// Another caller already holds the claim; on a shared store, in this process or in another.
    Held,
    /// The engine stopped granting claims, or is closed.
    Begin(BeginError),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("these bytes are not a token; pass them on as they were given"),
            Self::OtherFile => {
                f.write_str("the token is of another file; resume the claim where it was granted")
            }
            Self::OtherScope => f.write_str("the token is of another scope; resume the claim in its own"),
            Self::Superseded(_) => f.write_str(
                "the claim has ended or its lease has run out; find out what became of the operation before acting",
            ),
            Self::Held => f.write_str("the claim is held already; one holder at a time can resume a token"),
            Self::Begin(error) => error.fmt(f),
        }
    }
}

impl Error for TokenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Malformed | Self::OtherFile | Self::OtherScope | Self::Superseded(_) | Self::Held => None,
            Self::Begin(error) => Some(error),
        }
    }
}

impl From<BeginError> for TokenError {
    fn from(error: BeginError) -> Self {
        Self::Begin(error)
    }
}
