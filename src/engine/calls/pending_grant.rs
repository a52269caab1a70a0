//! A claim on its way to its caller: in the index, and not yet, or not yet durably, in the log.
//!
//! Until it has arrived nobody has run anything, and it can be withdrawn (`withdraw.rs`): by its
//! own future that is dropped, by a thread that finds its lease over, by a close.
//! [`Attempt::take_coming`](crate::attempt::Attempt::take_coming) lets only one of them decide.

use crate::clock::QueueTimeout;
use crate::commit::Ticket;
use crate::engine::core::Core;
use crate::engine::core::log_record::LogRecord;
use crate::engine::handles::claim::Claim;
use crate::error::{CommitError, Failure};
use crate::index::Slot;
use crate::key::Digest;
use crate::sync::Arc;
use crate::task::caller::Caller;

/// Where a task gives up waiting for its claim, this is dropped, and the claim is given back:
/// nobody has run anything.
#[derive(Debug)]
pub(super) struct PendingGrant {
    /// `None` once it has arrived, or was taken back.
    claim: Option<Claim>,
    /// What the key was; vacant once the log may know of the claim.
    before: Slot,
    /// What rides along with its intent. The queue takes it in the step that takes the intent in,
    /// so that no panic in between leaves an intent of a claim that counts as unknown to the log.
    unqueued: Option<LogRecord>,
    /// Its place in the log's queue; `None` where the log need not know.
    ticket: Option<Ticket>,
}

impl PendingGrant {
    pub(super) fn new(claim: Claim, before: Slot) -> Self {
        let unqueued = Some(LogRecord::Granted(Arc::clone(claim.of())));
        Self { claim: Some(claim), before, unqueued, ticket: None }
    }

    /// Hands the grant to the log, where that has to know of it; `false` where its lease ran out
    /// before the log had it, or nothing is granted any more, so that it is none.
    ///
    /// By then the key may have been granted again, and the log must get the claims of a key in
    /// the order of their fences.
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
        // Without a lease nobody else can have the key.
        let may = || !core.health.is_poisoned() && (attempt.lease.is_none() || core.is_good(&attempt));
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

    /// The claim's key; `None` once the claim was taken back.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.claim.as_ref().map(|claim| claim.of().digest)
    }

    /// Whether the claim was withdrawn on its way.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| !claim.of().is_coming())
    }

    /// Waits until the grant is durable, where it has to be. Where it need not be, a failure since
    /// the call came in counts: the claim may have waited for long.
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

    /// Ends it without a word about its key, unless nothing was written: then the key is as it was
    /// before.
    fn discard(&mut self, core: &Core, error: &CommitError) {
        let Some(mut claim) = self.claim.take() else { return };
        // Once the log may know of it, only the next opening can tell; until then it stays on its
        // way. Its waiters were told of the failure with all others.
        if self.unqueued.is_some() {
            self.put_back(core, &mut claim, Some(error));
        }
        claim.discard();
    }

    /// Takes the claim back, which the log knows nothing of.
    fn put_back(&mut self, core: &Core, claim: &mut Claim, error: Option<&CommitError>) {
        let (attempt, before) = (Arc::clone(claim.of()), std::mem::replace(&mut self.before, Slot::Vacant));
        core.withdraw_unlogged(&attempt, before, claim.reservation(), error);
    }

    /// It has settled, and arrives. `None` where it was withdrawn on its way, because its lease
    /// ran out or the engine closed.
    pub(super) fn arrive(mut self, core: &Core) -> Option<Claim> {
        debug_assert!(self.ticket.as_ref().is_none_or(Ticket::is_durable), "nobody sees a claim before");
        let Some(mut claim) = self.claim.take() else { unreachable!("a claim arrives once") };
        if !claim.arrives() {
            claim.discard();
            return None;
        }
        core.count_grant(claim.of(), claim.resolves());
        Some(claim)
    }
}

impl Drop for PendingGrant {
    fn drop(&mut self) {
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
