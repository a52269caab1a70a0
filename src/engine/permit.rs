//! What claims and waits take of what is limited, given back when they end.

use std::future::poll_fn;
use std::time::Duration;

use super::Handle;
use super::core::{Asked, Core};
use super::policies::Policies;
use crate::attempt::Attempt;
use crate::caller::Caller;
use crate::clock::{Deadline, Patience};
use crate::codec::ENTRY_OVERHEAD_MAX;
use crate::error::{BeginError, Busy, CommitError, Failure};
use crate::line::Rank;
use crate::policy::Policy;
use crate::sync::{Arc, AtomicUsize, Ordering};
use crate::wal::frame::entry_bytes_max;

/// Room for one claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    pub(super) intent: u64,
    pub(super) ending: u64,
}

/// A call that waits for somebody else's claim.
pub(super) struct Waiter<'a>(pub(super) &'a AtomicUsize);

impl<'a> Waiter<'a> {
    /// One more.
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a claim takes while it is out: a place among those that may be, and room in the log.
#[derive(Debug, Default)]
pub(crate) struct Share {
    promised: u64,
    /// The scope that counts it.
    scope: Option<Box<[u8]>>,
}

impl Share {
    /// The share of a claim that was handed over before the file was opened. Room for its end is promised when it comes.
    pub(super) fn of_standing(attempt: &Attempt, policies: &Policies) -> Self {
        let scope = policies.reenter(attempt.scope()).then(|| attempt.scope().into());
        Self { promised: 0, scope }
    }

    /// How much of `bytes` is not promised.
    pub(super) fn lacks(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.promised)
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.promised += bytes;
    }
}

/// A claim's share. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(super) handle: Arc<Handle>,
    /// `None` once it was taken elsewhere.
    share: Option<Share>,
}

