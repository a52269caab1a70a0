//! The end of a claim: completed, failed or released.

use super::claim::SharedClaim;
use super::core::{Core, SharedHandle};
use super::granting::Tries;
use super::refusal::{Refusal, carry, check_caller};
use super::row::RowState;
use super::statement::Miss;
use super::statements::begin::span;
use super::statements::end::{EndAsk, Ended as Answer, GentleEnd};
use super::statements::look::Looked;
use crate::attempt::{Attempt, Ended};
use crate::clock::Deadline;
use crate::engine::common::completion::Completion;
use crate::engine::common::counters::Counters;
use crate::engine::common::end_request::{EndRequest, NewResult, record_of};
use crate::engine::common::untold::Untold;
use crate::error::{ClaimError, CommitError, EndError, SharedError, StoreFailure};
use crate::observer::EndKind;
use crate::record::retention::Retention;
use crate::record::{Outcome, Record};
use crate::state::{Decision, Event, decide};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::task::caller::Caller;
use crate::task::reply;
use crate::{Status, Timestamp};

/// What a claim is completed with.
pub(super) struct Result_ {
    pub(super) outcome: Outcome,
    pub(super) body: Arc<[u8]>,
    pub(super) keeps_body: bool,
    pub(super) retention: Retention,
}

impl Result_ {
    /// The result of an attempt, if it is within the limits.
    pub(super) fn new(core: &Core, attempt: &Attempt, result: NewResult<'_>) -> Result<Self, ClaimError> {
        let (len, max) = (result.kept().len(), core.options.max_body_bytes);
        if len > max {
            return Err(ClaimError::BodyTooLarge { len, max });
        }
        let retention = result.completion.retention(attempt.retention).map_err(ClaimError::Option)?;
        let keeps_body = result.completion.keeps_body();
        Ok(Self { outcome: result.outcome, body: result.kept().into(), keeps_body, retention })
    }

    /// The record, once the store has it.
    pub(super) fn record(&self, attempt: &Attempt, completed: Timestamp) -> Record {
        let times = (completed, self.retention.lifetime(completed));
        let record = record_of(attempt, self.outcome, times, (self.keeps_body, &self.body));
        record.set_durable();
        record
    }
}

/// A change that has happened.
pub(super) struct Carried {
    /// When, by the server's clock.
    pub(super) at: Timestamp,
    /// The record of an earlier completion by this claim, whose answer got lost.
    found: Option<Record>,
}

impl SharedClaim {
    /// Ends the claim for a caller of either kind.
    pub(crate) async fn end_for(
        self,
        caller: Caller,
        request: EndRequest<'_>,
    ) -> Result<Untold<Option<Record>>, EndError> {
        match check_caller(caller).and_then(|()| UnderWay::start(&self.handle)) {
            Ok(mark) => carry(caller, self.end_as_asked(request, mark)).await,
            Err(refusal) => Err(self.refused(refusal.into())),
        }
    }

    /// Ends the claim as its holder asks. The record is `None` after a release.
    ///
    /// If the future is dropped, the claim has ended so, or its key becomes interrupted.
    async fn end_as_asked(
        self,
        request: EndRequest<'_>,
        _under_way: UnderWay,
    ) -> Result<Untold<Option<Record>>, EndError> {
        match request {
            EndRequest::Store(result) => self.finish(result).await.map(|record| Untold::new(Some(record))),
            EndRequest::Release => self.release(false).await.map(|()| Untold::new(None)),
            EndRequest::PutBack => self.release(true).await.map(|()| Untold::new(None)),
        }
    }

    /// The same for a task: it happens whether or not the future is polled.
    pub(crate) fn start_end(
        self,
        request: EndRequest<'_>,
    ) -> impl Future<Output = Result<Untold<Option<Record>>, EndError>> + Send + use<> {
        let (reply, ended) = reply::pair();
        let has_started = Arc::new(AtomicBool::new(false));
        match UnderWay::start(&self.handle) {
            Err(refusal) => reply.send(Err(self.refused(refusal.into()))),
            Ok(mark) => {
                let (handle, owned, starts) = (self.handle(), Owned::of(request), Arc::clone(&has_started));
                handle.0.spawn(Box::new(move || {
                    starts.store(true, Ordering::Release);
                    Box::pin(async move { reply.send(self.end_as_asked(owned.request(), mark).await) })
                }));
            }
        }
        // Without the store's thread, the claim was dropped with the job. What was sent by then may
        // have happened.
        let gone = move || {
            let may_be_over = has_started.load(Ordering::Acquire);
            if may_be_over {
                SharedError::Unknown(StoreFailure::closed_meanwhile()).into()
            } else {
                CommitError::Closed
            }
        };
        async move { ended.get().await.unwrap_or_else(|| Err(EndError::new(gone().into(), None))) }
    }

    /// The same for one of a batch, of a caller of either kind.
    pub(crate) fn start_end_for(
        self,
        caller: Caller,
        request: EndRequest<'_>,
    ) -> impl Future<Output = Result<Untold<Option<Record>>, EndError>> + Send + use<> {
        let started = match check_caller(caller) {
            Ok(()) => Ok(self.start_end(request)),
            Err(refusal) => Err(self.refused(refusal.into())),
        };
        async move { started?.await }
    }

