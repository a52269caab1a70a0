//! `Count`: how many keys of the store are interrupted, as this process last counted them.

use crate::Timestamp;
use crate::sync::Mutex;

/// What was counted last.
#[derive(Default)]
pub(super) struct Count(
    /// Leaf lock.
    Mutex<Interrupted>,
);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Interrupted {
    pub(super) keys: usize,
    pub(super) oldest: Option<Timestamp>,
    /// Those that no begin takes up.
    pub(super) unresolved: usize,
    pub(super) oldest_unresolved: Option<Timestamp>,
}

impl Count {
    pub(super) fn last(&self) -> Interrupted {
        *self.0.lock()
    }

    pub(super) fn set(&self, all: Interrupted) {
        *self.0.lock() = all;
    }
}
