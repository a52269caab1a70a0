//! The ends of a claim: check the request, reserve log space, and queue the entry.

use crate::attempt::{Attempt, Ended};
use crate::clock::Deadline;
use crate::codec::ENTRY_OVERHEAD_MAX;
use crate::engine::common::end_request::{EndRequest, NewResult};
use crate::engine::core::Core;
use crate::engine::core::ending_proof::{EndingProof, take_for_ending};
use crate::engine::core::log_record::LogRecord;
use crate::engine::core::quota::Quota;
use crate::engine::file::claim::FileClaim;
use crate::engine::file::pending_end::{PendingEnd, QueuedEnd};
use crate::error::{ClaimError, CommitError, EndError};
use crate::index::{Change, Slot};
use crate::observer::EndKind;
use crate::policy::Durability;
use crate::record::{Outcome, Record};
use crate::sync::Arc;
use crate::task::caller::{Caller, block};
use crate::wal::frame::entry_bytes_max;

impl FileClaim {
    /// Queues the end that the caller asks for, if that needs no waiting.
    pub(in crate::engine) fn start_end(self, caller: Caller, request: EndRequest<'_>) -> PendingEnd {
        let pending = match request {
            EndRequest::Store(result) => self.start_completing(caller, result),
            EndRequest::Release => self.start_releasing(caller, false),
            EndRequest::PutBack => self.start_releasing(caller, true),
        };
        pending.with_space_given_back()
    }

    fn start_completing(mut self, caller: Caller, result: NewResult<'_>) -> PendingEnd {
        let body_len = result.kept().len();
        if let Err(refused) = self.check(result) {
            return self.refused(refused);
        }
        if let Err(inside) = self.core().check_blocking(caller) {
            return self.refused(inside.into());
        }
        let needed = self.log_bytes(body_len);
        if self.permit.lacks(needed) > 0 {
            if caller != Caller::Thread {
                return PendingEnd::Waits(self, result.outcome, result.body.into(), result.completion);
            }
            if let Err(refused) = block(self.secure_space(caller, body_len, None)) {
                return self.refused(refused);
            }
        }
        self.queue_result(caller, result)
    }

    /// Waits for the log space of a result, and then queues it.
    pub(in crate::engine) async fn complete_with_space(
        mut self,
        caller: Caller,
        result: NewResult<'_>,
        deadline: Option<Deadline>,
    ) -> PendingEnd {
        match self.secure_space(caller, result.kept().len(), deadline).await {
            Ok(()) => self.queue_result(caller, result).with_space_given_back(),
            Err(refused) => self.refused(refused),
        }
    }

    /// Queues a release that the caller asked for, or that nothing was done with the claim.
    fn start_releasing(self, caller: Caller, is_unused: bool) -> PendingEnd {
        let (handle, attempt) = (self.handle(), Arc::clone(&self.attempt));
        // A token may have had other holders before.
        let is_unused = is_unused && attempt.detached().is_none();
        let released = self.queue_release(caller, is_unused);
        if let PendingEnd::Queued(_) | PendingEnd::Released = released {
            let end = if is_unused { EndKind::PutBack } else { EndKind::Released };
            handle.core().count_end(&attempt, end, 0);
        }
        released
    }

    fn queue_release(mut self, caller: Caller, is_unused: bool) -> PendingEnd {
        if let Err(forked) = self.core().health.check_process() {
            return self.refused(CommitError::Failed(forked).into());
        }
        if let Err(inside) = self.core().check_blocking(caller) {
            return self.refused(inside.into());
        }
        let Some(taken) = self.start_ending() else { return self.superseded() };
        let core = self.core();
        let attempt = Arc::clone(&self.attempt);
        let vacates = attempt.earlier.is_none() || self.terms.resolves && !is_unused;
        // A claim that the log knows nothing of, nor of an attempt before it, leaves nothing to
        // undo there.
        if !self.terms.logged && attempt.earlier.is_none() {
            if let Err(error) = core.forget_unlogged(&attempt) {
                return self.not_queued(error);
            }
            self.permit.leave();
            attempt.end(Ended::Vacated);
            return PendingEnd::Released;
        }
        if vacates {
            return self.queue(caller, LogRecord::Vacated(attempt, None), taken, None);
        }
        let now = core.clock.now();
        let returned = match attempt.never_held().filter(|_| is_unused) {
            Some(before) => LogRecord::returned_as_before(before),
            // What this claim knows of itself says nothing of the attempt before it.
            None => LogRecord::Returned(attempt, now),
        };
        self.queue(caller, returned, taken, None)
    }

    /// Whether a result may be stored.
    pub(super) fn check(&self, result: NewResult<'_>) -> Result<(), ClaimError> {
        self.core().health.check_process().map_err(CommitError::Failed)?;
        result.completion.retention(self.attempt.retention).map_err(ClaimError::Option)?;
        self.check_body(result.kept().len())
    }

    /// Marks the claim as ending, so that no other caller, and no drop, can end it. `None` if it
    /// is not the current one.
    pub(super) fn start_ending(&mut self) -> Option<EndingProof> {
        self.is_over = true;
        take_for_ending(&self.core().index, &self.core().clock, &self.attempt)
    }

    /// Makes an ending claim good again: nothing was written.
    pub(super) fn undo_end(&mut self) {
        self.is_over = false;
        self.core().put_back(&self.attempt, Slot::InFlight(Arc::clone(&self.attempt)));
        // Its lease may have been found ended, and let alone because the claim was ending.
        self.core().watch(&self.attempt);
    }

