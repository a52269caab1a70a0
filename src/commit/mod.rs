//! Group commit: callers queue entries, one of them writes for all.
//!
//! A caller that finds the log idle becomes the leader: it takes the writer, writes the group at
//! the head of the queue, syncs, publishes and wakes the callers that wait for it. It continues
//! with the next group until the queue is empty or its turn is over; then a follower takes over.
//! A lone caller pays for no hand-over. Tasks must not block, so one of the engine's threads
//! leads for their entries (`Commit::lead_if_called`) if no caller does.
//!
//! The thread that holds the [`LogWriter`] is the leader. If the queue has no writer, a thread
//! leads, or a commit failed.

mod closing;
mod counters;
mod in_line;
mod intake;
mod leader_calls;
mod leading;
mod publishing;
mod queue;
mod settling;
mod status;

pub(crate) use counters::CommitStats;
pub(crate) use leading::Duty;
pub(crate) use queue::Limits;
pub(crate) use status::Ticket;

use std::time::Duration;

use crate::clock::{Deadline, EngineClock, Stopwatch};
use crate::error::{CommitError, Failure};
use crate::fork::Origin;
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, OnceLock};
use crate::task::notifier::Notifier;
use crate::task::timers::Timers;
use crate::wal::{LogSpace, LogWriter};
use counters::Counters;
use queue::{Intake, Queue};

/// Handles entries once they are durable, or once a commit failed.
pub(crate) trait Publish: Send + Sync + std::fmt::Debug {
    /// The operation that is queued with an entry.
    type Op: Send;
    /// The proof that only the caller can change the entry's key until the entry is published.
    type Held;

    /// The frame with sequence `seq` is durable; takes its operations. Called by one thread at a
    /// time, in the order of sequences.
    fn publish(&self, seq: u64, ops: &mut Vec<Self::Op>);

    /// A commit failed. Called once, before any waiter is told.
    fn failed(&self, failure: &Failure);
}

/// The notifiers of the engine's threads that help with commits. Without such a thread, callers
/// do its work.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    /// Leads where no caller does. Without it, entries of tasks wait until a thread leads.
    pub(crate) leader: Option<Notifier>,
    /// Publishes while the leader writes the next group.
    pub(crate) press: Option<Notifier>,
    /// Moves the log to the store, which makes space in it.
    pub(crate) worker: Option<Notifier>,
}

pub(crate) struct Commit<P: Publish> {
    publisher: Arc<P>,
    space: Arc<LogSpace>,
    clock: Arc<EngineClock>,
    /// Never held across I/O, publishing, or a wait for anything but `drained`. A group's list of
    /// waiters is locked under it, and a shard of the index, to check whether an entry may still
    /// be queued.
    queue: Mutex<Queue<P::Op>>,
    /// A group left the queue. Threads that wait for a place are woken by it; tasks, by the
    /// queue's line.
    drained: Condvar,
    threads: Threads,
    /// A thread waits for the leader.
    is_called: AtomicBool,
    /// When a thread has to lead though no caller waits, for entries that were acknowledged
    /// before they are durable. Leaf lock.
    flush_at: Mutex<Option<Deadline>>,
    timers: Arc<Timers>,
    /// The first failure. The engine looks at it too.
    failure: Arc<OnceLock<Failure>>,
    /// In a forked child no lock is taken and nothing is written.
    origin: Origin,
    counters: Counters,
}

impl<P: Publish> Commit<P> {
    pub(crate) fn new(
        publisher: Arc<P>,
        space: Arc<LogSpace>,
        clock: Arc<EngineClock>,
        timers: Arc<Timers>,
        limits: Limits,
        threads: Threads,
    ) -> Self {
        Self {
            publisher,
            space,
            clock,
            queue: Mutex::new(Queue::new(limits)),
            drained: Condvar::new(),
            threads,
            is_called: AtomicBool::new(false),
            flush_at: Mutex::default(),
            timers,
            failure: Arc::default(),
            origin: Origin::here(),
            counters: Counters::default(),
        }
    }

    /// The log is ready to be appended to. Before that no space is reserved, and so nothing is
    /// queued.
    pub(crate) fn start(&self, writer: LogWriter) {
        let mut queue = self.queue.lock();
        debug_assert!(queue.intake != Intake::Open && queue.is_empty(), "a log is started once");
        // Closed meanwhile, it stays so.
        if queue.intake == Intake::Early {
            queue.intake = Intake::Open;
        }
        queue.writer = Some(writer);
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// The cell of [`failure`](Self::failure), for other parts that depend on commits.
    pub(crate) fn failure_cell(&self) -> Arc<OnceLock<Failure>> {
        Arc::clone(&self.failure)
    }

    /// Asked before any lock is taken: in a forked child a lock may be held by a thread that
    /// exists only in the parent.
    fn check_process(&self) -> Result<(), CommitError> {
        if self.origin.is_elsewhere() { Err(CommitError::Failed(Failure::Forked)) } else { Ok(()) }
    }

    /// Entries that wait to be written.
    pub(crate) fn queued(&self) -> usize {
        self.queue.lock().entries()
    }

    /// For how long the group that is being written has been written; zero if none is.
    pub(crate) fn running(&self) -> Duration {
        let writing = self.queue.lock().writing;
        writing.as_ref().map_or(Duration::ZERO, Stopwatch::elapsed)
    }

    pub(crate) fn stats(&self) -> CommitStats {
        self.counters.stats()
    }
}

/// The parts that models of commits use; see `models`.
#[cfg(all(test, idemkv_loom))]
impl<P: Publish> Commit<P> {
    pub(crate) fn publisher(&self) -> &P {
        &self.publisher
    }

    pub(crate) fn space(&self) -> &Arc<LogSpace> {
        &self.space
    }

    pub(crate) fn is_over(&self) -> bool {
        self.queue.lock().intake == Intake::Closed
    }
}

#[cfg(test)]
#[cfg(all(feature = "sim", not(any(idemkv_loom, idemkv_shuttle))))]
mod tests;
