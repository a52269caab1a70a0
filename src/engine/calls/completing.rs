//! The steps of an end of a claim: check it, reserve log space, and queue its entry.

use super::end_request::EndRequest;
use super::ending::{Ending, EndingState};
use super::pending_end::{EndRejected, PendingEnd};
use crate::attempt::{Attempt, Ended};
use crate::clock::Deadline;
use crate::codec::ENTRY_OVERHEAD_MAX;
use crate::engine::core::Core;
use crate::engine::core::ending_proof::{EndingProof, take_for_ending};
use crate::engine::core::log_record::LogRecord;
use crate::engine::handles::claim::Claim;
use crate::engine::handles::completion::Completion;
use crate::engine::handles::handle::Handle;
use crate::error::{ClaimError, CommitError, EndError};
use crate::index::{Change, Slot};
use crate::observer::EndKind;
use crate::policy::Durability;
use crate::record::{Outcome, Record};
use crate::sync::Arc;
use crate::task::caller::{Caller, block};
use crate::wal::frame::entry_bytes_max;

impl Claim {
    /// `None` if the log need not know.
    pub(super) fn hand_over_release(mut self, caller: Caller) -> Result<Option<PendingEnd>, EndRejected> {
        if let Err(forked) = self.core().health.check_process() {
            return Err(EndRejected::Other(EndError::new(CommitError::Failed(forked).into(), Some(self))));
        }
        if let Err(inside) = self.core().check_blocking(caller) {
            return Err(EndRejected::Other(EndError::new(inside.into(), Some(self))));
        }
        let taken = self.start_ending()?;
        let core = self.core();
        let attempt = Arc::clone(&self.attempt);
        let vacates = attempt.earlier.is_none() || self.terms.resolves;
        // A claim that the log knows nothing of, nor of an attempt before it, leaves nothing to
        // undo there.
        if !self.terms.logged && attempt.earlier.is_none() {
            let forgotten = core.forget_unlogged(&attempt);
            if let Err(error) = forgotten {
                return Err(self.not_handed_over(error));
            }
            return Ok(None);
        }
        if vacates {
            return self.hand_over(caller, LogRecord::Vacated(attempt, None), taken).map(Some);
        }
        // What this claim knows of itself says nothing of the attempt before it.
        let now = core.clock.now();
        self.hand_over(caller, LogRecord::Returned(attempt, now), taken).map(Some)
    }

    pub(super) fn finish(self, result: EndRequest<'_>) -> Result<Record, EndError> {
        self.start_completing(Caller::Thread, result).wait()
    }

    pub(super) fn finish_async(self, result: EndRequest<'_>) -> Ending<Record> {
        match self.start_completing(Caller::Task, result) {
            Completing::PendingEnd(handed, record) => Ending(EndingState::PendingEnd(Some((handed, record)))),
            slow @ (Completing::Waits(..) | Completing::Superseded(..) | Completing::Refused(_)) => {
                Ending::slowly(slow.acknowledged(Caller::Task))
            }
        }
    }

    /// Queues the outcome, if that needs no waiting.
    pub(super) fn start_completing(mut self, caller: Caller, result: EndRequest<'_>) -> Completing {
        let body_len = result.kept().len();
        if let Err(refused) = self.check(result) {
            return Completing::Refused(EndError::new(refused, Some(self)));
        }
        if let Err(inside) = self.core().check_blocking(caller) {
            return Completing::Refused(EndError::new(inside.into(), Some(self)));
        }
        let needed = self.room_for(body_len);
        if self.permit.lacks(needed) > 0 {
            if caller != Caller::Thread {
                return Completing::Waits(self, result.outcome, result.body.into(), result.completion);
            }
            if let Err(refused) = block(self.secure_room(caller, body_len, None)) {
                return Completing::Refused(EndError::new(refused, Some(self)));
            }
        }
        self.hand_over_result(caller, result).into()
    }

    /// Whether a result may be stored.
    pub(super) fn check(&self, result: EndRequest<'_>) -> Result<(), ClaimError> {
        self.core().health.check_process().map_err(CommitError::Failed)?;
        result.completion.retention(self.attempt.retention).map_err(ClaimError::Option)?;
        self.check_body(result.kept().len())
    }

    /// Marks the claim as ending, so that no other caller, and no drop, can end it.
    pub(super) fn start_ending(&mut self) -> Result<EndingProof, EndRejected> {
        self.is_over = true;
        let taken = take_for_ending(&self.core().index, &self.core().clock, &self.attempt);
        taken.ok_or_else(|| EndRejected::Superseded(self.handle(), Arc::clone(&self.attempt)))
    }

    /// Makes an ending claim good again: nothing was written.
    pub(super) fn undo_end(&mut self) {
        self.is_over = false;
        self.core().put_back(&self.attempt, Slot::InFlight(Arc::clone(&self.attempt)));
        // Its lease may have been found ended, and let alone because the claim was ending.
        self.core().watch(&self.attempt);
    }

