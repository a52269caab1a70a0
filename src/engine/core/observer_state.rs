//! What the observer knows already.

use std::time::Duration;

use crate::Timestamp;
use crate::attempt::Attempt;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};

/// What the observer knows already, or is about to be told.
#[derive(Debug)]
pub(crate) struct ObserverState {
    /// Group commits that the opening replayed from the log.
    replayed: u64,
    /// Claims that the opening found dead, until the observer is told. Leaf lock.
    recalled: Mutex<Vec<Arc<Attempt>>>,
    disk_full: AtomicBool,
    failed: AtomicBool,
    /// When the next failed read may be reported, in ms.
    failed_read_from_ms: AtomicU64,
}

/// The least time between two reports of failed reads.
const FAILED_READS_APART: Duration = Duration::from_secs(60);

impl ObserverState {
    /// The state after an opening that replayed so many group commits, and found these claims
    /// dead.
    pub(in crate::engine) fn after(replayed: u64, recalled: Vec<Arc<Attempt>>) -> Self {
        Self {
            replayed,
            recalled: Mutex::new(recalled),
            disk_full: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failed_read_from_ms: AtomicU64::new(0),
        }
    }

    pub(in crate::engine) fn replayed(&self) -> u64 {
        self.replayed
    }

    /// The claims that the opening found dead, once.
    pub(in crate::engine) fn take_recalled(&self) -> Vec<Arc<Attempt>> {
        std::mem::take(&mut *self.recalled.lock())
    }

    /// Whether the observer has yet to learn that the disk is full, or no longer is.
    pub(in crate::engine) fn is_news_of_disk(&self, is_full: bool) -> bool {
        self.disk_full.swap(is_full, Ordering::AcqRel) != is_full
    }

    /// The failed read to report now. `take` gives the last one that was not reported.
    pub(in crate::engine) fn failed_read<F>(
        &self,
        now: Timestamp,
        take: impl FnOnce() -> Option<F>,
    ) -> Option<F> {
        if now.as_millis() < self.failed_read_from_ms.load(Ordering::Relaxed) {
            return None;
        }
        let failure = take()?;
        let next = now.saturating_add(FAILED_READS_APART).as_millis();
        self.failed_read_from_ms.store(next, Ordering::Relaxed);
        Some(failure)
    }

    /// Whether the observer has yet to learn of the failure.
    pub(in crate::engine) fn is_news_of_failure(&self) -> bool {
        !self.failed.swap(true, Ordering::AcqRel)
    }
}
