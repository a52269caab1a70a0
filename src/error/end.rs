//! Why a claim could not be ended.

use std::error::Error;
use std::fmt;

use super::ClaimError;
use crate::Claim;

/// Why a claim could not be ended. If nothing was written, the error returns the claim.
pub struct EndError(Box<Parts>);

/// Boxed, so that the results of ends that succeed stay small.
struct Parts {
    reason: ClaimError,
    claim: Option<Box<Claim>>,
}

impl EndError {
    pub(crate) fn new(reason: ClaimError, claim: Option<Claim>) -> Self {
        Self(Box::new(Parts { reason, claim: claim.map(Box::new) }))
    }

    #[cfg(feature = "serde")]
    pub(crate) fn into_parts(self) -> (ClaimError, Option<Box<Claim>>) {
        (self.0.reason, self.0.claim)
    }

    /// What went wrong.
    #[must_use]
    pub fn reason(&self) -> &ClaimError {
        &self.0.reason
    }

    /// The claim, if it is still good: nothing was written, and it can be ended again, with
    /// another body or later. `None` after a failed commit, whose outcome is unknown until the
    /// file is opened again. Of a shared store it also comes back if the outcome is unknown: to
    /// end it again in the same way is safe, and finds out. If another caller has used the key since,
    /// nothing can find out, and it does not come back.
    #[must_use]
    pub fn into_claim(self) -> Option<Claim> {
        self.0.claim.map(|claim| *claim)
    }

    /// The claim, if a shorter body may be stored: a shared store that is away takes none.
    #[cfg(any(feature = "http", feature = "queue"))]
    pub(crate) fn for_less(self) -> Result<Claim, ClaimError> {
        let Parts { reason, claim } = *self.0;
        #[cfg(feature = "postgres")]
        if let ClaimError::Commit(super::CommitError::Shared(error)) = &reason
            && error.is_away()
        {
            return Err(reason);
        }
        claim.map(|claim| *claim).ok_or(reason)
    }

    /// Whether ending the claim again later can succeed, with no change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.claim.is_some() && self.0.reason.is_retryable()
    }
}

impl fmt::Display for EndError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.reason.fmt(f)
    }
}

impl Error for EndError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0.reason)
    }
}

/// The sentence, because `unwrap` prints it.
impl fmt::Debug for EndError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = if self.0.claim.is_some() { "comes back" } else { "is gone" };
        write!(f, "EndError({self}; the claim {claim})")
    }
}
