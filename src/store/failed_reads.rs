//! Counts failed reads of the file, so that operators learn of a failing disk.

use std::io;
use std::path::Path;

use crate::error::IoFailure;
use crate::sync::{AtomicU64, Ordering, UnseenMutex};

/// Failed reads of all callers.
#[derive(Debug, Default)]
pub(super) struct FailedReads {
    count: AtomicU64,
    /// The last one that was not reported. Leaf lock.
    news: UnseenMutex<Option<io::Error>>,
}

impl FailedReads {
    pub(super) fn note(&self, error: &io::Error) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let copy = error.raw_os_error().map(io::Error::from_raw_os_error);
        let copy = copy.unwrap_or_else(|| io::Error::new(error.kind(), error.to_string()));
        *self.news.lock() = Some(copy);
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes the last one, once.
    pub(super) fn take_news(&self, path: &Path) -> Option<IoFailure> {
        self.news.lock().take().map(|error| IoFailure::new(path, "reading", error))
    }
}
