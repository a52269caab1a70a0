//! An entry of the log, as the engine sees it.

use crate::Timestamp;
use crate::attempt::progress::Progress;
use crate::attempt::{Attempt, HandOver};
use crate::key::Digest;
use crate::policy::Policy;
use crate::record::Record;
use crate::state::Fence;
use crate::sync::Arc;

/// An entry of the log, as the engine sees it.
#[derive(Debug)]
pub(crate) enum Op {
    /// A claim was granted.
    Granted(Arc<Attempt>),
    /// A claim was completed or failed.
    Completed(Arc<Attempt>, Record),
    /// A claim was released, or what was known of a key forgotten; a forgotten record would have been remembered until then.
    Vacated(Arc<Attempt>, Option<Timestamp>),
    /// A claim was released that followed an interruption, which stands.
    Returned(Arc<Attempt>, Timestamp),
    /// The progress of a claim was saved, or the claim handed over as a token; the attempt knows.
    Noted(Arc<Attempt>),
    /// The progress of a claim was saved, in a log that is replayed.
    Progress(Digest, Fence, Progress),
    /// A claim was handed over as a token, in a log that is replayed.
    Detached(Digest, Fence, HandOver),
    /// A scope was given a policy. Boxed, so that all the others are no larger than they need be.
    PolicySet(Box<(Box<[u8]>, Policy)>),
    /// Time went by.
    Mark,
}

impl Op {
    pub(super) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Granted(attempt)
            | Self::Completed(attempt, _)
            | Self::Vacated(attempt, _)
            | Self::Returned(attempt, _)
            | Self::Noted(attempt) => Some(attempt.digest),
            Self::Progress(digest, ..) | Self::Detached(digest, ..) => Some(*digest),
            Self::PolicySet(_) | Self::Mark => None,
        }
    }
}