    /// Bytes of log for a completion with a body of so many bytes.
    fn room_for(&self, body_len: usize) -> u64 {
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
    async fn secure_room(
        &mut self,
        caller: Caller,
        body_len: usize,
        deadline: Option<Deadline>,
    ) -> Result<(), ClaimError> {
        let needed = self.room_for(body_len);
        self.permit.raise(caller, needed, deadline).await.map_err(ClaimError::Commit)
    }

    /// Queues the outcome, which was checked and has its log space.
    fn hand_over_result(
        mut self,
        caller: Caller,
        result: EndRequest<'_>,
    ) -> Result<(PendingEnd, Record), EndRejected> {
        let taken = self.start_ending()?;
        let record = result.record(&self.attempt, self.core().clock.now());
        // What is flushed later calls nobody now.
        let relaxed = matches!(self.terms.durability, Durability::Relaxed(_));
        let caller = if relaxed { Caller::Thread } else { caller };
        let completed = LogRecord::Completed(Arc::clone(&self.attempt), record.clone());
        let handed = self.hand_over(caller, completed, taken)?;
        handed.claim.count_outcome(&record);
        if let Durability::Relaxed(within) = handed.claim.terms.durability {
            handed.claim.core().commit.flush_within(within);
        }
        Ok((handed, record))
    }

    /// Counts a result that the log, or the store, has.
    pub(super) fn count_outcome(&self, record: &Record) {
        let end = match record.outcome() {
            Outcome::Success => EndKind::Completed,
            Outcome::Failure => EndKind::Failed,
        };
        self.core().count_end(&self.attempt, end, record.body().len());
    }

    /// Queues a release that the caller asked for.
    pub(super) fn start_releasing(self, caller: Caller) -> Result<Option<PendingEnd>, EndRejected> {
        let (handle, attempt) = (self.handle(), Arc::clone(&self.attempt));
        let handed = self.hand_over_release(caller)?;
        handle.core().count_end(&attempt, EndKind::Released, 0);
        Ok(handed)
    }

    /// Queues the entry that ends the claim. If nothing was written, the error returns the claim
    /// unchanged.
    fn hand_over(
        mut self,
        caller: Caller,
        record: LogRecord,
        taken: EndingProof,
    ) -> Result<PendingEnd, EndRejected> {
        let handle = self.handle();
        let entry = record.encoded();
        match handle.core().commit.append_end(caller, &entry, record, self.reservation(), taken) {
            Ok(ticket) => {
                self.core().leases.forget(&self.attempt);
                Ok(PendingEnd { claim: self, ticket })
            }
            Err(error) => Err(self.not_handed_over(error)),
        }
    }

    /// The log did not take the end. The error returns the claim, unless a commit failed: then
    /// only the next opening decides the claim's state.
    fn not_handed_over(mut self, error: CommitError) -> EndRejected {
        let claim = match &error {
            CommitError::Failed(failure) => {
                self.core().leases.forget(&self.attempt);
                self.attempt.end(Ended::Failed(Box::new(failure.clone())));
                None
            }
            CommitError::Busy(_)
            | CommitError::Closed
            | CommitError::InsideCallback
            | CommitError::InsideTransaction => {
                self.undo_end();
                Some(self)
            }
        };
        EndRejected::Other(EndError::new(ClaimError::Commit(error), claim))
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
        attempt.end(Ended::Vacated);
        Ok(())
    }
}

/// A completion in progress.
#[derive(Debug)]
pub(super) enum Completing {
    /// The log has it.
    PendingEnd(PendingEnd, Record),
    /// It needs more log space than it has reserved.
    Waits(Claim, Outcome, Box<[u8]>, Completion),
    /// The claim is not the current one.
    Superseded(Arc<Handle>, Arc<Attempt>),
    Refused(EndError),
}

impl Completing {
    /// Has it written soon.
    pub(super) fn call_leader(&self) {
        if let Self::PendingEnd(handed, _) = self {
            handed.call_leader();
        }
    }

    /// Waits until it may be acknowledged, as a thread.
    pub(super) fn wait(self) -> Result<Record, EndError> {
        match self {
            Self::PendingEnd(handed, record) => handed.wait().map(|()| record),
            slow @ (Self::Waits(..) | Self::Superseded(..) | Self::Refused(_)) => {
                block(slow.acknowledged(Caller::Thread))
            }
        }
    }

    /// Waits for log space, if it needs more, and then queues the entry.
    pub(super) async fn with_room(self, caller: Caller, deadline: Option<Deadline>) -> Self {
        let Self::Waits(mut claim, outcome, body, completion) = self else { return self };
        let result = EndRequest { outcome, body: &body, completion };
        match claim.secure_room(caller, result.kept().len(), deadline).await {
            Ok(()) => claim.hand_over_result(caller, result).into(),
            Err(refused) => Self::Refused(EndError::new(refused, Some(claim))),
        }
    }

    /// Waits until it may be acknowledged.
    pub(super) async fn acknowledged(self, caller: Caller) -> Result<Record, EndError> {
        let ready = match self {
            Self::Waits(..) => self.with_room(caller, None).await,
            Self::PendingEnd(..) | Self::Superseded(..) | Self::Refused(_) => self,
        };
        let refusal = match ready {
            Self::PendingEnd(handed, record) => return handed.acknowledged(caller).await.map(|()| record),
            Self::Superseded(handle, attempt) => EndRejected::Superseded(handle, attempt),
            Self::Refused(error) => EndRejected::Other(error),
            Self::Waits(..) => unreachable!("it was handed over, or refused"),
        };
        Err(refusal.explained(caller).await)
    }
}

impl From<Result<(PendingEnd, Record), EndRejected>> for Completing {
    fn from(handed: Result<(PendingEnd, Record), EndRejected>) -> Self {
        match handed {
            Ok((handed, record)) => Self::PendingEnd(handed, record),
            Err(EndRejected::Superseded(handle, attempt)) => Self::Superseded(handle, attempt),
            Err(EndRejected::Other(error)) => Self::Refused(error),
        }
    }
}
