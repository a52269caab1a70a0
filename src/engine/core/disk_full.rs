//! Where the disk was found full, so that calls can be told, and the engine goes on by itself once
//! there is room.

use std::time::Duration;

use crate::Timestamp;
use crate::error::IoFailure;
use crate::sync::Mutex;

/// After a try that found the disk full, the next one comes so much later.
pub(in crate::engine) const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Where the disk was found full.
#[derive(Debug, Default)]
pub(crate) struct DiskFull {
    /// Leaf lock.
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// By the log, for another segment, and when.
    log: Option<(IoFailure, Timestamp)>,
    /// By the store. It takes no more writes until it is opened again.
    store: Option<IoFailure>,
    times: u64,
}

impl DiskFull {
    pub(in crate::engine) fn found_by_log(&self, failure: IoFailure, now: Timestamp) {
        let mut found = self.found.lock();
        found.log = Some((failure, now));
        found.times += 1;
    }

    pub(in crate::engine) fn found_by_store(&self, failure: IoFailure) {
        let mut found = self.found.lock();
        found.store = Some(failure);
        found.times += 1;
    }

    /// The log grew, or need not grow any more.
    pub(in crate::engine) fn log_has_room(&self) {
        self.found.lock().log = None;
    }

    pub(in crate::engine) fn store_has_room(&self) {
        self.found.lock().store = None;
    }

    /// Whether the log was found without room so shortly ago that there is no point in trying
    /// again.
    pub(in crate::engine) fn is_too_early_for_log(&self, now: Timestamp) -> bool {
        self.found.lock().log.as_ref().is_some_and(|(_, at)| now < at.saturating_add(RETRY_AFTER))
    }

    pub(in crate::engine) fn of_store(&self) -> Option<IoFailure> {
        self.found.lock().store.clone()
    }

    pub(in crate::engine) fn any(&self) -> Option<IoFailure> {
        let found = self.found.lock();
        found.log.as_ref().map(|(failure, _)| failure).or(found.store.as_ref()).cloned()
    }

    /// How often the disk was found full: a call that waits is refused for a try that came after
    /// it only.
    pub(in crate::engine) fn times(&self) -> u64 {
        self.found.lock().times
    }
}
