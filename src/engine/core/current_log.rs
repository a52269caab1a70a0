//! The log of an open file, which may be made later, or replaced.

use crate::sync::{Arc, Mutex};
use crate::wal::Log;

/// `None` while there is no log, on a full disk.
#[derive(Debug)]
pub(crate) struct CurrentLog {
    /// Leaf lock.
    log: Mutex<Option<Arc<Log>>>,
}

impl CurrentLog {
    pub(in crate::engine) fn new(log: Option<Log>) -> Self {
        Self { log: Mutex::new(log.map(Arc::new)) }
    }

    pub(in crate::engine) fn get(&self) -> Option<Arc<Log>> {
        self.log.lock().clone()
    }

    pub(in crate::engine) fn set(&self, log: Option<Arc<Log>>) {
        *self.log.lock() = log;
    }
}
