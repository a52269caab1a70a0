//! Settling: callers wait until their groups are durable and published.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::leading::Turn;
use super::status::{GroupEnd, Ticket};
use super::{Commit, Publish};
use crate::error::{CommitError, Failure};
use crate::task::caller::Caller;

impl<P: Publish> Commit<P> {
    /// Waits until everything queued by now is durable.
    pub(crate) async fn flush(&self, caller: Caller) -> Result<(), CommitError> {
        self.check_process()?;
        let mut ticket = {
            let queue = self.queue.lock();
            if let Some(failure) = self.failure.get() {
                return Err(CommitError::Failed(failure.clone()));
            }
            let Some(status) = queue.newest_not_durable() else { return Ok(()) };
            if caller == Caller::Task {
                self.call_leader(&queue);
            }
            Ticket::new(status)
        };
        self.settled(caller, &mut ticket).await
    }

    /// Waits until the ticket's group is durable and published.
    pub(crate) async fn settled(&self, caller: Caller, ticket: &mut Ticket) -> Result<(), CommitError> {
        match caller {
            Caller::Thread => self.wait(ticket),
            Caller::Task | Caller::Member => poll_fn(|context| self.poll_settled(ticket, context)).await,
        }
    }

    /// [`settled`](Self::settled) for futures of tasks that are written by hand.
    pub(crate) fn poll_settled(
        &self,
        ticket: &mut Ticket,
        context: &Context<'_>,
    ) -> Poll<Result<(), CommitError>> {
        self.check_process()?;
        ticket.poll(context).map(|end| self.told(end))
    }

    /// Waits until the ticket's group is durable and published; leads if no other thread does.
    pub(crate) fn wait(&self, ticket: &Ticket) -> Result<(), CommitError> {
        let status = &ticket.status;
        let mut parker = None;
        loop {
            self.check_process()?;
            if let Some(end) = status.end() {
                // A thread that never waited has nobody in its part of the list.
                if parker.is_some() {
                    status.wake_some();
                }
                return self.told(end);
            }
            let mut queue = self.queue.lock();
            // Where nothing waits, the group is written, and somebody publishes it.
            if !queue.is_empty()
                && let Some(writer) = queue.writer.take()
            {
                drop(self.lead(queue, writer, Turn::After(status)));
                continue;
            }
            // Under the queue's lock: the present leader will see this thread when it looks for
            // its successor.
            parker = parker.or_else(|| status.register());
            drop(queue);
            if let Some(parker) = &parker {
                parker.wait();
            }
        }
    }

    fn told(&self, end: GroupEnd) -> Result<(), CommitError> {
        match end {
            GroupEnd::Durable => Ok(()),
            GroupEnd::Failed => Err(self.failed()),
        }
    }

    fn failed(&self) -> CommitError {
        CommitError::Failed(self.failure.get().cloned().unwrap_or(Failure::Panicked))
    }
}
