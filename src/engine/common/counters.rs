//! Counters of an engine.

use crate::attempt::Attempt;
use crate::error::{BeginError, Busy};
use crate::observer::EndKind;
use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// Counters that belong to no other part.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Calls that wait for room in the log: a gauge.
    pub(crate) waiting_for_room: AtomicUsize,
    pub(crate) fresh: AtomicU64,
    pub(crate) rerun: AtomicU64,
    pub(crate) reused: AtomicU64,
    pub(crate) too_late: AtomicU64,
    pub(crate) unresolved: AtomicU64,
    pub(crate) busy_queue_full: AtomicU64,
    pub(crate) busy_claims: AtomicU64,
    pub(crate) busy_waiters: AtomicU64,
    pub(crate) busy_progress_bytes: AtomicU64,
    pub(crate) busy_disk_full: AtomicU64,
    pub(crate) busy_file_not_ready: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) resolved: AtomicU64,
    pub(crate) token_claims: AtomicU64,
    pub(crate) handed_over: AtomicU64,
    pub(crate) completed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) lease_expired: AtomicU64,
    pub(crate) found_interrupted: AtomicU64,
    pub(crate) superseded: AtomicU64,
    pub(crate) progress_saved: AtomicU64,
    pub(crate) forgotten: AtomicU64,
    pub(crate) policies_set: AtomicU64,
    pub(crate) backups: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) reclaimed_blocks: AtomicU64,
}

impl Counters {
    /// The counters of an engine that was just opened with so many claims that still stand.
    pub(crate) fn after_opening(standing: usize) -> Self {
        Self { token_claims: AtomicU64::new(standing as u64), ..Self::default() }
    }

    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn count(counter: &AtomicU64) {
        Self::add(counter, 1);
    }

    /// Counts a claim that its caller gets.
    pub(crate) fn count_grant(&self, attempt: &Attempt, resolves: bool) {
        if resolves {
            Self::count(&self.resolved);
        } else {
            Self::count(&self.fresh);
            if attempt.earlier.is_some() {
                Self::count(&self.rerun);
            }
        }
    }

    /// Counts an end that the log, or the store, has.
    pub(crate) fn count_end(&self, end: EndKind) {
        Self::count(match end {
            EndKind::Completed => &self.completed,
            EndKind::Failed => &self.failed,
            EndKind::Released | EndKind::PutBack => &self.released,
        });
    }

    /// Counts a begin that was refused.
    pub(crate) fn count_refusal(&self, error: &BeginError) {
        Self::count(match error {
            BeginError::KeyReused => &self.reused,
            BeginError::Expired(_) => &self.too_late,
            BeginError::Unresolved(_) => &self.unresolved,
            BeginError::Busy(Busy::QueueFull { .. }) => &self.busy_queue_full,
            BeginError::Busy(Busy::TooManyClaims { .. }) => &self.busy_claims,
            BeginError::Busy(Busy::DiskFull(_)) => &self.busy_disk_full,
            BeginError::Busy(Busy::FileNotReady(_)) => &self.busy_file_not_ready,
            // A twin was counted as one that waits.
            BeginError::DuplicateInBatch { .. } => return,
            BeginError::Key(_)
            | BeginError::OwnKey
            | BeginError::InsideCallback
            | BeginError::InsideTransaction
            // No begin waits for claims or saves progress.
            | BeginError::Busy(
                Busy::LeaseTooShort { .. }
                | Busy::TooManyWaiters { .. }
                | Busy::TooManyProgressBytes { .. },
            )
            | BeginError::BatchTooLong { .. }
            | BeginError::Failed(_)
            | BeginError::Closed
            | BeginError::Damaged(_)
            | BeginError::Io(_) => &self.refused,
            #[cfg(feature = "postgres")]
            BeginError::Shared(_) => &self.refused,
        });
    }
}
