//! Counters of an engine.

use crate::error::{BeginError, Busy};
use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// Counters that belong to no other part.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Calls that wait for room in the log: a gauge.
    pub(super) waiting_for_room: AtomicUsize,
    pub(super) fresh: AtomicU64,
    pub(super) rerun: AtomicU64,
    pub(super) reused: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) unresolved: AtomicU64,
    pub(super) busy_queue_full: AtomicU64,
    pub(super) busy_claims: AtomicU64,
    pub(super) busy_waiters: AtomicU64,
    pub(super) busy_progress_bytes: AtomicU64,
    pub(super) busy_disk_full: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) resolved: AtomicU64,
    pub(super) standing: AtomicU64,
    pub(super) completed: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) released: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) lapsed: AtomicU64,
    pub(super) recalled: AtomicU64,
    pub(super) superseded: AtomicU64,
    pub(super) noted: AtomicU64,
    pub(super) forgotten: AtomicU64,
    pub(super) declared: AtomicU64,
    pub(super) backups: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) checkpoints: AtomicU64,
    pub(super) reclaimed_blocks: AtomicU64,
}

impl Counters {
    /// Those of an engine that was just opened, where so many claims stand.
    pub(super) fn after_opening(standing: usize) -> Self {
        Self { standing: AtomicU64::new(standing as u64), ..Self::default() }
    }

    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(super) fn count(counter: &AtomicU64) {
        Self::add(counter, 1);
    }

    /// Counts a begin that was refused.
    pub(super) fn count_refusal(&self, error: &BeginError) {
        Self::count(match error {
            BeginError::KeyReused => &self.reused,
            BeginError::Expired(_) => &self.late,
            BeginError::Unresolved(_) => &self.unresolved,
            BeginError::Busy(Busy::QueueFull { .. }) => &self.busy_queue_full,
            BeginError::Busy(Busy::TooManyClaims { .. }) => &self.busy_claims,
            BeginError::Busy(Busy::TooManyWaiters { .. }) => &self.busy_waiters,
            BeginError::Busy(Busy::TooManyProgressBytes { .. }) => &self.busy_progress_bytes,
            BeginError::Busy(Busy::DiskFull(_)) => &self.busy_disk_full,
            // A twin was counted as one that waits.
            BeginError::Twin { .. } => return,
            BeginError::Key(_)
            | BeginError::OwnKey
            | BeginError::InsideCallback
            | BeginError::Busy(Busy::LeaseTooShort { .. })
            | BeginError::BatchTooLong { .. }
            | BeginError::Failed(_)
            | BeginError::Closed
            | BeginError::Damaged(_)
            | BeginError::Io(_) => &self.refused,
        });
    }
}
