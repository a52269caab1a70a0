//! The rows of an attempt, in the log and in the store.

use std::time::Duration;

use super::interruption::{AttemptInfo, Earlier};
use super::progress::{Budget, Progress};
use super::{ALIVE, Attempt, AttemptParts, HandOver};
use crate::clock::millis;
use crate::codec::{ClaimRow, EarlierRow, IntentRow};
use crate::key::Digest;
use crate::record::retention::Retention;
use crate::state::Fence;
use crate::sync::{Arc, Ordering};
use crate::{Fingerprint, Timestamp};

impl Attempt {
    /// The attempt of an intent. Its names were checked when the row was decoded.
    pub(crate) fn from_intent(row: &IntentRow<'_>) -> Self {
        Self::from_rows(row, None)
    }

    /// The attempt of a row of the store. Its names were checked when the row was decoded.
    pub(crate) fn from_row(row: &ClaimRow<'_>, budget: &Arc<Budget>) -> Self {
        let attempt = Self::from_rows(&row.intent, row.progress.map(|bytes| Progress::new(bytes, budget)));
        if let Some(row) = row.detached {
            attempt.detach(HandOver::from_row(row));
        }
        attempt.interrupted_ms.store(row.interrupted_ms.unwrap_or(ALIVE), Ordering::Release);
        attempt.returned.store(row.returned, Ordering::Release);
        attempt
    }

    fn from_rows(row: &IntentRow<'_>, progress: Option<Progress>) -> Self {
        let earlier = row.earlier.map(|earlier| Earlier {
            info: AttemptInfo {
                fence: Fence::new(earlier.fence),
                attempt: earlier.attempt,
                started: Timestamp::from_millis(earlier.started_ms),
            },
            interrupted_at: Timestamp::from_millis(earlier.interrupted_ms),
        });
        let attempt = Self::new(AttemptParts {
            digest: Digest::from_u128(row.digest),
            scope: row.scope,
            key: row.key,
            fence: Fence::new(row.fence),
            number: row.attempt,
            fingerprint: Fingerprint::from_bytes(row.fingerprint),
            started: Timestamp::from_millis(row.started_ms),
            retention: Retention::from_millis(row.ttl_ms, row.remembered_ms),
            lease: row.lease_ms.map(Duration::from_millis),
            unresolved_ttl: row.unresolved_ms.map(Duration::from_millis),
            earlier,
            progress,
            replaced: None,
            undelivered_bytes: 0,
        });
        attempt.set_logged();
        attempt
    }

    /// Its row in the log: as it was granted.
    pub(crate) fn intent(&self) -> IntentRow<'_> {
        IntentRow {
            digest: self.digest.as_u128(),
            scope: self.scope(),
            key: self.key(),
            fingerprint: *self.fingerprint.as_bytes(),
            fence: self.fence.get(),
            attempt: self.number,
            started_ms: self.started.as_millis(),
            ttl_ms: self.retention.ttl_ms(),
            remembered_ms: self.retention.remembered_ms(),
            earlier: self.earlier.map(|earlier| EarlierRow {
                fence: earlier.info.fence.get(),
                attempt: earlier.info.attempt,
                started_ms: earlier.info.started.as_millis(),
                interrupted_ms: earlier.interrupted_at.as_millis(),
            }),
            lease_ms: self.lease.map(millis),
            unresolved_ms: self.remembered_for().map(millis),
        }
    }

    /// Its row in the store; the caller passes the progress, which it has already read.
    pub(crate) fn row<'a>(&'a self, progress: Option<&'a Progress>) -> ClaimRow<'a> {
        // Before the intent, which says for how long it is remembered: see `interrupt_since`.
        let interrupted = self.interrupted();
        ClaimRow {
            intent: self.intent(),
            interrupted_ms: interrupted.map(Timestamp::as_millis),
            returned: self.is_returned(),
            detached: self.detached().map(|hand_over| (hand_over.until.as_millis(), hand_over.opening)),
            progress: progress.map(|progress| &**progress),
        }
    }
}