/// One more, unless there are as many as there may be. A caller that is refused is never counted, not even for a moment: another one
/// would be refused for it.
pub(super) fn count_one_more(count: &AtomicUsize, max: usize) -> bool {
    let one_more = |counted: usize| (counted < max).then(|| counted + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

impl Core {
    /// Takes a place among the claims that may be out.
    fn enter(&self) -> Result<(), BeginError> {
        let max = self.options.max_in_flight;
        if count_one_more(&self.in_flight, max) {
            Ok(())
        } else {
            Err(BeginError::Busy(Busy::TooManyClaims { max }))
        }
    }

    pub(super) fn give_back(&self, share: &Share) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(scope) = &share.scope {
            self.policies.leave(scope);
        }
        if share.promised > 0 {
            self.room.withdraw(share.promised);
        }
    }

    /// Bytes of log to promise to a claim: its intent, its completion with a body of the reserved size.
    pub(super) fn claim_promise(&self, asked: Asked<'_>) -> Promise {
        let names = ENTRY_OVERHEAD_MAX + asked.scope.name().len() + asked.key.len();
        Promise { intent: entry_bytes_max(names) as u64, ending: self.ending_bytes(names) }
    }

    fn ending_bytes(&self, names: usize) -> u64 {
        let body = self.options.reserve_bytes.min(self.options.max_body_bytes);
        entry_bytes_max(names + body) as u64
    }

    /// Bytes of log to promise to a claim for its end.
    pub(super) fn ending_promise(&self, attempt: &Attempt) -> u64 {
        self.ending_bytes(ENTRY_OVERHEAD_MAX + attempt.scope().len() + attempt.key().len())
    }

    /// Promises room in the log, waiting for it if need be.
    pub(super) async fn promise(&self, caller: Caller, bytes: u64) -> Result<(), CommitError> {
        self.promise_patiently(caller, bytes, &mut Patience::new(self.options.patience)).await
    }

    /// [`promise`](Self::promise) to a call that may have waited before.
    async fn promise_patiently(
        &self,
        caller: Caller,
        bytes: u64,
        patience: &mut Patience,
    ) -> Result<(), CommitError> {
        if self.try_promise(Rank::Other, bytes)? {
            return Ok(());
        }
        self.wait_for_room(caller, Rank::Other, bytes, patience.until()).await
    }

    /// Promises room that is there by now.
    fn try_promise(&self, rank: Rank, bytes: u64) -> Result<bool, CommitError> {
        if self.gate.is_forked() {
            return Err(CommitError::Failed(Failure::Forked));
        }
        Ok(self.room.try_promise_to(rank, bytes))
    }

    /// [`promise`](Self::promise) to a claim that is out, in front of all others who wait.
    pub(super) async fn promise_to_claim(&self, caller: Caller, bytes: u64) -> Result<(), CommitError> {
        self.promise_until(caller, Rank::Claim, bytes, None).await
    }

    /// [`promise`](Self::promise) with the deadline of a batch.
    async fn promise_until(
        &self,
        caller: Caller,
        rank: Rank,
        bytes: u64,
        deadline: Option<Deadline>,
    ) -> Result<(), CommitError> {
        if self.try_promise(rank, bytes)? {
            return Ok(());
        }
        let deadline = deadline.unwrap_or_else(|| Deadline::after(self.options.patience));
        self.wait_for_room(caller, rank, bytes, deadline).await
    }

    async fn wait_for_room(
        &self,
        caller: Caller,
        rank: Rank,
        bytes: u64,
        deadline: Deadline,
    ) -> Result<(), CommitError> {
        // Boxed, because nearly nobody comes here, and a call that does not should not carry it along.
        let _waiting = Waiter::new(&self.counters.waiting_for_room);
        Box::pin(self.wait_in_line(caller, rank, bytes, deadline)).await
    }

    async fn wait_in_line(
        &self,
        caller: Caller,
        rank: Rank,
        bytes: u64,
        deadline: Deadline,
    ) -> Result<(), CommitError> {
        let patience = self.options.patience;
        let late = Err(CommitError::Busy(Busy::QueueFull { waited: patience }));
        // In line before the worker is called, so that the worker sees how much is wanted.
        let bytes_max = (caller == Caller::Member).then(|| self.options.log_bytes_max());
        let mut place = self.room.line_up(bytes, rank, bytes_max);
        match caller {
            // The worker would wait for room that it makes itself.
            Caller::Thread if self.options.workers && self.check_waiting().is_err() => {
                place.look(|| self.ask_for_room()).unwrap_or(Err(CommitError::InsideCallback))
            }
            Caller::Thread => loop {
                if let Some(promised) = place.look(|| self.ask_for_room()) {
                    return promised;
                }
                // Without a worker nobody else makes room.
                if deadline.has_passed() || !self.options.workers {
                    return late;
                }
                place.wait(deadline);
            },
            // Without a worker nobody would end the wait of a batch that is polled by its own thread.
            Caller::Member if !self.options.workers => place.look(|| self.ask_for_room()).unwrap_or(late),
            Caller::Task | Caller::Member => {
                let ask = || self.ask_for_room().or_else(|| self.in_vain(caller, bytes));
                let promised = poll_fn(|context| place.poll(context, ask));
                self.timers.timeout(deadline, promised).await.unwrap_or(late)
            }
        }
    }

    /// Why a member of a batch does not wait: only the end of claims could give room. The batch may have those, and others of the batch
    /// have their answers.
    fn in_vain(&self, caller: Caller, bytes: u64) -> Option<CommitError> {
        let is_in_vain = caller == Caller::Member && !self.room.may_come(bytes, self.options.log_bytes_max());
        is_in_vain.then_some(CommitError::Busy(Busy::QueueFull { waited: Duration::ZERO }))
    }

    /// Has room made, and says why none will come, where that is known.
    fn ask_for_room(&self) -> Option<CommitError> {
        if self.gate.is_forked() {
            return Some(CommitError::Failed(Failure::Forked));
        }
        if self.options.workers {
            self.worker.nudge();
            // What nobody waits for holds room as well.
            self.commit.call();
        } else {
            self.make_room();
        }
        if let Some(failure) = self.commit.failure().or(self.halted.get()) {
            return Some(CommitError::Failed(failure.clone()));
        }
        if let Err(shut) = self.gate.check() {
            return Some(shut.into());
        }
        let full = self.full.lock().any();
        full.map(|failure| CommitError::Busy(Busy::DiskFull(failure)))
    }
}

impl Permit {
    pub(super) async fn take(
        caller: Caller,
        handle: &Arc<Handle>,
        scope: &[u8],
        policy: &Policy,
        promise: Promise,
        patience: &mut Patience,
    ) -> Result<Self, BeginError> {
        let core = handle.core();
        let is_counted = core.policies.enter(scope, policy, || core.enter())?;
        // The permit exists from here on, so that every way out gives it back.
        let scope = is_counted.then(|| scope.into());
        let mut permit = Self::of(Share { promised: 0, scope }, handle);
        let bytes = promise.intent + promise.ending;
        core.promise_patiently(caller, bytes, patience).await?;
        permit.share_mut().promised = bytes;
        Ok(permit)
    }

    /// A permit on a share that was taken before.
    pub(super) fn of(share: Share, handle: &Arc<Handle>) -> Self {
        Self { handle: Arc::clone(handle), share: Some(share) }
    }

    /// Takes the share elsewhere.
    pub(super) fn take_share(&mut self) -> Share {
        self.share.take().unwrap_or_default()
    }

    fn share_mut(&mut self) -> &mut Share {
        self.share.get_or_insert_default()
    }

    /// Takes over `bytes` that were promised before.
    pub(super) fn add(&mut self, bytes: u64) {
        self.share_mut().add(bytes);
    }

    /// Notes that `bytes` of the promise are the commit queue's now, or another owner's.
    pub(super) fn spend(&mut self, bytes: u64) {
        let share = self.share_mut();
        debug_assert!(share.promised >= bytes, "only what was promised is spent");
        share.promised = share.promised.saturating_sub(bytes);
    }

    /// Makes sure that at least `bytes` are promised.
    pub(super) async fn raise(
        &mut self,
        caller: Caller,
        bytes: u64,
        deadline: Option<Deadline>,
    ) -> Result<(), CommitError> {
        let more = self.lacks(bytes);
        if more > 0 {
            self.handle.core().promise_until(caller, Rank::Claim, more, deadline).await?;
            self.share_mut().promised += more;
        }
        Ok(())
    }

    /// How much of `bytes` is not promised.
    pub(super) fn lacks(&self, bytes: u64) -> u64 {
        self.share.as_ref().map_or(bytes, |share| share.lacks(bytes))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // What a forked child has is a copy.
        if let Some(share) = self.share.take()
            && !self.handle.core().gate.is_forked()
        {
            self.handle.core().give_back(&share);
        }
    }
}
