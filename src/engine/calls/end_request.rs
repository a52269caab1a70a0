//! The end that a caller asks for, and the record made from it.

use crate::Timestamp;
use crate::attempt::Attempt;
use crate::engine::handles::completion::Completion;
use crate::record::{Outcome, Record, RecordParts};

/// The arguments of a call that ends a claim.
#[derive(Clone, Copy)]
pub(super) struct EndRequest<'a> {
    pub(super) outcome: Outcome,
    pub(super) body: &'a [u8],
    pub(super) completion: Completion,
}

impl<'a> EndRequest<'a> {
    pub(super) fn new(outcome: Outcome, body: &'a [u8]) -> Self {
        Self { outcome, body, completion: Completion::new() }
    }

    /// The body to keep.
    pub(super) fn kept(&self) -> &'a [u8] {
        if self.completion.keeps_body() { self.body } else { &[] }
    }

    /// The record for this end. Its times were checked.
    pub(super) fn record(&self, attempt: &Attempt, completed: Timestamp) -> Record {
        let retention = self.completion.retention(attempt.retention).unwrap_or(attempt.retention);
        let parts = RecordParts {
            digest: attempt.digest,
            scope: attempt.scope(),
            key: attempt.key(),
            fingerprint: attempt.fingerprint,
            fence: attempt.fence,
            attempt: attempt.number,
            outcome: self.outcome,
            started: attempt.started,
            completed,
            lifetime: retention.lifetime(completed),
            body_kept: self.completion.keeps_body(),
            body: self.kept(),
        };
        Record::new(&parts, None)
    }
}
