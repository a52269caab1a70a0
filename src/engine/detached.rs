//! Claims that were handed over as tokens: their places among those that are out, and their room in the log.

use std::collections::HashMap;

use super::core::Core;
use super::permit::Share;
use crate::attempt::Attempt;
use crate::index::Slot;
use crate::state::Fence;
use crate::sync::{Arc, Mutex};

#[derive(Debug, Default)]
pub(crate) struct Detached {
    /// Leaf lock.
    shares: Mutex<HashMap<Fence, Share>>,
}

impl Core {
    /// Leaves the share of a claim that is handed over where whoever takes it up, or finds its lease ended, looks for it.
    pub(super) fn detach(&self, attempt: &Arc<Attempt>, share: Share) {
        self.detached.put(attempt.fence, share);
        // Whoever found its lease ended before that did not find the share.
        if !matches!(self.index.get(attempt.digest), Slot::InFlight(current) if Arc::ptr_eq(&current, attempt))
        {
            self.detached.drop(attempt, self);
        }
    }
}

impl Detached {
    pub(super) fn put(&self, fence: Fence, share: Share) {
        self.shares.lock().insert(fence, share);
    }

    pub(super) fn take(&self, fence: Fence) -> Option<Share> {
        self.shares.lock().remove(&fence)
    }

    /// How much of `bytes` is not promised to the claim.
    pub(super) fn lacks(&self, fence: Fence, bytes: u64) -> u64 {
        self.shares.lock().get(&fence).map_or(0, |share| share.lacks(bytes))
    }

    /// Gives back the share of a claim that nobody will take up again.
    pub(super) fn drop(&self, attempt: &Attempt, core: &Core) {
        if let Some(share) = self.take(attempt.fence) {
            core.give_back(&share);
        }
    }
}
