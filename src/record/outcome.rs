//! How an operation ended.

use std::fmt;

/// How an operation ended. Both kinds are replayed alike. There will be no third variant: without
/// an outcome there is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Outcome {
    /// [`Claim::complete`](crate::Claim::complete).
    Success,
    /// [`Claim::fail`](crate::Claim::fail): a failure that a retry must get again.
    Failure,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::Failure => "failure",
        })
    }
}
