//! Reads records for tasks, which must not wait for the disk: one of the engine's threads reads
//! for them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};

use super::gate::Gate;
use crate::clock::EngineClock;
use crate::error::ReadError;
use crate::foreign::TaskWaker;
use crate::fork;
use crate::key::Digest;
use crate::record::RecordLocation;
use crate::store::{Store, StoredRecord};
use crate::sync::{Arc, Mutex};
use crate::task::notifier::Notifier;
use crate::task::wait_list::WaitList;
use crate::task::wait_queue::{Priority, Turn, WaitQueue, Wakeup, Wakeups};

/// Reads that may wait; further tasks wait for a place while the reader has work.
const WAITING_MAX: usize = 1_024;

type Answer = Result<StoredRecord, ReadError>;

#[derive(Debug)]
pub(crate) struct Reads {
    /// Leaf lock.
    queue: Mutex<Queue>,
    reader: Notifier,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Tasks that wait for a place among the jobs. No later task gets one before them.
    line: WaitQueue,
    /// Places that tasks of the line were given and have not taken yet.
    given: usize,
    closed: bool,
}

/// Whether one more read may wait beside so many jobs and given places. Where no job waits, any
/// may: a task that does not come for its place would hold up all others, for as long as it is
/// kept.
fn is_free(jobs: usize, given: usize) -> bool {
    jobs == 0 || jobs + given < WAITING_MAX
}

impl Queue {
    fn has_place(&self) -> bool {
        is_free(self.jobs.len(), self.given)
    }

    /// Gives free places to the first in line: to all, where no job is left.
    fn serve_line(&mut self) -> Wakeups {
        let Self { jobs, line, given, .. } = self;
        line.serve(|_| {
            let is_free = is_free(jobs.len(), *given);
            *given += usize::from(is_free);
            is_free
        })
    }
}

/// A request for a record. Dropped without an answer, it reports that the engine is closed.
#[derive(Debug)]
struct Job {
    place: RecordLocation,
    digest: Digest,
    reply: Arc<Reply>,
}

#[derive(Debug, Default)]
struct Reply {
    answer: Mutex<Option<Answer>>,
    task: WaitList,
}

impl Job {
    /// Whether the task still waits: its future has the reply, too. On a slow disk most may have
    /// given up, and those that still wait should not wait for the reads of the others.
    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.reply) > 1
    }

    fn answer(&self, answer: Answer) {
        let mut place = self.reply.answer.lock();
        if place.is_none() {
            *place = Some(answer);
        }
        drop(place);
        self.reply.task.wake_all();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Only the first answer counts. Where it was taken already, nobody looks at another.
        self.answer(Err(ReadError::Closed));
    }
}

impl Reads {
    pub(in crate::engine) fn new(reader: Notifier) -> Self {
        Self { queue: Mutex::default(), reader }
    }

    /// The record at `place`, as [`Store::read`] gives it.
    pub(in crate::engine) async fn read(&self, place: RecordLocation, digest: Digest, gate: &Gate) -> Answer {
        let reply = Arc::new(Reply::default());
        let mut line = InLine { reads: self, turn: None, generation: fork::generation() };
        poll_fn(|context| {
            if gate.is_forked() {
                return Poll::Ready(Err(ReadError::Forked));
            }
            line.poll(context, || Job { place, digest, reply: Arc::clone(&reply) })
        })
        .await?;
        drop(line);
        self.reader.notify();
        let answer = || {
            if gate.is_forked() {
                return Some(Err(ReadError::Forked));
            }
            reply.answer.lock().take()
        };
        reply.task.until(answer).await
    }

    /// Serves as many requests as are queued when it is called. For a thread that has other work
    /// too.
    pub(in crate::engine) fn serve(&self, store: &Store, clock: &EngineClock) {
        let generation = fork::generation();
        let wanted = self.queue.lock().jobs.len();
        // The task that was woken last may have forked.
        for _ in (0..wanted).take_while(|_| generation == fork::generation()) {
            let mut queue = self.queue.lock();
            let Some(job) = queue.jobs.pop_front() else { return };
            let wakeups = queue.serve_line();
            drop(queue);
            wakeups.wake();
            if job.is_awaited() {
                job.answer(store.read(job.place, job.digest, || clock.now()));
            }
        }
    }

    pub(super) fn notify(&self) {
        self.reader.notify();
    }

    /// Refuses all requests from now on.
    pub(in crate::engine) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        let refused = std::mem::take(&mut queue.jobs);
        let wakeups = queue.line.wake_all();
        drop(queue);
        drop(refused);
        wakeups.wake();
    }
}

/// A task that may have to wait for a place among the jobs. Its drop gives its place to the next
/// in line.
struct InLine<'a> {
    reads: &'a Reads,
    /// `None` before it waits, and once it took its place.
    turn: Option<Turn>,
    /// The process in which it waits: a forked child must not take the lock.
    generation: u64,
}

impl InLine<'_> {
    /// Queues the job once there is a place for it.
    fn poll(&mut self, context: &Context<'_>, job: impl FnOnce() -> Job) -> Poll<Result<(), ReadError>> {
        let mut waker = None;
        loop {
            let mut queue = self.reads.queue.lock();
            if queue.closed {
                return Poll::Ready(Err(ReadError::Closed));
            }
            let is_served = match self.turn {
                Some(turn) => !queue.line.has(turn),
                None => queue.line.is_empty() && queue.has_place(),
            };
            if is_served {
                queue.given -= usize::from(self.turn.take().is_some());
                queue.jobs.push_back(job());
                return Poll::Ready(Ok(()));
            }
            let turn = *self.turn.get_or_insert_with(|| queue.line.join(1, Priority::Other, false));
            if let Some(waker) = waker.take() {
                let before = queue.line.set_wakeup(turn, Wakeup::Task(waker));
                drop(queue);
                drop(before);
                return Poll::Pending;
            }
            drop(queue);
            // Cloned without the lock, because that is application code.
            waker = Some(TaskWaker::of(context));
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let Some(turn) = self.turn.filter(|_| self.generation == fork::generation()) else { return };
        let mut queue = self.reads.queue.lock();
        let left = queue.line.leave(turn);
        queue.given -= usize::from(left.is_none());
        let wakeups = queue.serve_line();
        drop(queue);
        drop(left);
        wakeups.wake();
    }
}
