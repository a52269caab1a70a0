//! Group commit: callers queue entries, one of them writes for all.
//!
//! A caller that finds the log idle becomes the leader: it takes the writer, writes the group at
//! the head of the queue, syncs, publishes and wakes the callers that wait for it. It goes on with
//! the next group until the queue is empty or it has led long enough; then a follower takes over.
//! A lone caller pays for no hand-over. Tasks must not block, so for their entries a thread of the
//! engine's own leads (`Commit::lead_if_called`) if no caller happens to.
//!
//! The thread that holds the [`LogWriter`] is the leader. `None` in its place means that a thread
//! leads, or that a commit failed.

mod calls;
mod closing;
mod counters;
mod intake;
mod leading;
mod publishing;
mod queue;
mod settling;
mod status;

pub(crate) use counters::CommitStats;
pub(crate) use leading::Duty;
pub(crate) use queue::Limits;
pub(crate) use status::Ticket;

use crate::clock::{Deadline, EngineClock};
use crate::error::{CommitError, Failure};
use crate::fork::Origin;
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, OnceLock};
use crate::task::notifier::Notifier;
use crate::task::timers::Timers;
use crate::task::wait_list::WaitList;
use crate::wal::{LogSpace, LogWriter};
use counters::Counters;
use queue::{Intake, Queue};

/// What becomes of entries once they are durable, or once it is known that they may not be.
pub(crate) trait Publish: Send + Sync + std::fmt::Debug {
    /// What rides along with an entry.
    type Op: Send;
    /// What shows that only the caller can change what an entry is about, until that is published.
    type Held;

    /// The frame with sequence `seq` is durable; takes what rides along. Called by one thread at a
    /// time, in the order of sequences.
    fn publish(&self, seq: u64, ops: &mut Vec<Self::Op>);

    /// A commit failed. Called once, before any waiter is told.
    fn failed(&self, failure: &Failure);
}

/// The engine's threads that help with commits, and how they are called. Where there is none,
/// callers do its work.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    /// Leads where no caller does. Without it tasks' entries wait until somebody leads.
    pub(crate) leader: Option<Notifier>,
    /// Publishes where the leader has the next group to write.
    pub(crate) press: Option<Notifier>,
    /// Moves the log to the store, which makes space in it.
    pub(crate) worker: Option<Notifier>,
}

pub(crate) struct Commit<P: Publish> {
    publisher: Arc<P>,
    space: Arc<LogSpace>,
    clock: Arc<EngineClock>,
    /// Never held across I/O, publishing, or a wait for anything but `drained`; a group's list of
    /// waiters is locked under it, and a shard of the index, for a look whether an entry may still
    /// come in.
    queue: Mutex<Queue<P::Op>>,
    /// A group left the queue.
    drained: Condvar,
    /// Tasks that wait for the same.
    tasks_drained: WaitList,
    threads: Threads,
    /// Somebody waits for the thread that leads.
    is_called: AtomicBool,
    /// When it has to lead though nobody waits: entries were acknowledged before they are durable.
    /// Leaf lock.
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
            tasks_drained: WaitList::default(),
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

    /// Where [`failure`](Self::failure) will be, for all that depends on commits.
    pub(crate) fn failure_cell(&self) -> Arc<OnceLock<Failure>> {
        Arc::clone(&self.failure)
    }

    /// Asked before any lock is taken: in a forked child it may be held by a thread that is not
    /// there.
    fn check_process(&self) -> Result<(), CommitError> {
        if self.origin.is_elsewhere() { Err(CommitError::Failed(Failure::Forked)) } else { Ok(()) }
    }

    /// Entries that wait to be written.
    pub(crate) fn queued(&self) -> usize {
        self.queue.lock().entries()
    }

    pub(crate) fn stats(&self) -> CommitStats {
        self.counters.stats()
    }
}

/// What models of commits look at; see `models`.
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
