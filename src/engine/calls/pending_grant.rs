//! `PendingGrant`: a granted claim that has not reached its caller. It is in the index, and not
//! yet durable in the log.
//!
//! Until its caller has it, no operation has run, and the grant can be withdrawn (`withdraw.rs`):
//! by the drop of its own future, by a thread that finds its lease over, or by a close.
//! [`Attempt::deliver`](crate::attempt::Attempt::deliver) lets only one of them decide.

use crate::attempt::Attempt;
use crate::clock::{QueueTimeout, Stopwatch};
use crate::commit::Ticket;
use crate::engine::core::Core;
use crate::engine::core::log_record::LogRecord;
use crate::engine::file::claim::FileClaim;
use crate::error::{CommitError, Failure};
use crate::index::Slot;
use crate::sync::Arc;
use crate::task::caller::Caller;

/// If a task stops waiting for its claim, this is dropped and the grant withdrawn: no operation
/// has run.
#[derive(Debug)]
pub(super) struct PendingGrant {
    /// `None` once the caller has the claim, or it was withdrawn.
    claim: Option<FileClaim>,
    /// The key's slot before the grant; vacant once the log may know the claim.
    before: Slot,
    /// The operation that is queued with the intent. The queue takes both in one step, so that no
    /// panic in between leaves an intent of a claim that counts as unknown to the log.
    unqueued: Option<LogRecord>,
    /// The ticket of its group; `None` if the log need not know.
    ticket: Option<Ticket>,
    /// The observer knows of it.
    is_told: bool,
}

impl PendingGrant {
    pub(super) fn new(claim: FileClaim, before: Slot) -> Self {
        let unqueued = Some(LogRecord::Granted(Arc::clone(claim.of())));
        Self { claim: Some(claim), before, unqueued, ticket: None, is_told: false }
    }

    /// Queues the intent, if the log has to know the claim; `false` if the lease ran out before,
    /// or nothing is granted any more, so that there is no grant.
    ///
    /// After the lease the key may have been granted again, and the log must get the claims of a
    /// key in the order of their fences.
    pub(super) async fn log(
        &mut self,
        core: &Core,
        caller: Caller,
        queue_timeout: &mut QueueTimeout,
    ) -> Result<bool, CommitError> {
        let Some(claim) = &mut self.claim else { unreachable!("a claim is granted once") };
        if !claim.is_logged() {
            return Ok(true);
        }
        let record = &mut self.unqueued;
        let Some(entry) = record.as_ref().map(LogRecord::encoded) else {
            unreachable!("a grant is queued once")
        };
        let attempt = Arc::clone(claim.of());
        let reservation = claim.reservation();
        // Without a lease nobody else can have the key, unless the engine closes. A close shuts the
        // gate before it withdraws a grant.
        let may = || {
            !core.health.is_poisoned()
                && core.health.is_open()
                && (attempt.lease.is_none() || core.is_good(&attempt))
        };
        let appended = match core.commit.append_now(caller, &entry, record, reservation, queue_timeout, may) {
            Some(appended) => appended,
            // Boxed, so that a call that finds a place at once does not carry it along.
            None => {
                Box::pin(core.commit.append(caller, entry, record, reservation, queue_timeout, may)).await
            }
        };
        match appended {
            Ok(Some(ticket)) => {
                self.before = Slot::Vacant;
                self.ticket = Some(ticket);
                Ok(true)
            }
            // Dropped with what the key was before, this puts it back.
            Ok(None) => Ok(false),
            // What a forked child has is a copy; see the drop.
            Err(error) if core.health.is_forked() => Err(error),
            Err(error) => {
                // Nothing was written: the key is as it was before.
                self.discard(core, &error);
                Err(error)
            }
        }
    }

    /// The attempt; `None` once the caller has the claim, or the grant was withdrawn.
    pub(super) fn attempt(&self) -> Option<&Attempt> {
        self.claim.as_ref().map(|claim| &**claim.of())
    }