    /// Bytes of log for a completion with a body of so many bytes.
    fn log_bytes(&self, body_len: usize) -> u64 {
        let names = self.attempt.scope().len() + self.attempt.key().len();
        entry_bytes_max(ENTRY_OVERHEAD_MAX + names + body_len) as u64
    }

    pub(super) fn check_body(&self, len: usize) -> Result<(), ClaimError> {
        let options = &self.core().options;
        // A key that is longer than is granted today leaves less.
        let beside_key = options.key_and_body_max().saturating_sub(self.attempt.key().len());
        let max = options.max_body_bytes.min(beside_key);
        if len > max { Err(ClaimError::BodyTooLarge { len, max }) } else { Ok(()) }
    }

    /// Reserves log space for a completion with a body of so many bytes.
    async fn secure_space(
        &mut self,
        caller: Caller,
        body_len: usize,
        deadline: Option<Deadline>,
    ) -> Result<(), ClaimError> {
        let needed = self.log_bytes(body_len);
        self.permit.raise(caller, needed, deadline).await.map_err(ClaimError::Commit)
    }

    /// Queues the outcome, which was checked and has its log space.
    fn queue_result(mut self, caller: Caller, result: NewResult<'_>) -> PendingEnd {
        let Some(taken) = self.start_ending() else { return self.superseded() };
        let record = result.record(&self.attempt, self.core().clock.now());
        // What is flushed later calls nobody now.
        let relaxed = matches!(self.terms.durability, Durability::Relaxed(_));
        let caller = if relaxed { Caller::Thread } else { caller };
        let completed = LogRecord::Completed(Arc::clone(&self.attempt), record.clone());
        let pending = self.queue(caller, completed, taken, Some(record));
        if let PendingEnd::Queued(QueuedEnd { claim, record: Some(record), .. }) = &pending {
            claim.count_outcome(record);
            if let Durability::Relaxed(within) = claim.terms.durability {
                claim.core().commit.flush_within(within);
            }
        }
        pending
    }

    /// Counts a result that the log, or the store, has.
    pub(super) fn count_outcome(&self, record: &Record) {
        let end = match record.outcome() {
            Outcome::Success => EndKind::Completed,
            Outcome::Failure => EndKind::Failed,
        };
        self.core().count_end(&self.attempt, end, record.body().len());
    }

    /// Queues the entry that ends the claim. If nothing was written, the error returns the claim
    /// unchanged.
    fn queue(
        mut self,
        caller: Caller,
        record: LogRecord,
        taken: EndingProof,
        stored: Option<Record>,
    ) -> PendingEnd {
        let handle = self.handle();
        let entry = record.encoded();
        // Waiters that are told of the end may begin then, and take the place. And the call for
        // this end may take its answer late: others do not wait for that.
        let Quota { reservation, place } = self.permit.quota();
        let queued = || handle.core().leave(place);
        match handle.core().commit.append_end(caller, &entry, record, reservation, taken, queued) {
            Ok(ticket) => {
                self.core().leases.forget(&self.attempt);
                PendingEnd::Queued(QueuedEnd { claim: self, ticket, record: stored })
            }
            Err(error) => self.not_queued(error),
        }
    }

    /// The log did not take the end. The error returns the claim, unless a commit failed: then
    /// only the next opening decides the claim's state.
    fn not_queued(mut self, error: CommitError) -> PendingEnd {
        match &error {
            CommitError::Failed(failure) => {
                self.core().leases.forget(&self.attempt);
                self.attempt.end(Ended::Failed(Box::new(failure.clone())));
                PendingEnd::Refused(EndError::new(ClaimError::Commit(error), None))
            }
            #[cfg(feature = "postgres")]
            CommitError::Shared(_) => unreachable!("the engine is on a file"),
            CommitError::Busy(_)
            | CommitError::Closed
            | CommitError::InsideCallback
            | CommitError::InsideTransaction => {
                self.undo_end();
                self.refused(error.into())
            }
        }
    }

    /// The claim is as it was.
    fn refused(self, reason: ClaimError) -> PendingEnd {
        PendingEnd::Refused(EndError::new(reason, Some(self.into())))
    }

    fn superseded(self) -> PendingEnd {
        PendingEnd::Superseded(self.handle(), Arc::clone(&self.attempt))
    }
}

impl Core {
    /// Releases a claim that is ending and that the log does not know. The same step checks that
    /// the engine is open: if a close has counted the claim, its holder gets an error.
    fn forget_unlogged(&self, attempt: &Arc<Attempt>) -> Result<(), CommitError> {
        self.index.change(attempt.digest, |slot| {
            if let Err(unusable) = self.health.may_use() {
                return (Change::Keep, Err(unusable));
            }
            let is_it = slot.attempt().is_some_and(|current| Arc::ptr_eq(current, attempt));
            (if is_it { Change::Set(Slot::Vacant) } else { Change::Keep }, Ok(()))
        })?;
        self.leases.forget(attempt);
        Ok(())
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::*;
    use crate::engine::calls::lookup::tests::{claim, open};

    /// The holder's thread is held up between its mark on the key and the queue, while another
    /// thread closes the file. Then the log does not take the end, and the next opening finds the
    /// claim.
    #[test]
    fn a_claim_whose_end_comes_too_late_for_a_close_counts_as_left() {
        let engine = open();
        let core = engine.handle.core();
        let claim = claim(&engine, "key");
        let taken = take_for_ending(&core.index, &core.clock, claim.of());
        assert!(taken.is_some());
        assert_eq!(engine.clone().close().unwrap().claims_left, 1, "claims that callers still have");
        drop(claim);
    }
}
