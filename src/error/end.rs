//! Why a claim could not be ended.

use std::error::Error;
use std::fmt;

use super::ClaimError;
use crate::Claim;

/// Why a claim could not be ended. If nothing was written, the error returns the claim.
pub struct EndError {
    reason: ClaimError,
    claim: Option<Box<Claim>>,
}

impl EndError {
    pub(crate) fn new(reason: ClaimError, claim: Option<Claim>) -> Self {
        Self { reason, claim: claim.map(Box::new) }
    }

    #[cfg(feature = "serde")]
    pub(crate) fn into_parts(self) -> (ClaimError, Option<Box<Claim>>) {
        (self.reason, self.claim)
    }

    /// What went wrong.
    #[must_use]
    pub fn reason(&self) -> &ClaimError {
        &self.reason
    }

    /// The claim, if it is still good: nothing was written, and it can be ended again, with
    /// another body or later. `None` after a failed commit, whose outcome is unknown until the
    /// file is opened again. Of a shared store it also comes back if the outcome is unknown: to
    /// end it again in the same way is safe, and finds out.
    #[must_use]
    pub fn into_claim(self) -> Option<Claim> {
        self.claim.map(|claim| *claim)
    }

    /// The claim, if a shorter body may be stored: a shared store that is away takes none.
    #[cfg(any(feature = "http", feature = "queue"))]
    pub(crate) fn for_less(self) -> Result<Claim, ClaimError> {
        #[cfg(feature = "postgres")]
        if let ClaimError::Commit(super::CommitError::Shared(error)) = &self.reason
            && error.is_away()
        {
            return Err(self.reason);
        }
        self.claim.map(|claim| *claim).ok_or(self.reason)
    }

    /// Whether ending the claim again later can succeed, with no change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.reason.is_retryable()
    }
}

impl fmt::Display for EndError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl Error for EndError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.reason)
    }
}

/// The sentence, because `unwrap` prints it.
impl fmt::Debug for EndError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = if self.claim.is_some() { "comes back" } else { "is gone" };
        write!(f, "EndError({self}; the claim {claim})")
    }
}