    /// Whether no claim arrives: the grant was withdrawn, or its lease ran out on the way.
    pub(super) fn is_lost(&self, core: &Core) -> bool {
        self.claim.as_ref().is_some_and(|claim| !claim.of().is_undelivered() || core.is_too_late(claim.of()))
    }

    /// Waits until the grant is durable, if it has to be. If not, still checks for a failure
    /// since the call came in, because the call may have waited for long.
    pub(super) async fn settled(&mut self, core: &Core, caller: Caller) -> Result<(), CommitError> {
        if core.health.is_forked() {
            return Err(CommitError::Failed(Failure::Forked));
        }
        let settled = match &mut self.ticket {
            Some(ticket) => core.commit.settled(caller, ticket).await,
            // The log would have told of a failure.
            None => core.health.may_grant(),
        };
        settled.inspect_err(|error| self.discard(core, error))
    }

    /// Ends the grant without changing its key; if nothing was written, restores the key.
    fn discard(&mut self, core: &Core, error: &CommitError) {
        let Some(mut claim) = self.claim.take() else { return };
        // Once the log may know of it, only the next opening can tell; until then it stays on its
        // way. Its waiters were told of the failure with all others.
        if self.unqueued.is_some() {
            self.put_back(core, &mut claim, Some(error));
        }
        claim.discard();
    }

    /// Takes back a claim that the log does not know.
    fn put_back(&mut self, core: &Core, claim: &mut FileClaim, error: Option<&CommitError>) {
        let (attempt, before) = (Arc::clone(claim.of()), std::mem::replace(&mut self.before, Slot::Vacant));
        core.withdraw_unlogged(&attempt, before, claim.reservation(), error);
    }

    /// Tells the observer of the grant, once it has settled. This comes before the claim arrives,
    /// because observers may be slow. The watch has run since the call, if there is an observer.
    pub(super) fn tell(&mut self, core: &Core, watch: Option<&Stopwatch>) {
        if self.is_lost(core) {
            return;
        }
        if let Some(claim) = &self.claim
            && !std::mem::replace(&mut self.is_told, true)
        {
            core.options.hooks.granted(claim.of(), claim.resolves(), watch);
        }
    }

    /// Makes the claim, once the grant has settled. `None` if its lease ran out or the engine
    /// closed: then the grant is withdrawn.
    ///
    /// # Errors
    ///
    /// When the engine has failed since, or observers have forked. The grant is withdrawn then, if
    /// the log still takes that.
    pub(super) fn arrive(&mut self, core: &Core) -> Result<Option<FileClaim>, CommitError> {
        debug_assert!(self.ticket.as_ref().is_none_or(Ticket::is_durable), "nobody sees a claim before");
        // Other threads look only once the clock ticks, or where they want the key.
        let is_too_late = self.claim.as_ref().is_some_and(|claim| core.is_too_late(claim.of()));
        let failed = core.health.may_grant();
        if is_too_late || failed.is_err() {
            self.give_back();
            // A caller of a closed engine learns that.
            return if core.health.is_open() { failed.map(|()| None) } else { Ok(None) };
        }
        let Some(mut claim) = self.claim.take() else { unreachable!("a claim arrives once") };
        if !claim.arrives() {
            claim.discard();
            return Ok(None);
        }
        core.counters.count_grant(claim.of(), claim.resolves());
        Ok(Some(claim))
    }
}

impl PendingGrant {
    /// Withdraws the grant, through the log if the log may know of it.
    fn give_back(&mut self) {
        let Some(mut claim) = self.claim.take() else { return };
        if claim.core().health.is_forked() {
            return;
        }
        let (attempt, handle) = (Arc::clone(claim.of()), claim.handle());
        if self.unqueued.is_some() {
            self.put_back(handle.core(), &mut claim, None);
        } else {
            // An engine that is closing withdraws it itself; after a failed commit only the next
            // opening can tell what it was.
            drop(handle.core().withdraw(&attempt, || true));
        }
        claim.discard();
    }
}

impl Drop for PendingGrant {
    fn drop(&mut self) {
        self.give_back();
    }
}
