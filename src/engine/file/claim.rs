//! `FileClaim`: a claim on a key of a file.

use super::handle::FileHandle;
use super::permit::Permit;
use crate::attempt::{Attempt, Ended};
use crate::engine::core::Core;
use crate::engine::core::publisher::Interrupting;
use crate::observer::Cause;
use crate::policy::Durability;
use crate::state::Event;
use crate::sync::Arc;
use crate::wal::Reservation;

/// A claim on a key of a file. A drop without an end leaves the key interrupted.
#[derive(Debug)]
pub(crate) struct FileClaim {
    pub(in crate::engine) attempt: Arc<Attempt>,
    pub(in crate::engine) permit: Permit,
    pub(in crate::engine) terms: Terms,
    /// Whether the claim has ended or another thread ends it, so that its drop does not change
    /// the key.
    pub(in crate::engine) is_over: bool,
}

/// On what terms a claim was granted.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Terms {
    /// Whether the log knows of the claim.
    pub(in crate::engine) logged: bool,
    /// Whether its release also speaks for the attempts before it.
    pub(in crate::engine) resolves: bool,
    pub(in crate::engine) durability: Durability,
}

impl FileClaim {
    pub(in crate::engine) fn new(attempt: Arc<Attempt>, permit: Permit, terms: Terms) -> Self {
        Self { attempt, permit, terms, is_over: false }
    }

    /// Takes the claim: from now on only its owner decides how it ends. `false` if the grant was
    /// withdrawn before.
    pub(in crate::engine) fn arrives(&mut self) -> bool {
        let Some(bytes) = self.attempt.deliver() else { return false };
        self.permit.reservation().take_back(bytes);
        self.permit.quota().place = self.attempt.take_place();
        true
    }

    /// Ends the claim without changing its key: a failed commit has already decided that.
    pub(in crate::engine) fn discard(mut self) {
        if self.core().health.is_forked() {
            return;
        }
        // Still there if the log did not take the end of a pending grant.
        self.core().leave_undelivered(&self.attempt);
        self.core().leases.forget(&self.attempt);
        self.is_over = true;
    }

    pub(in crate::engine) fn of(&self) -> &Arc<Attempt> {
        &self.attempt
    }

    pub(in crate::engine) fn handle(&self) -> Arc<FileHandle> {
        Arc::clone(&self.permit.handle)
    }

    pub(in crate::engine) fn core(&self) -> &Core {
        self.permit.handle.core()
    }

    /// Whether `resolve` gave the claim.
    pub(in crate::engine) fn resolves(&self) -> bool {
        self.terms.resolves
    }

    /// Whether the log knows the claim, or soon will.
    pub(in crate::engine) fn is_logged(&self) -> bool {
        self.terms.logged
    }

    /// Whether its end is queued, or it has ended.
    pub(in crate::engine) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The log space that it has.
    pub(in crate::engine) fn reservation(&mut self) -> &mut Reservation {
        self.permit.reservation()
    }
}

impl Drop for FileClaim {
    fn drop(&mut self) {
        // A forked child drops a copy: the claim is the parent's.
        if !self.is_over && !self.core().health.is_forked_for_sure() {
            self.abandon();
        }
    }
}

impl FileClaim {
    /// Makes the claim interrupted, because it was dropped without an outcome. Does not wait for
    /// the disk.
    fn abandon(&mut self) {
        let (handle, attempt) = (self.handle(), Arc::clone(&self.attempt));
        let (core, now) = (handle.core(), handle.core().clock.now());
        let interrupting = core.publisher.interrupt(&attempt, Event::Abandon { fence: attempt.fence }, now);
        core.leases.forget(&attempt);
        if interrupting == Interrupting::Done {
            core.revoke_token(&attempt, now, self.reservation());
        }
        // Before waiters are told: one of them may begin now, and takes the place. It is still with the
        // attempt if a panic kept the claim from arriving.
        self.permit.leave();
        core.leave_undelivered(&attempt);
        attempt.end(Ended::Interrupted);
        if interrupting == Interrupting::Done {
            core.tell_of_interruption(&attempt, Cause::Dropped);
        }
    }
}
