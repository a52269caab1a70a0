//! Intake: takes entries into the queue, and lets callers wait while it is full.

use std::future::poll_fn;

use super::in_line::InLine;
use super::leading::Turn;
use super::queue::{Intake, Queue};
use super::status::Ticket;
use super::{Commit, Publish};
use crate::clock::{Deadline, QueueTimeout};
use crate::error::{Busy, CommitError, Failure};
use crate::sync::MutexGuard;
use crate::task::caller::Caller;
use crate::wal::Reservation;

impl<P: Publish> Commit<P> {
    /// Queues an entry, which takes its bytes from the reservation once this succeeds. Waits
    /// while the queue is full, up to `queue_timeout`. `None` if `may`, called under the queue's
    /// lock once there is a place, returns false.
    pub(crate) async fn append(
        &self,
        caller: Caller,
        entry: impl AsRef<[u8]>,
        op: &mut Option<P::Op>,
        reservation: &mut Reservation,
        queue_timeout: &mut QueueTimeout,
        may: impl Fn() -> bool,
    ) -> Result<Option<Ticket>, CommitError> {
        let (until, full) = (queue_timeout.until(), Err(queue_full(queue_timeout)));
        let mut line = InLine::new(self, entry.as_ref());
        let queued = async {
            let mut queue = poll_fn(|context| line.poll(context)).await?;
            if !may() {
                return Ok(None);
            }
            line.take(&mut queue);
            let ticket = op.take().map(|op| queue.push(entry.as_ref(), op, reservation));
            if caller == Caller::Task {
                self.call_leader(&queue);
            }
            if !queue.line.is_empty() {
                // A thread in line may lead for it.
                self.drained.notify_all();
            }
            Ok(ticket)
        };
        self.timers.timeout(until, queued).await.unwrap_or(full)
    }

    /// [`append`](Self::append), if there is a place, or for a thread, which waits for one here.
    /// `None` if a task has to wait: a thread leads, so a place will come, and `op` was not
    /// taken.
    pub(crate) fn append_now(
        &self,
        caller: Caller,
        entry: &[u8],
        op: &mut Option<P::Op>,
        reservation: &mut Reservation,
        queue_timeout: &mut QueueTimeout,
        may: impl Fn() -> bool,
    ) -> Option<Result<Option<Ticket>, CommitError>> {
        if let Err(forked) = self.check_process() {
            return Some(Err(forked));
        }
        // Dropped after the lock of the queue is free.
        let mut line = InLine::new(self, entry);
        let admitted = match caller {
            Caller::Thread => self.admit(&mut line, queue_timeout),
            Caller::Task | Caller::Member => {
                let queue = self.queue.lock();
                self.check_open(&queue).map(|()| queue)
            }
        };
        let mut queue = match admitted {
            Ok(queue) => queue,
            Err(refused) => return Some(Err(refused)),
        };
        if !may() {
            return Some(Ok(None));
        }
        let has_place = line.has_place(&queue);
        if has_place {
            line.take(&mut queue);
        }
        let ticket = op.take_if(|_| has_place).map(|op| queue.push(entry, op, reservation));
        if caller == Caller::Task || ticket.is_none() {
            self.call_leader(&queue);
        }
        ticket.map(|ticket| Ok(Some(ticket)))
    }

    /// Queues an end of a claim at once, however full the queue is, without a further check: an
    /// outcome must not be refused. Each end has had its log space since the grant, which bounds
    /// their number. Any other entry goes through [`append_if`](Self::append_if).
    ///
    /// `queued` is called under the queue's lock: until it has returned nobody learns of the end.
    /// It may take leaf locks only.
    pub(crate) fn append_end(
        &self,
        caller: Caller,
        entry: &[u8],
        op: P::Op,
        reservation: &mut Reservation,
        _held: P::Held,
        queued: impl FnOnce(),
    ) -> Result<Ticket, CommitError> {
        self.check_process()?;
        let mut queue = self.queue.lock();
        self.check_open(&queue)?;
        let ticket = queue.push(entry, op, reservation);
        queued();
        self.call_leader_for(caller, &queue);
        Ok(ticket)
    }

    /// Queues entries at once, one after the other, if `may` returns true. `may` is called under
    /// the queue's lock, so that entries are in the order of the state changes that allow them.
    /// It may add to the reservation. The ticket is that of the last entry.
    pub(crate) fn append_if<E: AsRef<[u8]>>(
        &self,
        caller: Caller,
        entries: impl IntoIterator<Item = (E, P::Op)>,
        reservation: &mut Reservation,
        may: impl FnOnce(&mut Reservation) -> bool,
    ) -> Result<Option<Ticket>, CommitError> {
        self.check_process()?;
        let mut queue = self.queue.lock();
        self.check_open(&queue)?;
        if !may(reservation) {
            return Ok(None);
        }
        let mut ticket = None;
        for (entry, op) in entries {
            ticket = Some(queue.push(entry.as_ref(), op, reservation));
        }
        self.call_leader_for(caller, &queue);
        Ok(ticket)
    }

    /// Returns once no call is between its check of whether it may queue an entry and the entry's
    /// place in the queue.
    pub(crate) fn pass_intake(&self) {
        drop(self.queue.lock());
    }

    pub(super) fn check_open(&self, queue: &Queue<P::Op>) -> Result<(), CommitError> {
        match self.failure.get() {
            Some(failure) => Err(CommitError::Failed(failure.clone())),
            None if queue.intake == Intake::Closed => Err(CommitError::Closed),
            None => Ok(()),
        }
    }

    /// Waits until the queue has a place.
    fn admit<'a>(
        &'a self,
        line: &mut InLine<'a, P>,
        queue_timeout: &mut QueueTimeout,
    ) -> Result<MutexGuard<'a, Queue<P::Op>>, CommitError> {
        let mut queue = self.queue.lock();
        let mut has_waited = false;
        loop {
            self.check_open(&queue)?;
            if line.has_place(&queue) {
                return Ok(queue);
            }
            line.join(&mut queue);
            // Before the caller leads for others, not after: that too is time it waits.
            let deadline = queue_timeout.until();
            if has_waited && deadline.has_passed() {
                return Err(queue_full(queue_timeout));
            }
            has_waited = true;
            // Where nothing waits, a task has not come yet for the place that it was given.
            let is_empty = queue.is_empty();
            match queue.writer.take_if(|_| !is_empty) {
                // Nobody leads, and the callers whose entries wait are on their way.
                Some(writer) => {
                    let led = self.lead(queue, writer, Turn::ForPlace);
                    queue = led.ok_or(CommitError::Failed(Failure::Forked))?;
                }
                None => self.wait_for_drained(&mut queue, deadline),
            }
        }
    }

    pub(super) fn wait_for_drained(&self, queue: &mut MutexGuard<'_, Queue<P::Op>>, deadline: Deadline) {
        match deadline.instant() {
            Some(at) => {
                self.drained.wait_until(queue, at);
            }
            None => self.drained.wait(queue),
        }
    }
}

fn queue_full(queue_timeout: &QueueTimeout) -> CommitError {
    CommitError::Busy(Busy::QueueFull { waited: queue_timeout.span() })
}
