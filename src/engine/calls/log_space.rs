//! Log space: what a claim needs, and calls that wait for it.

use std::future::poll_fn;
use std::time::Duration;

use crate::attempt::Attempt;
use crate::clock::{Deadline, QueueTimeout};
use crate::codec::ENTRY_OVERHEAD_MAX;
use crate::engine::common::limits::Waiter;
use crate::engine::common::namespace::KeyRef;
use crate::engine::core::Core;
use crate::engine::file::permit::Needs;
use crate::error::{Busy, CommitError, Failure};
use crate::task::caller::Caller;
use crate::task::wait_queue::Priority;
use crate::wal::frame::entry_bytes_max;
use crate::wal::{Request, Reservation};

impl Core {
    /// Bytes of log that a claim needs: for its intent, and for its completion with a body of the
    /// reserved size.
    pub(in crate::engine) fn claim_needs(&self, asked: &KeyRef<'_>) -> Needs {
        let names = ENTRY_OVERHEAD_MAX + asked.scope.name().len() + asked.key.len();
        Needs { intent: entry_bytes_max(names) as u64, ending: self.ending_bytes(names) }
    }

    fn ending_bytes(&self, names: usize) -> u64 {
        let body = self.options.reserve_bytes.min(self.options.max_body_bytes);
        entry_bytes_max(names + body) as u64
    }

    /// Bytes of log that the end of a claim needs.
    pub(in crate::engine) fn ending_needs(&self, attempt: &Attempt) -> u64 {
        self.ending_bytes(ENTRY_OVERHEAD_MAX + attempt.scope().len() + attempt.key().len())
    }

    /// Reserves log space, and waits if there is none.
    pub(in crate::engine) async fn reserve(
        &self,
        caller: Caller,
        bytes: u64,
    ) -> Result<Reservation, CommitError> {
        self.reserve_patiently(caller, bytes, &mut QueueTimeout::new(self.options.queue_timeout)).await
    }

    /// [`reserve`](Self::reserve) for a call that may have waited before.
    pub(in crate::engine) async fn reserve_patiently(
        &self,
        caller: Caller,
        bytes: u64,
        queue_timeout: &mut QueueTimeout,
    ) -> Result<Reservation, CommitError> {
        match self.try_reserve(Priority::Other, bytes)? {
            Some(reservation) => Ok(reservation),
            None => self.wait_for_space(caller, Priority::Other, bytes, queue_timeout.until()).await,
        }
    }

    /// Reserves space that is already free.
    fn try_reserve(&self, rank: Priority, bytes: u64) -> Result<Option<Reservation>, CommitError> {
        if self.health.is_forked() {
            return Err(CommitError::Failed(Failure::Forked));
        }
        Ok(Reservation::try_new(&self.space, rank, bytes))
    }

    /// [`reserve`](Self::reserve) for a claim in flight, before all other callers that wait.
    pub(in crate::engine) async fn reserve_for_claim(
        &self,
        caller: Caller,
        bytes: u64,
    ) -> Result<Reservation, CommitError> {
        self.reserve_until(caller, bytes, None).await
    }

    /// [`reserve_for_claim`](Self::reserve_for_claim) with the deadline of a batch.
    pub(in crate::engine) async fn reserve_until(
        &self,
        caller: Caller,
        bytes: u64,
        deadline: Option<Deadline>,
    ) -> Result<Reservation, CommitError> {
        if let Some(reservation) = self.try_reserve(Priority::Claim, bytes)? {
            return Ok(reservation);
        }
        let deadline = deadline.unwrap_or_else(|| Deadline::after(self.options.queue_timeout));
        self.wait_for_space(caller, Priority::Claim, bytes, deadline).await
    }

