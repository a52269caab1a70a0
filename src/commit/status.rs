//! `CommitStatus`: the outcome of a group, and its waiters.

use std::task::{Context, Poll};

use crate::fork;
use crate::sync::{Arc, AtomicU8, Mutex, Ordering};
use crate::task::parker::Parker;
use crate::task::wait_list::{WaitList, WaiterId};

/// How many threads a woken thread wakes in turn.
const WAKES: usize = 2;

const PENDING: u8 = 0;
const DURABLE: u8 = 1;
const FAILED: u8 = 2;

/// How a group ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupEnd {
    /// It is durable and published.
    Durable,
    /// It may be durable or not.
    Failed,
}

/// The outcome of a group.
#[derive(Debug, Default)]
pub(super) struct CommitStatus {
    state: AtomicU8,
    /// Threads that wait. Leaf lock.
    waiters: Mutex<Vec<Arc<Parker>>>,
    /// Tasks that wait.
    tasks: WaitList,
}

/// A ticket: refers to the group of a queued entry.
#[derive(Debug)]
#[must_use = "an entry is durable once its ticket was waited for"]
pub(crate) struct Ticket {
    pub(super) status: Arc<CommitStatus>,
    /// Where a task waits for it.
    waiter: WaiterId,
}

impl Ticket {
    pub(super) fn new(status: &Arc<CommitStatus>) -> Self {
        Self { status: Arc::clone(status), waiter: WaiterId::default() }
    }

    /// Whether its entry is durable.
    pub(crate) fn is_durable(&self) -> bool {
        self.status.end() == Some(GroupEnd::Durable)
    }

    /// Waits for the end, as a task.
    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<GroupEnd> {
        let Self { status, waiter } = self;
        status.tasks.poll(waiter, context, || status.end())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.status.tasks.leave(&self.waiter);
    }
}

impl CommitStatus {
    pub(super) fn settle(&self, end: GroupEnd) {
        let state = match end {
            GroupEnd::Durable => DURABLE,
            GroupEnd::Failed => FAILED,
        };
        let waiters = self.waiters.lock();
        self.state.store(state, Ordering::Release);
        drop(waiters);
        let generation = fork::generation();
        self.tasks.wake_all();
        // The task that was woken last may have forked, and the threads are the parent's.
        if generation == fork::generation() {
            self.wake_some();
        }
    }

    /// How it ended, once it has.
    pub(super) fn end(&self) -> Option<GroupEnd> {
        match self.state.load(Ordering::Acquire) {
            PENDING => None,
            DURABLE => Some(GroupEnd::Durable),
            _ => Some(GroupEnd::Failed),
        }
    }

    #[cfg(test)]
    pub(super) fn waiting_tasks(&self) -> usize {
        self.tasks.len()
    }

    #[cfg(test)]
    pub(super) fn waiting_threads(&self) -> usize {
        self.waiters.lock().len()
    }

    /// Wakes a few threads; each of them wakes a few more. The settling thread has no time to
    /// wake them all.
    pub(super) fn wake_some(&self) {
        let mut waiters = self.waiters.lock();
        if waiters.is_empty() {
            return;
        }
        let from = waiters.len().saturating_sub(WAKES);
        let woken = waiters.split_off(from);
        drop(waiters);
        for parker in woken {
            parker.call();
        }
    }

    /// Wakes a thread to take over, if one waits; leaves it in the list, because it may find that
    /// another thread already leads.
    pub(super) fn wake_a_leader(&self) -> bool {
        let parker = self.waiters.lock().first().cloned();
        parker.inspect(|parker| parker.call()).is_some()
    }

    /// Puts the calling thread into the list; returns where it waits. `None` if the group is
    /// settled.
    pub(super) fn register(&self) -> Option<Arc<Parker>> {
        let mut waiters = self.waiters.lock();
        let parker = self.end().is_none().then(Arc::default)?;
        waiters.push(Arc::clone(&parker));
        Some(parker)
    }
}
