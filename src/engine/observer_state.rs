//! What the observer knows already.

use crate::sync::AtomicBool;

/// What the observer knows already, or is about to be told.
#[derive(Debug)]
pub(crate) struct ObserverState {
    /// Group commits that the opening replayed from the log.
    pub(super) replayed: u64,
    pub(super) disk_full: AtomicBool,
    pub(super) failed: AtomicBool,
}

impl ObserverState {
    /// After an opening that replayed so many group commits.
    pub(super) fn after(replayed: u64) -> Self {
        Self { replayed, disk_full: AtomicBool::new(false), failed: AtomicBool::new(false) }
    }
}
