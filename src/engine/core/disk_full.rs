//! What found the disk full, so that calls get an error, and the engine continues once there is
//! space.

use std::time::Duration;

use crate::Timestamp;
use crate::error::IoFailure;
use crate::sync::Mutex;

/// The time from a try that found the disk full until the next one.
pub(in crate::engine) const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What found the disk full.
#[derive(Debug, Default)]
pub(crate) struct DiskFull {
    /// Leaf lock.
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// The log, for another segment, and when.
    log: Option<(IoFailure, Timestamp)>,
    /// The store. It takes no more writes until it is opened again.
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

    /// Whether the log found the disk full so recently that another try is pointless.
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

    /// How often the disk was found full: a waiting call is refused only because of a try that
    /// came after it.
    pub(in crate::engine) fn times(&self) -> u64 {
        self.found.lock().times
    }
}
