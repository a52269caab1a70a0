//! The end of a claim: completed, failed or released.

use super::claim::SharedClaim;
use super::core::Core;
use super::error::SharedError;
use super::granting::Tries;
use super::row::RowState;
use super::statement::Miss;
use super::statements::begin::span;
use super::statements::end::EndAsk;
use super::statements::look::LookAsk;
use crate::attempt::Ended;
use crate::clock::Deadline;
use crate::error::OptionError;
use crate::record::retention::Retention;
use crate::record::{Outcome, Record, RecordParts};
use crate::state::{Decision, Event, decide};
use crate::sync::{Arc, Ordering};
use crate::task::caller::park_on;
use crate::{Completion, Timestamp};

/// Why a claim could not be ended. It comes back unless it is no longer good: ending it again is
/// safe, even if the outcome is unknown, for the store knows its fence.
pub struct SharedEndError {
    reason: SharedError,
    claim: Option<Box<SharedClaim>>,
}

impl SharedEndError {
    /// What went wrong.
    #[must_use]
    pub fn reason(&self) -> &SharedError {
        &self.reason
    }

    /// The claim, unless it is no longer good.
    #[must_use]
    pub fn into_claim(self) -> Option<SharedClaim> {
        self.claim.map(|claim| *claim)
    }
}

impl std::fmt::Display for SharedEndError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::fmt::Debug for SharedEndError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedEndError({self})")
    }
}

impl std::error::Error for SharedEndError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

/// What a claim is completed with.
pub(super) struct Result_ {
    pub(super) outcome: Outcome,
    pub(super) body: Arc<[u8]>,
    pub(super) keeps_body: bool,
    pub(super) retention: Retention,
}

/// A change that has happened.
pub(super) struct Carried {
    /// When, by the server's clock.
    pub(super) at: Timestamp,
    /// The record of an earlier completion by this claim, whose answer got lost.
    found: Option<Record>,
}

impl SharedClaim {
    /// Ends the claim with a success. Durable when it returns.
    ///
    /// # Errors
    ///
    /// When the body is too long; when the claim's lease or session ended and the claim is not the
    /// current one any more; when the store does not answer in time.
    pub fn complete(self, body: impl AsRef<[u8]>) -> Result<Record, SharedEndError> {
        park_on(self.complete_with_async(body, Completion::new()))
    }