    async fn release(mut self, is_unused: bool) -> Result<(), EndError> {
        self.released = if is_unused { EndKind::PutBack } else { EndKind::Released };
        let vacates = self.attempt.earlier.is_none() || self.resolves && !is_unused;
        let end = match self.standing.filter(|_| is_unused) {
            _ if vacates => EndAsk::vacate(self.row(), self.core().vacated_ms()),
            Some(standing) => EndAsk::put_back(self.row(), standing),
            None => EndAsk::give_back(self.row(), self.attempt.unresolved_ttl.map(span)),
        };
        let to = if vacates { RowState::Vacated } else { RowState::Interrupted };
        match self.carry_out(end, Some(to)).await {
            Ok(carried) => {
                self.core().note_end(&self.attempt, self.released, carried.at, 0);
                self.end(if vacates { Ended::Vacated } else { Ended::Interrupted });
                Ok(())
            }
            Err(reason) => Err(self.refused(reason)),
        }
    }

    async fn finish(mut self, result: NewResult<'_>) -> Result<Record, EndError> {
        let outcome = result.outcome;
        let result = match self.result(result) {
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
                self.has_stored(&record);
                Ok(record)
            }
            Err(reason) => Err(self.refused(reason)),
        }
    }

    /// Notes that it has ended with this record.
    pub(super) fn has_stored(&mut self, record: &Record) {
        self.core().note_result(&self.attempt, record);
        self.end(Ended::Done(record.clone()));
    }

    pub(super) fn result(&self, result: NewResult<'_>) -> Result<Result_, ClaimError> {
        Result_::new(self.core(), &self.attempt, result)
    }

    pub(super) fn record(&self, result: &Result_, completed: Timestamp) -> Record {
        result.record(&self.attempt, completed)
    }

    pub(super) fn refused(mut self, reason: ClaimError) -> EndError {
        if matches!(reason, ClaimError::Superseded(_)) {
            Counters::count(&self.core().counters.lease_expired);
            self.end(Ended::Interrupted);
            return EndError::new(reason, None);
        }
        if self.is_past.load(Ordering::Relaxed) {
            return EndError::new(reason, None);
        }
        EndError::new(reason, Some(self.into()))
    }

    /// Changes the claim's row. If an answer got lost, the row tells: it has this claim's nonce
    /// and fence, and the state `to`. `None` for a change after which the claim is still good,
    /// which can be made twice.
    pub(super) async fn carry_out(&self, end: EndAsk, to: Option<RowState>) -> Result<Carried, ClaimError> {
        let core = self.core();
        let (deadline, mut tries) = if self.insists {
            let deadline = core.last_deadline();
            (deadline, Tries::insisting(deadline))
        } else {
            let deadline = core.deadline();
            (deadline, Tries::new(deadline))
        };
        loop {
            let is_locked = match self.ask(&end, deadline).await {
                Ok(ended) if ended.is_done => return Ok(Carried { at: ended.now, found: None }),
                Ok(ended) => ended.is_locked,
                Err(miss) => {
                    if to.is_some() && matches!(miss, Miss::Unknown(_)) {
                        self.may_be_over.store(true, Ordering::Relaxed);
                    }
                    tries.again(core, miss).await.map_err(|refusal| self.unknown(refusal))?;
                    continue;
                }
            };
            let looked = match self.look(deadline).await {
                Ok(looked) => looked,
                Err(miss) => {
                    tries.again(core, miss).await.map_err(|refusal| self.unknown(refusal))?;
                    continue;
                }
            };
            if let Some(carried) = self.why(looked, to, deadline).await? {
                return Ok(carried);
            }
            let next = if is_locked { tries.round_of_locked(core).await } else { tries.round(core).await };
            next.map_err(|refusal| self.unknown(refusal))?;
        }
    }

    /// Once a transaction had its row, each end of the claim passes over it: others that go with
    /// it are not to wait again.
    async fn ask(&self, end: &EndAsk, deadline: Deadline) -> Result<Answer, Miss> {
        let core = self.core();
        if self.was_locked.load(Ordering::Relaxed) {
            return core.ask(GentleEnd(end.clone()), deadline).await;
        }
        let ended = core.ask(end.clone(), deadline).await;
        if ended.as_ref().is_ok_and(|ended| ended.is_locked) {
            self.was_locked.store(true, Ordering::Relaxed);
        }
        ended
    }

    /// After a change that did not happen: when it had happened before, if it had; `None` if it
    /// has to be tried again.
    pub(super) async fn look_why(
        &self,
        to: Option<RowState>,
        deadline: Deadline,
    ) -> Result<Option<Carried>, ClaimError> {
        let looked = self.look(deadline).await.map_err(|miss| self.missed(miss))?;
        self.why(looked, to, deadline).await
    }

    /// What an earlier statement may have done counts only once it is durable.
    pub(super) async fn look(&self, deadline: Deadline) -> Result<Looked, Miss> {
        let may_be_over = self.may_be_over.load(Ordering::Relaxed);
        self.core().look(self.attempt.digest, may_be_over, deadline).await
    }

    /// Of a sure look, if the claim may be over.
    pub(super) async fn why(
        &self,
        looked: Looked,
        to: Option<RowState>,
        deadline: Deadline,
    ) -> Result<Option<Carried>, ClaimError> {
        let core = self.core();
        let digest = self.attempt.digest;
        let now = looked.now;
        let may_be_over = self.may_be_over.load(Ordering::Relaxed);
        let Some(row) = looked.row else {
            return Err(if may_be_over {
                self.past()
            } else {
                core.superseded(&self.attempt, Status::Vacant)
            });
        };
        let is_of_claim = row.nonce == self.nonce && row.fence == self.attempt.fence;
        let is_mine = is_of_claim && Some(row.state) == to;
        let is_over = match row.state {
            // No other caller could complete this claim.
            RowState::Done => is_mine,
            RowState::Vacated => is_mine && may_be_over,
            // Not one that lapsed.
            RowState::Interrupted => is_mine && may_be_over && row.was_returned(),
            RowState::InFlight => false,
        };
        if is_over {
            let found = (row.state == RowState::Done).then(|| row.record(digest));
            return Ok(Some(Carried { at: now, found }));
        }
        match decide(row.state(), Event::End { fence: self.attempt.fence, now }) {
            // Its time is over, and the row is to say so: a statement of this claim's whose answer got
            // lost may still have the row, and change it. Of an interrupted key none does.
            Decision::Superseded if is_of_claim && row.is_in_flight() => {
                if !matches!(core.lapses(&row, digest, deadline).await, Ok(true)) {
                    return Ok(None);
                }
                Err(core.superseded(&self.attempt, row.status(digest, now, &core.budget)))
            }
            Decision::Superseded if may_be_over && !row.shows_end_of(self.attempt.fence) => {
                let is_released = to == Some(RowState::Vacated) && row.is_of_vacant_key();
                if !is_released || !self.stood_until(row.started, deadline).await {
                    return Err(self.past());
                }
                Ok(Some(Carried { at: now, found: None }))
            }
            Decision::Superseded => {
                Err(core.superseded(&self.attempt, row.status(digest, now, &core.budget)))
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

    /// Whether the claim was good until then, if nothing had ended it: its lease lasted, and so did its
    /// session, which is renewed once more to make sure.
    async fn stood_until(&self, time: Timestamp, deadline: Deadline) -> bool {
        let Some(session) = self.session else { return false };
        self.core().renewed(deadline).await;
        time < self.attempt.lease_until() && self.core().session.lives(session)
    }

    /// The claim is over, by a statement of its own or otherwise: the row does not tell any more.
    fn past(&self) -> ClaimError {
        self.is_past.store(true, Ordering::Relaxed);
        Refusal::from(SharedError::Unknown(StoreFailure::used_since())).into()
    }

    fn missed(&self, miss: Miss) -> Refusal {
        self.unknown(Core::refusal(miss))
    }

    /// That nothing was done can't be said, once a statement of this call or of one before it may
    /// have ended the claim.
    fn unknown(&self, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::Shared(SharedError::Unavailable(failure))
                if self.may_be_over.load(Ordering::Relaxed) =>
            {
                SharedError::Unknown(failure).into()
            }
            Refusal::Shared(SharedError::Busy { .. }) | Refusal::Closed
                if self.may_be_over.load(Ordering::Relaxed) =>
            {
                SharedError::Unknown(self.core().failure()).into()
            }
            other @ (Refusal::Shared(_) | Refusal::Closed | Refusal::Forked | Refusal::InsideCallback) => {
                other
            }
        }
    }
}

/// A begin or the end of a claim that is under way: a close waits for it.
pub(super) struct UnderWay(Arc<SharedHandle>);

impl UnderWay {
    /// Refused once the engine is closed.
    pub(super) fn start(handle: &Arc<SharedHandle>) -> Result<Self, Refusal> {
        handle.0.ending.fetch_add(1, Ordering::AcqRel);
        let mark = Self(Arc::clone(handle));
        handle.0.check().map(|()| mark)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.ending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request with a body of its own, for the store's thread.
enum Owned {
    Store(Outcome, Vec<u8>, Completion),
    Release,
    PutBack,
}

impl Owned {
    fn of(request: EndRequest<'_>) -> Self {
        match request {
            EndRequest::Store(NewResult { outcome, body, completion }) => Self::Store(
                outcome,
                if completion.keeps_body() { body.to_vec() } else { Vec::new() },
                completion,
            ),
            EndRequest::Release => Self::Release,
            EndRequest::PutBack => Self::PutBack,
        }
    }

    fn request(&self) -> EndRequest<'_> {
        match self {
            Self::Store(outcome, body, completion) => EndRequest::store(*outcome, body, *completion),
            Self::Release => EndRequest::Release,
            Self::PutBack => EndRequest::PutBack,
        }
    }
}
