//! `Reservation`: reserved log space. An append uses it up, and its drop frees the rest.

use super::LogSpace;
use crate::sync::Arc;
use crate::task::wait_queue::Priority;

/// So many bytes of the log, which no other caller gets while this exists.
#[derive(Debug)]
#[must_use = "the space is given back when it is dropped"]
pub(crate) struct Reservation {
    space: Arc<LogSpace>,
    bytes: u64,
}

impl Reservation {
    /// No bytes yet.
    pub(crate) fn none(space: &Arc<LogSpace>) -> Self {
        Self { space: Arc::clone(space), bytes: 0 }
    }

    /// A reservation for bytes that the log has already set aside.
    pub(super) fn of(space: &Arc<LogSpace>, bytes: u64) -> Self {
        Self { space: Arc::clone(space), bytes }
    }

    /// Reserves `bytes`, if the log has them beside all earlier reservations, and no caller of
    /// this priority waits for space.
    pub(crate) fn try_new(space: &Arc<LogSpace>, priority: Priority, bytes: u64) -> Option<Self> {
        space.try_set_aside(priority, bytes).then(|| Self::of(space, bytes))
    }

    /// How many of `bytes` are not reserved.
    pub(crate) fn lacks(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.bytes)
    }

    /// Adds another reservation to this one.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Takes `bytes` out for a queued entry. The leader frees them once the entry is written.
    pub(crate) fn spend(&mut self, bytes: u64) {
        let bytes = self.lend(bytes);
        self.space.note_queued(bytes);
    }

    /// Takes `bytes` out; the caller has to record their new owner.
    /// [`take_back`](Self::take_back) is the opposite.
    pub(crate) fn lend(&mut self, bytes: u64) -> u64 {
        debug_assert!(self.bytes >= bytes, "only reserved bytes are used");
        self.bytes = self.bytes.saturating_sub(bytes);
        bytes
    }

    /// Takes over `bytes` that were [lent](Self::lend).
    pub(crate) fn take_back(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Frees what it has.
    pub(crate) fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // A forked child has a copy, and the lock may be held there for ever.
        if bytes > 0 && !self.space.is_elsewhere() {
            self.space.give_back(bytes);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back();
    }
}