    /// [`complete`](Self::complete) for tasks, on any executor. If the future is dropped, the
    /// claim is completed, or its key becomes interrupted.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    pub async fn complete_async(self, body: impl AsRef<[u8]>) -> Result<Record, SharedEndError> {
        self.complete_with_async(body, Completion::new()).await
    }

    /// The same, with times or without the body.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete), and when a time is out of range.
    pub async fn complete_with_async(
        self,
        body: impl AsRef<[u8]>,
        completion: Completion,
    ) -> Result<Record, SharedEndError> {
        self.finish(Outcome::Success, body.as_ref(), completion).await
    }

    /// Ends the claim with a failure, which retries get as well.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    pub fn fail(self, body: impl AsRef<[u8]>) -> Result<Record, SharedEndError> {
        park_on(self.fail_async(body))
    }

    /// [`fail`](Self::fail) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    pub async fn fail_async(self, body: impl AsRef<[u8]>) -> Result<Record, SharedEndError> {
        self.finish(Outcome::Failure, body.as_ref(), Completion::new()).await
    }

    /// Gives the claim back: its operation certainly did not happen.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    pub fn release(self) -> Result<(), SharedEndError> {
        park_on(self.release_async())
    }

    /// [`release`](Self::release) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    pub async fn release_async(mut self) -> Result<(), SharedEndError> {
        let vacates = self.attempt.earlier.is_none() || self.resolves;
        let end = if vacates {
            EndAsk::vacate(self.row())
        } else {
            EndAsk::give_back(self.row(), self.attempt.unresolved_ttl.map(span))
        };
        let to = if vacates { RowState::Vacated } else { RowState::Interrupted };
        match self.carry_out(end, Some(to)).await {
            Ok(_) => {
                self.end(if vacates { Ended::Vacated } else { Ended::Interrupted });
                Ok(())
            }
            Err(reason) => Err(self.refused(reason)),
        }
    }

    async fn finish(
        mut self,
        outcome: Outcome,
        body: &[u8],
        completion: Completion,
    ) -> Result<Record, SharedEndError> {
        let result = match self.result(outcome, body, completion) {
            Ok(result) => result,
            Err(reason) => return Err(self.refused(reason)),
        };
        let end = EndAsk::complete(
            self.row(),
            outcome,
            Arc::clone(&result.body),
            result.keeps_body,
            result.retention,
        );
        match self.carry_out(end, Some(RowState::Done)).await {
            Ok(carried) => {
                let record = carried.found.unwrap_or_else(|| self.record(&result, carried.at));
                self.end(Ended::Done(record.clone()));
                Ok(record)
            }
            Err(reason) => Err(self.refused(reason)),
        }
    }

    pub(super) fn result(
        &self,
        outcome: Outcome,
        body: &[u8],
        completion: Completion,
    ) -> Result<Result_, SharedError> {
        let max = self.core().options.max_body_bytes;
        let keeps_body = completion.keeps_body();
        if body.len() > max && keeps_body {
            return Err(SharedError::BodyTooLarge { len: body.len(), max });
        }
        let retention = completion
            .retention(self.attempt.retention)
            .map_err(|error: OptionError| SharedError::Option(error))?;
        let body = if keeps_body { body.into() } else { Arc::default() };
        Ok(Result_ { outcome, body, keeps_body, retention })
    }

    pub(super) fn record(&self, result: &Result_, completed: Timestamp) -> Record {
        let attempt = &self.attempt;
        let record = Record::new(
            &RecordParts {
                digest: attempt.digest,
                scope: attempt.scope(),
                key: attempt.key(),
                fingerprint: attempt.fingerprint,
                fence: attempt.fence,
                attempt: attempt.number,
                outcome: result.outcome,
                started: attempt.started,
                completed,
                lifetime: result.retention.lifetime(completed),
                body_kept: result.keeps_body,
                body: &result.body,
            },
            None,
        );
        record.set_durable();
        record
    }

    pub(super) fn refused(mut self, reason: SharedError) -> SharedEndError {
        if matches!(reason, SharedError::Superseded(_)) {
            self.end(Ended::Interrupted);
            return SharedEndError { reason, claim: None };
        }
        SharedEndError { reason, claim: Some(Box::new(self)) }
    }

    /// Changes the claim's row. If an answer got lost, the row tells: it has this claim's nonce and fence, and the state `to`. `None`
    /// for a change after which the claim is still good, which can be made twice.
    pub(super) async fn carry_out(&self, end: EndAsk, to: Option<RowState>) -> Result<Carried, SharedError> {
        let core = self.core();
        core.check()?;
        let deadline = core.deadline();
        let mut tries = Tries::new(deadline);
        loop {
            match core.ask(end.clone(), deadline).await {
                Ok(ended) if ended.is_done => return Ok(Carried { at: ended.now, found: None }),
                Ok(_) => {}
                Err(miss) => {
                    if to.is_some() && matches!(miss, Miss::Unknown(_)) {
                        self.may_be_over.store(true, Ordering::Relaxed);
                    }
                    tries.again(core, miss).await?;
                    continue;
                }
            }
            if let Some(carried) = self.look_why(to, deadline).await? {
                return Ok(carried);
            }
            tries.check(core)?;
        }
    }

    /// After a change that did not happen: when it had happened before, if it had; `None` if it
    /// has to be tried again.
    pub(super) async fn look_why(
        &self,
        to: Option<RowState>,
        deadline: Deadline,
    ) -> Result<Option<Carried>, SharedError> {
        let core = self.core();
        let digest = self.attempt.digest;
        let looked = core.ask(LookAsk { digest }, deadline).await.map_err(Core::refusal)?;
        let now = looked.now;
        let Some(row) = looked.row else {
            return Err(SharedError::Superseded(Box::new(crate::Status::Vacant)));
        };
        let is_mine = row.nonce == self.nonce && row.fence == self.attempt.fence && Some(row.state) == to;
        let may_be_over = self.may_be_over.load(Ordering::Relaxed);
        let is_over = match row.state {
            // No other caller could complete this claim.
            RowState::Done => is_mine,
            RowState::Vacated => is_mine && may_be_over,
            // Not one that lapsed.
            RowState::Interrupted => is_mine && may_be_over && row.was_returned(),
            RowState::InFlight => false,
        };
        if is_over {
            if may_be_over {
                core.confirm(deadline).await?;
            }
            let found = (row.state == RowState::Done).then(|| row.record(digest));
            return Ok(Some(Carried { at: now, found }));
        }
        match decide(row.state(), Event::End { fence: self.attempt.fence, now }) {
            Decision::Superseded => {
                Err(SharedError::Superseded(Box::new(row.status(digest, now, &core.budget))))
            }
            Decision::Grant { .. }
            | Decision::Wait
            | Decision::Replay
            | Decision::Expired
            | Decision::Reused
            | Decision::Unresolved
            | Decision::Busy
            | Decision::Become(_)
            | Decision::Stay => Ok(None),
        }
    }
}
