//! `LogRecord`: one change of a key or a scope, as it is written to the log, applied to the index,
//! and replayed.

use crate::Timestamp;
use crate::attempt::progress::{Budget, Progress};
use crate::attempt::{Attempt, AttemptParts, HandOver};
use crate::codec::{
    BadBytes, CompletionRow, DetachedRow, EncodedEntry, Entry, IntentRow, ProgressRow, ScopeRow, VacatedRow,
    check_names,
};
use crate::key::Digest;
use crate::policy::Policy;
use crate::record::Record;
use crate::state::Fence;
use crate::sync::Arc;

/// One change of a key or a scope. The log has its [encoding](Self::encoded); the publisher
/// applies it, live and in replay.
#[derive(Debug)]
pub(crate) enum LogRecord {
    /// A claim was granted.
    Granted(Arc<Attempt>),
    /// A claim was completed or failed.
    Completed(Arc<Attempt>, Record),
    /// A claim was released, or a record or interruption forgotten; a forgotten record would have
    /// been remembered until then.
    Vacated(Arc<Attempt>, Option<Timestamp>),
    /// A claim that followed an interruption was released, withdrawn or put back. The interruption
    /// stands. After a release it counts from then.
    Returned(Arc<Attempt>, Timestamp),
    /// The progress of a claim was saved.
    Progress(NotedClaim, Progress),
    /// A claim was handed over as a token. Boxed, so that the other variants stay small: each is
    /// moved several times on its way through the log.
    Detached(NotedClaim, Box<HandOver>),
    /// A scope was given a policy. Boxed for the same reason.
    PolicySet(Box<(Box<[u8]>, Policy)>),
    /// Time went by.
    Mark,
}

/// The claim on which a record notes something.
#[derive(Debug)]
pub(crate) enum NotedClaim {
    /// The attempt was changed when the record was queued: the next claim of the key inherits the
    /// change, and its grant may be queued before this record is applied.
    Live(Arc<Attempt>),
    /// The record comes from the log. The attempt changes when the record is applied.
    Replayed(Box<(Digest, Fence)>),
}

impl NotedClaim {
    fn digest(&self) -> Digest {
        match self {
            Self::Live(attempt) => attempt.digest,
            Self::Replayed(of) => of.0,
        }
    }

    fn fence(&self) -> Fence {
        match self {
            Self::Live(attempt) => attempt.fence,
            Self::Replayed(of) => of.1,
        }
    }
}

impl LogRecord {
    /// The end of a claim that was not used. The interruption stands, and counts as before.
    pub(in crate::engine) fn returned_as_before(before: Attempt) -> Self {
        let since = before.interrupted().unwrap_or_default();
        Self::Returned(Arc::new(before), since)
    }

    /// The key that it changes, if it changes one.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Granted(attempt)
            | Self::Completed(attempt, _)
            | Self::Vacated(attempt, _)
            | Self::Returned(attempt, _) => Some(attempt.digest),
            Self::Progress(claim, _) | Self::Detached(claim, _) => Some(claim.digest()),
            Self::PolicySet(_) | Self::Mark => None,
        }
    }

    /// Its bytes in the log.
    pub(in crate::engine) fn encoded(&self) -> EncodedEntry {
        match self {
            Self::Granted(attempt) => Entry::Intent(attempt.intent()),
            Self::Completed(_, record) => {
                Entry::Completion(record.digest().as_u128(), CompletionRow::from(record))
            }
            Self::Vacated(attempt, forgotten_until) => Entry::Vacated(VacatedRow {
                digest: attempt.digest.as_u128(),
                fence: attempt.fence.get(),
                forgotten_until_ms: forgotten_until.map(Timestamp::as_millis),
            }),
            Self::Returned(attempt, since) => Entry::Returned(attempt.intent(), since.as_millis()),
            Self::Progress(claim, progress) => Entry::Progress(ProgressRow {
                digest: claim.digest().as_u128(),
                fence: claim.fence().get(),
                bytes: progress,
            }),
            Self::Detached(claim, hand_over) => Entry::Detached(DetachedRow {
                digest: claim.digest().as_u128(),
                fence: claim.fence().get(),
                until_ms: hand_over.until.as_millis(),
                opening: hand_over.opening,
            }),
            Self::PolicySet(declared) => {
                Entry::PolicySet(ScopeRow { name: &declared.0, policy: declared.1.row() })
            }
            Self::Mark => Entry::Mark,
        }
        .encoded()
    }

    /// Decodes an entry of the log.
    pub(in crate::engine) fn replayed(entry: Entry<'_>, budget: &Arc<Budget>) -> Result<Self, BadBytes> {
        let noted =
            |digest, fence| NotedClaim::Replayed(Box::new((Digest::from_u128(digest), Fence::new(fence))));
        Ok(match entry {
            Entry::Intent(row) => Self::Granted(claim_of(&row)?),
            Entry::Returned(row, since) => Self::Returned(claim_of(&row)?, Timestamp::from_millis(since)),
            Entry::Completion(digest, row) => {
                let record = Record::new(&row.parts(Digest::from_u128(digest))?, None);
                let parts = AttemptParts::bare(record.digest(), record.fence());
                Self::Completed(Arc::new(Attempt::new(parts)), record)
            }
            Entry::Vacated(row) => {
                let parts = AttemptParts::bare(Digest::from_u128(row.digest), Fence::new(row.fence));
                Self::Vacated(
                    Arc::new(Attempt::new(parts)),
                    row.forgotten_until_ms.map(Timestamp::from_millis),
                )
            }
            Entry::Mark => Self::Mark,
            Entry::Progress(row) => {
                Self::Progress(noted(row.digest, row.fence), Progress::new(row.bytes, budget))
            }
            Entry::Detached(row) => {
                let hand_over = HandOver::from_row((row.until_ms, row.opening));
                Self::Detached(noted(row.digest, row.fence), Box::new(hand_over))
            }
            Entry::PolicySet(row) => {
                Self::PolicySet(Box::new((row.name.into(), Policy::from_row(&row.policy)?)))
            }
        })
    }
}

fn claim_of(row: &IntentRow<'_>) -> Result<Arc<Attempt>, BadBytes> {
    check_names(row.scope, row.key)?;
    Ok(Arc::new(Attempt::from_intent(row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_small_for_it_is_moved_often() {
        assert!(size_of::<LogRecord>() <= 32);
    }
}
