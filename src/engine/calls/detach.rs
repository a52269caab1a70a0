//! What a claim that is handed over leaves in its process.

use crate::attempt::Attempt;
use crate::engine::core::Core;
use crate::engine::core::detached_claims::DetachedClaim;
use crate::index::Slot;
use crate::sync::Arc;

impl Core {
    /// Leaves what a claim has that is handed over, for the thread that takes it up or finds its
    /// lease ended.
    pub(in crate::engine) fn detach(&self, attempt: &Arc<Attempt>, left: DetachedClaim) {
        self.detached.put(attempt.fence, left);
        // A thread that found its lease ended before that did not find the share.
        if !matches!(self.index.get(attempt.digest), Slot::InFlight(current) if Arc::ptr_eq(&current, attempt))
        {
            self.drop_detached(attempt);
        }
    }

    /// Gives back the share of a claim that nobody will take up again.
    pub(super) fn drop_detached(&self, attempt: &Attempt) {
        if let Some(left) = self.detached.take(attempt.fence) {
            self.give_back(left.quota);
        }
    }
}
