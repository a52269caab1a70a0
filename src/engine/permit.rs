//! What claims and waits take of what is limited, given back when they end.

use std::time::Duration;

use super::Handle;
use super::core::{Asked, Core};
use super::policies::Policies;
use crate::attempt::Attempt;
use crate::caller::Caller;
use crate::clock::Deadline;
use crate::codec::ENTRY_OVERHEAD_MAX;
use crate::error::{BeginError, Busy, CommitError, Failure};
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

impl Core {
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
        self.promise_until(caller, bytes, None).await
    }

    /// [`promise`](Self::promise) with the deadline of a batch.
    async fn promise_until(
        &self,
        caller: Caller,
        bytes: u64,
        deadline: Option<Deadline>,
    ) -> Result<(), CommitError> {
        if self.gate.is_forked() {
            return Err(CommitError::Failed(Failure::Forked));
        }
        if self.room.try_promise(bytes) {
            return Ok(());
        }
        // Boxed, because nearly nobody comes here, and whoever does not should not carry it along.
        let _waiting = Waiter::new(&self.counters.waiting_for_room);
        Box::pin(self.wait_for_room(caller, bytes, deadline)).await
    }

    async fn wait_for_room(
        &self,
        caller: Caller,
        bytes: u64,
        deadline: Option<Deadline>,
    ) -> Result<(), CommitError> {
        let patience = self.options.patience;
        let deadline = deadline.unwrap_or_else(|| Deadline::after(patience));
        let late = Err(CommitError::Busy(Busy::QueueFull { waited: patience }));
        match caller {
            // The worker would wait for room that it makes itself.
            Caller::Thread if self.options.workers && self.check_waiting().is_err() => {
                self.promise_now(bytes).unwrap_or(Err(CommitError::InsideCallback))
            }
            Caller::Thread => loop {
                let wakes = self.room.wakes();
                if let Some(promised) = self.promise_now(bytes) {
                    return promised;
                }
                // Without a worker nobody else makes room.
                if deadline.has_passed() || !self.options.workers {
                    return late;
                }
                self.room.wait(bytes, wakes, deadline);
            },
            // Without a worker nobody would end the wait of a batch that is polled by its own thread.
            Caller::Member if !self.options.workers => self.promise_now(bytes).unwrap_or(late),
            Caller::Task | Caller::Member => {
                let promised = self.room.until(|| self.promise_for(caller, bytes));
                self.timers.timeout(deadline, promised).await.unwrap_or(late)
            }
        }
    }

    /// [`promise_now`](Self::promise_now). A member of a batch does not wait for the end of claims: the batch may have them, and others
    /// of the batch have their answers.
    fn promise_for(&self, caller: Caller, bytes: u64) -> Option<Result<(), CommitError>> {
        self.promise_now(bytes).or_else(|| {
            let is_in_vain =
                caller == Caller::Member && !self.room.may_come(bytes, self.options.log_bytes_max());
            is_in_vain.then_some(Err(CommitError::Busy(Busy::QueueFull { waited: Duration::ZERO })))
        })
    }

    /// Asks for room, and promises it if it is there by then. `None` means: wait.
    fn promise_now(&self, bytes: u64) -> Option<Result<(), CommitError>> {
        if self.gate.is_forked() {
            return Some(Err(CommitError::Failed(Failure::Forked)));
        }
        // Asked before the worker is called, so that it sees what is wanted.
        if self.room.try_promise(bytes) {
            return Some(Ok(()));
        }
        if self.options.workers {
            self.worker.nudge();
            // What nobody waits for holds room as well.
            self.commit.call();
        } else {
            self.make_room();
        }
        if self.room.try_promise(bytes) {
            return Some(Ok(()));
        }
        if let Some(failure) = self.commit.failure().or(self.halted.get()) {
            return Some(Err(CommitError::Failed(failure.clone())));
        }
        if let Err(shut) = self.gate.check() {
            return Some(Err(shut.into()));
        }
        let full = self.full.lock().any();
        full.map(|failure| Err(CommitError::Busy(Busy::DiskFull(failure))))
    }
}

impl Permit {
    pub(super) async fn take(
        caller: Caller,
        handle: &Arc<Handle>,
        scope: &[u8],
        policy: &Policy,
        promise: Promise,
    ) -> Result<Self, BeginError> {
        let core = handle.core();
        let max = core.options.max_in_flight;
        let before = core.in_flight.fetch_add(1, Ordering::Relaxed);
        // The permit exists from here on, so that every way out gives it back.
        let mut permit = Self::of(Share::default(), handle);
        if before >= max {
            return Err(BeginError::Busy(Busy::TooManyClaims { max }));
        }
        if core.policies.enter(scope, policy)? {
            permit.share_mut().scope = Some(scope.into());
        }
        let bytes = promise.intent + promise.ending;
        core.promise(caller, bytes).await?;
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

    /// Notes that `bytes` of the promise are the commit queue's now.
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
            self.handle.core().promise_until(caller, more, deadline).await?;
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
