//! What code of others may call with, on a thread that others wait for: a waker or an observer.

use idemkv::{BeginError, Claim, ClaimError, CommitError, Engine, Pending, Scope};

/// What it has to call with.
pub struct Tools {
    pub engine: Engine,
    pub scope: Scope,
    pub claim: Claim,
    pub pending: Pending,
}

pub type Act = fn(Tools);

pub fn is_inside(error: &BeginError) -> bool {
    matches!(error, BeginError::InsideCallback)
}

pub fn is_refused(error: &ClaimError) -> bool {
    matches!(error, ClaimError::Commit(CommitError::InsideCallback))
}
