//! `SharedClaim`: a claim on a key of a shared store.

use super::core::{Core, SharedHandle};
use super::statements::begin::span;
use super::statements::end::{EndAsk, Standing};
use crate::attempt::{Attempt, Ended};
use crate::engine::common::counters::Counters;
use crate::key::Digest;
use crate::observer::EndKind;
use crate::state::Fence;
use crate::sync::{Arc, AtomicBool, Ordering};

/// A claim on a key of a shared store. A drop without an end leaves the key interrupted.
pub(crate) struct SharedClaim {
    pub(super) handle: Arc<SharedHandle>,
    pub(super) attempt: Arc<Attempt>,
    pub(super) nonce: u128,
    /// The session that it was granted to; `None` if it is not known.
    pub(super) session: Option<i64>,
    /// Whether its release also speaks for the attempts before it.
    pub(super) resolves: bool,
    /// The interruption that the grant found, unless the claim was resumed.
    pub(super) standing: Option<Standing>,
    /// A statement that ends the claim may have happened.
    pub(super) may_be_over: AtomicBool,
    /// How its release is told.
    pub(super) released: EndKind,
    /// The store has moved on from it, and does not tell how it ended.
    pub(super) is_past: AtomicBool,
    /// A transaction of another caller had its row.
    pub(super) was_locked: AtomicBool,
    /// Its end waits longer for a store that is away.
    pub(super) insists: bool,
    pub(super) is_over: bool,
}

impl SharedClaim {
    pub(super) fn new(handle: &Arc<SharedHandle>, attempt: Attempt, nonce: u128, resolves: bool) -> Self {
        Self::of_attempt(handle, Arc::new(attempt), nonce, resolves)
    }

    /// The same for an attempt that callers may wait for already.
    pub(super) fn of_attempt(
        handle: &Arc<SharedHandle>,
        attempt: Arc<Attempt>,
        nonce: u128,
        resolves: bool,
    ) -> Self {
        handle.0.watches.add_own(&attempt);
        handle.0.held.fetch_add(1, Ordering::Relaxed);
        let may_be_over = AtomicBool::new(false);
        Self {
            handle: Arc::clone(handle),
            attempt,
            nonce,
            session: None,
            resolves,
            standing: None,
            may_be_over,
            released: EndKind::Released,
            is_past: AtomicBool::new(false),
            was_locked: AtomicBool::new(false),
            insists: false,
            is_over: false,
        }
    }

    #[cfg(any(feature = "http", feature = "queue"))]
    pub(crate) fn insist(&mut self) {
        self.insists = true;
    }

    pub(crate) fn of(&self) -> &Arc<Attempt> {
        &self.attempt
    }

    pub(crate) fn handle(&self) -> Arc<SharedHandle> {
        Arc::clone(&self.handle)
    }

    pub(super) fn core(&self) -> &Core {
        &self.handle.0
    }

    /// What its row has while the claim is good.
    pub(super) fn row(&self) -> (Digest, u128, Fence) {
        (self.attempt.digest, self.nonce, self.attempt.fence)
    }

    /// Notes that it stands without this process. Its waiters look for its end.
    pub(super) fn is_handed_over(&mut self) {
        self.is_over = true;
        let core = self.core();
        core.held.fetch_sub(1, Ordering::Relaxed);
        Counters::count(&core.counters.handed_over);
        core.watches.remove_own(&self.attempt);
        core.watches.told(self.attempt.digest);
    }

    /// Notes that it has ended, and tells its waiters how.
    pub(super) fn end(&mut self, how: Ended) {
        self.is_over = true;
        self.core().held.fetch_sub(1, Ordering::Relaxed);
        self.core().watches.remove_own(&self.attempt);
        self.core().watches.ended(&self.attempt, how);
    }
}

impl Drop for SharedClaim {
    fn drop(&mut self) {
        if self.is_over || self.core().is_forked() {
            return;
        }
        let core = self.core();
        core.held.fetch_sub(1, Ordering::Relaxed);
        // No holder tells its end any more: whoever waits for it looks at the store.
        core.watches.remove_own(&self.attempt);
        let end = EndAsk::abandon(self.row(), self.attempt.unresolved_ttl.map(span));
        let may_be_over = self.may_be_over.load(Ordering::Relaxed);
        core.loose_ends.abandon(end, Arc::clone(&self.attempt), may_be_over, self.released);
    }
}
