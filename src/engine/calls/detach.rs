//! The quota that a claim leaves behind when it is handed over as a token.

use crate::attempt::Attempt;
use crate::engine::core::Core;
use crate::engine::core::detached_claims::DetachedClaim;
use crate::index::Slot;
use crate::sync::Arc;

impl Core {
    /// Stores the quota of a claim that is handed over, for the thread that resumes the claim or
    /// finds its lease over.
    pub(in crate::engine) fn detach(&self, attempt: &Arc<Attempt>, left: DetachedClaim) {
        self.detached.put(attempt.fence, left);
        // A thread that found its lease ended before that did not find the share.
        if !matches!(self.index.get(attempt.digest), Slot::InFlight(current) if Arc::ptr_eq(&current, attempt))
        {
            self.drop_detached(attempt);
        }
    }

    /// Frees the quota of a claim that no caller will resume.
    pub(super) fn drop_detached(&self, attempt: &Attempt) {
        if let Some(left) = self.detached.take(attempt.fence) {
            self.give_back(left.quota);
        }
    }
}
