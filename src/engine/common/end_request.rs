//! The end that a caller asks for, and the record made from it.

use super::completion::Completion;
use crate::Timestamp;
use crate::attempt::Attempt;
use crate::record::{Outcome, Record, RecordParts};
use crate::state::Lifetime;

/// How a caller ends a claim.
#[derive(Clone, Copy)]
pub(crate) enum EndRequest<'a> {
    /// With a result, which is stored.
    Store(NewResult<'a>),
    /// Without: this attempt did nothing.
    Release,
    /// Without: nothing was done with the claim, and the key becomes what it was before the grant.
    PutBack,
}

impl<'a> EndRequest<'a> {
    pub(crate) fn store(outcome: Outcome, body: &'a [u8], completion: Completion) -> Self {
        Self::Store(NewResult { outcome, body, completion })
    }
}

/// The result of an operation, to be stored.
#[derive(Clone, Copy)]
pub(crate) struct NewResult<'a> {
    pub(crate) outcome: Outcome,
    pub(crate) body: &'a [u8],
    pub(crate) completion: Completion,
}

impl<'a> NewResult<'a> {
    /// The body to keep.
    pub(crate) fn kept(&self) -> &'a [u8] {
        if self.completion.keeps_body() { self.body } else { &[] }
    }

    /// The record for this end. Its times were checked.
    pub(crate) fn record(&self, attempt: &Attempt, completed: Timestamp) -> Record {
        let retention = self.completion.retention(attempt.retention).unwrap_or(attempt.retention);
        let lifetime = retention.lifetime(completed);
        record_of(attempt, self.outcome, (completed, lifetime), (self.completion.keeps_body(), self.kept()))
    }
}

/// The record of an attempt that ended with this outcome and body, at this time.
pub(crate) fn record_of(
    attempt: &Attempt,
    outcome: Outcome,
    (completed, lifetime): (Timestamp, Lifetime),
    (body_kept, body): (bool, &[u8]),
) -> Record {
    let parts = RecordParts {
        digest: attempt.digest,
        scope: attempt.scope(),
        key: attempt.key(),
        fingerprint: attempt.fingerprint,
        fence: attempt.fence,
        attempt: attempt.number,
        outcome,
        started: attempt.started,
        completed,
        lifetime,
        body_kept,
        body,
    };
    Record::new(&parts, None)
}
