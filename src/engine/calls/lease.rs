//! The ends of leases: a claim whose lease has run out is interrupted.

use crate::attempt::{Attempt, Ended};
use crate::engine::core::Core;
use crate::engine::core::publisher::Interrupting;
use crate::error::CommitError;
use crate::index::Slot;
use crate::observer::Cause;
use crate::state::Event;
use crate::sync::Arc;

impl Core {
    /// Interrupts a claim whose lease was due.
    pub(in crate::engine) fn expire_if_due(&self, attempt: &Arc<Attempt>) {
        // What can't be withdrawn after a failed commit, or by an engine that closes, need not be
        // looked at again.
        let is_known = self.lapse(attempt).is_ok();
        // It may have been renewed since it was taken from those that are watched.
        if is_known && !self.health.is_forked() {
            self.watch(attempt);
        }
    }

    /// Watches the lease of a claim, if the claim is still in flight.
    pub(in crate::engine) fn watch(&self, attempt: &Arc<Attempt>) {
        self.leases.watch_while(
            attempt,
            || matches!(self.index.get(attempt.digest), Slot::InFlight(out) if Arc::ptr_eq(&out, attempt)),
        );
    }

    /// Interrupts a claim whose lease has run out, and tells its waiters. A grant that has not
    /// reached its caller is withdrawn instead, because no operation has run.
    ///
    /// # Errors
    ///
    /// When the log takes no more entries, so that the grant can't be withdrawn.
    pub(super) fn lapse(&self, attempt: &Arc<Attempt>) -> Result<(), CommitError> {
        if attempt.is_undelivered() {
            return self.withdraw(attempt, || attempt.lease_until() <= self.clock.now());
        }
        let now = self.clock.now();
        let interrupting = self.publisher.interrupt(attempt, Event::Sweep { now }, now);
        if interrupting != Interrupting::NotOut {
            self.leases.forget(attempt);
            self.drop_detached(attempt);
            attempt.end(Ended::Interrupted);
        }
        // A task that waited may have forked: the parent tells of it.
        if interrupting == Interrupting::Done && !self.health.is_forked() {
            self.tell_of_interruption(attempt, Cause::Lease);
        }
        Ok(())
    }
}