    async fn wait_for_space(
        &self,
        caller: Caller,
        rank: Priority,
        bytes: u64,
        deadline: Deadline,
    ) -> Result<Reservation, CommitError> {
        // Boxed, because nearly nobody comes here, and a call that does not should not carry it
        // along.
        let _waiting = Waiter::new(&self.counters.waiting_for_room);
        Box::pin(self.wait_in_line(caller, rank, bytes, deadline)).await
    }

    async fn wait_in_line(
        &self,
        caller: Caller,
        rank: Priority,
        bytes: u64,
        deadline: Deadline,
    ) -> Result<Reservation, CommitError> {
        let queue_timeout = self.options.queue_timeout;
        let late = || {
            let not_ready = self.health.file_not_ready().map(Busy::FileNotReady);
            Err(CommitError::Busy(not_ready.unwrap_or(Busy::QueueFull { waited: queue_timeout })))
        };
        let full_before = self.health.disk().times();
        // In line before the worker is called, so that the worker sees how much is wanted.
        let bytes_max = (caller == Caller::Member).then(|| self.options.log_bytes_max());
        let mut request = Request::line_up(&self.space, bytes, rank, bytes_max);
        match caller {
            // The worker would wait for space that it makes itself.
            Caller::Thread if self.options.workers && self.serves_others() => {
                request.look(|| self.ask_for_space(rank, None)).unwrap_or(Err(CommitError::InsideCallback))
            }
            Caller::Thread => loop {
                let waits = self.options.workers.then_some(full_before);
                let ask = || self.ask_for_space(rank, waits).or_else(|| self.no_checkpoint_comes(caller));
                if let Some(reserved) = request.look(ask) {
                    return reserved;
                }
                // Without a worker nobody else makes space.
                if deadline.has_passed() || !self.options.workers {
                    return late();
                }
                request.wait(deadline);
            },
            // Without a worker nobody would end the wait of a batch that is polled by its own
            // thread.
            Caller::Member if !self.options.workers => {
                request.look(|| self.ask_for_space(rank, None)).unwrap_or_else(late)
            }
            Caller::Task | Caller::Member => {
                let waits = self.options.workers.then_some(full_before);
                let in_vain = || self.in_vain(caller, bytes).or_else(|| self.no_checkpoint_comes(caller));
                let ask = || self.ask_for_space(rank, waits).or_else(in_vain);
                let reserved = poll_fn(|context| request.poll(context, ask));
                self.timers.timeout(deadline, reserved).await.unwrap_or_else(late)
            }
        }
    }

    /// Why a member of a batch does not wait: only the end of claims could free space. The batch
    /// may hold those claims, and its other members have their answers.
    fn in_vain(&self, caller: Caller, bytes: u64) -> Option<CommitError> {
        let is_in_vain =
            caller == Caller::Member && !self.space.may_come(bytes, self.options.log_bytes_max());
        is_in_vain.then_some(CommitError::Busy(Busy::QueueFull { waited: Duration::ZERO }))
    }

    /// Why the work of a transaction does not wait once the log is as long as it may get: it keeps
    /// checkpoints from coming.
    fn no_checkpoint_comes(&self, caller: Caller) -> Option<CommitError> {
        let is_in_vain = self.holds_maintenance_up(caller) && !self.may_log_grow();
        is_in_vain.then_some(CommitError::InsideTransaction)
    }

    /// Asks the worker for space, and gives the reason if none will come. A waiting caller passes
    /// how often the disk had been found full before it came, because that full disk may be over.
    fn ask_for_space(&self, rank: Priority, full_before: Option<u64>) -> Option<CommitError> {
        if self.health.is_forked() {
            return Some(CommitError::Failed(Failure::Forked));
        }
        if self.options.workers {
            self.worker.notify();
            // Entries that no caller waits for have space as well.
            self.commit.call();
        } else {
            self.make_room();
        }
        // After a failed checkpoint the log still grows, for the ends of claims in flight.
        let grows = rank == Priority::Claim && self.may_log_grow();
        self.health.why_no_space(full_before, grows)
    }
}
