//! `SharedClaim`: the right to run an operation, in the shared store.

use super::core::{Core, Handle};
use super::pending::SharedPending;
use super::statements::begin::span;
use super::statements::end::EndAsk;
use crate::attempt::progress::Progress;
use crate::attempt::{Attempt, Ended};
use crate::key::step_key::StepKey;
use crate::key::{Digest, KeyHash};
use crate::record::Record;
use crate::state::Fence;
use crate::sync::{Arc, AtomicBool};
use crate::{Fingerprint, Interruption, Timestamp};

/// The answer to a begin.
#[derive(Debug)]
#[must_use = "a claim that is dropped leaves its key interrupted"]
pub enum SharedBegin {
    /// Run the operation, then end the claim.
    Fresh(SharedClaim),
    /// Another caller has the claim, in this process or in another.
    InFlight(SharedPending),
    /// The operation has run: answer with its result.
    Done(Record),
}

/// The right to run an operation, and the duty to report its outcome. A claim that is dropped
/// leaves its key interrupted.
#[must_use = "a claim that is dropped leaves its key interrupted"]
pub struct SharedClaim {
    pub(super) handle: Arc<Handle>,
    pub(super) attempt: Arc<Attempt>,
    pub(super) nonce: u128,
    /// Whether its release also speaks for the attempts before it.
    pub(super) resolves: bool,
    /// A statement that ends the claim may have happened.
    pub(super) may_be_over: AtomicBool,
    pub(super) is_over: bool,
}

impl SharedClaim {
    pub(super) fn new(handle: &Arc<Handle>, attempt: Attempt, nonce: u128, resolves: bool) -> Self {
        let attempt = Arc::new(attempt);
        handle.0.watches.add_own(&attempt);
        let may_be_over = AtomicBool::new(false);
        Self { handle: Arc::clone(handle), attempt, nonce, resolves, may_be_over, is_over: false }
    }

    /// The number of the attempt: 1 for the first claim of a key.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// The claim's fence: higher than that of every claim that this store granted before.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.attempt.fence
    }

    /// When the claim was granted, by the server's clock.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.attempt.started
    }

    /// The idempotency key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.attempt.key()
    }

    /// The name of the key's scope.
    #[must_use]
    pub fn scope(&self) -> &[u8] {
        self.attempt.scope()
    }

    /// A short name of the key for logs.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        self.attempt.digest.key_hash()
    }

    /// The fingerprint of the request.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.attempt.fingerprint
    }

    /// The attempt before this one, if it ended without an outcome.
    #[must_use]
    pub fn interrupted(&self) -> Option<Interruption> {
        self.attempt.interruption_before()
    }

    /// The progress that was last saved by this attempt, or one before it.
    #[must_use]
    pub fn last_progress(&self) -> Option<Progress> {
        self.attempt.progress()
    }

    /// When the lease ends, by the server's clock; `None` without one of its own.
    #[must_use]
    pub fn lease_until(&self) -> Option<Timestamp> {
        self.attempt.lease.map(|_| self.attempt.lease_until())
    }

    /// A key for a step of the operation. It depends only on the store's secret, the scope, the
    /// key, the fingerprint and the step's name.
    #[must_use]
    pub fn step_key(&self, step: impl AsRef<[u8]>) -> StepKey {
        let attempt = &self.attempt;
        let secret = &self.core().secret;
        StepKey::new(secret, attempt.scope(), attempt.key(), &attempt.fingerprint, step.as_ref())
    }

    pub(super) fn core(&self) -> &Core {
        &self.handle.0
    }

    /// What its row has while the claim is good.
    pub(super) fn row(&self) -> (Digest, u128, Fence) {
        (self.attempt.digest, self.nonce, self.attempt.fence)
    }

    /// Notes that it has ended, and tells its waiters how.
    pub(super) fn end(&mut self, how: Ended) {
        self.is_over = true;
        self.core().watches.remove_own(&self.attempt);
        self.attempt.end(how);
    }
}

impl Drop for SharedClaim {
    fn drop(&mut self) {
        if self.is_over || self.core().is_forked() {
            return;
        }
        let end = EndAsk::abandon(self.row(), self.attempt.unresolved_ttl.map(span));
        let told = (Arc::clone(&self.attempt), Ended::Interrupted);
        self.core().loose_ends.add(end, None, Some(told));
    }
}

/// In short, and without the key.
impl std::fmt::Debug for SharedClaim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedClaim")
            .field("key", &self.key_hash())
            .field("attempt", &self.attempt())
            .field("fence", &self.fence().get())
            .finish_non_exhaustive()
    }
}
