//! Reads records for tasks, which must not wait for the disk: one of the engine's threads reads
//! for them, or a few where reads are slow.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::gate::Gate;
use crate::clock::{Deadline, EngineClock};
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

/// Threads that read. The first does all reads, as long as none of them is slow.
pub(in crate::engine) const READERS: usize = 4;
/// The number of the thread that has other work too, and stands in for the readers.
pub(in crate::engine) const STAND_IN: usize = READERS;
/// A read that takes longer is slow: another thread reads what waits behind it. Also how often the
/// timekeeper looks whether one is.
const SLOW: Duration = Duration::from_millis(100);

type Answer = Result<StoredRecord, ReadError>;

#[derive(Debug)]
pub(crate) struct Reads {
    /// Leaf lock, but for the reply of a job that no task waits for.
    queue: Mutex<Queue>,
    readers: Vec<Notifier>,
    timekeeper: Notifier,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Tasks that wait for a place among the jobs. No later task gets one before them.
    line: WaitQueue,
    /// Places that tasks of the line were given and have not taken yet.
    given: usize,
    /// What each of the threads reads now.
    reading: [Option<BlockRead>; STAND_IN + 1],
    /// When the timekeeper looks whether jobs wait behind a slow read; `None` if none waited.
    look: Option<Deadline>,
    closed: bool,
}

/// A block that a thread reads.
#[derive(Debug)]
struct BlockRead {
    block: u64,
    /// When the read counts as slow.
    slow_from: Deadline,
    /// Jobs for the same block: one bad block must not hold all threads. They take no place, for no
    /// other thread could take them. The thread that reads queues them again when it is done.
    behind: Vec<Job>,
}

impl BlockRead {
    /// Lets a job wait behind the read. At most twice as many wait as tasks have waited at once.
    fn let_wait(&mut self, job: Job) {
        if self.behind.len() == self.behind.capacity() {
            self.behind.retain(Job::is_awaited);
            self.behind.reserve(self.behind.len() + 1);
        }
        self.behind.push(job);
    }
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

    /// The first thread that no slow read holds up.
    fn first_free(&self) -> Option<usize> {
        let is_free =
            |read: &Option<BlockRead>| read.as_ref().is_none_or(|read| !read.slow_from.has_passed());
        self.reading.iter().take(READERS).position(is_free)
    }

    /// Lets the first jobs wait behind the reads of their blocks, up to one whose block no thread
    /// reads. Whether there is one. For a thread that looks for a job, and for the timekeeper where a
    /// read is slow: with each read that begins it would move all jobs of a block once for each.
    fn has_job(&mut self) -> bool {
        while let Some(block) = self.jobs.front().map(|job| job.place.block()) {
            let Some(read) = self.reading.iter_mut().flatten().find(|read| read.block == block) else {
                return true;
            };
            if let Some(job) = self.jobs.pop_front() {
                read.let_wait(job);
            }
        }
        false
    }

    /// Whether the timekeeper has to be told that jobs wait behind a read.
    fn starts_watch(&mut self) -> bool {
        let waits = self.jobs.len() > 1 || self.reading.iter().any(Option::is_some);
        let starts = waits && self.look.is_none();
        if starts {
            self.look = Some(Deadline::after(SLOW));
        }
        starts
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
    /// The process in which it was queued: a forked child must not take the reply's lock.
    generation: u64,
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
        // The task that it woke, or another one before, may have forked.
        if self.generation != fork::generation() {
            return;
        }
        // Only the first answer counts. Where it was taken already, nobody looks at another.
        self.answer(Err(ReadError::Closed));
    }
}

impl Reads {
    pub(in crate::engine) fn new(readers: Vec<Notifier>, timekeeper: Notifier) -> Self {
        Self { queue: Mutex::default(), readers, timekeeper }
    }

    /// The record at `place`, as [`Store::read`] gives it.
    pub(in crate::engine) async fn read(&self, place: RecordLocation, digest: Digest, gate: &Gate) -> Answer {
        let reply = Arc::new(Reply::default());
        let mut line = InLine { reads: self, turn: None, generation: fork::generation() };
        poll_fn(|context| {
            if gate.is_forked() {
                return Poll::Ready(Err(ReadError::Forked));
            }
            let generation = fork::generation();
            line.poll(context, || Job { place, digest, reply: Arc::clone(&reply), generation })
        })
        .await?;
        drop(line);
        self.call_reader();
        let answer = || {
            if gate.is_forked() {
                return Some(Err(ReadError::Forked));
            }
            reply.answer.lock().take()
        };
        reply.task.until(answer).await
    }

    /// Wakes a thread for a job that has been queued.
    fn call_reader(&self) {
        let mut queue = self.queue.lock();
        // Where all are held up, the first that is not any more goes on by itself.
        let reader = self.readers.get(queue.first_free().unwrap_or(0));
        let starts_watch = queue.starts_watch();
        drop(queue);
        reader.into_iter().for_each(Notifier::notify);
        if starts_watch {
            self.timekeeper.notify();
        }
    }

    /// Wakes another thread if slow reads hold up jobs. For the timekeeper.
    pub(in crate::engine) fn relieve(&self) {
        let mut queue = self.queue.lock();
        if !queue.look.is_some_and(Deadline::has_passed) {
            return;
        }
        let has_job = queue.has_job();
        queue.look = has_job.then(|| Deadline::after(SLOW));
        let free = if has_job { queue.first_free() } else { None };
        let wakeups = queue.serve_line();
        drop(queue);
        free.and_then(|free| self.readers.get(free)).into_iter().for_each(Notifier::notify);
        wakeups.wake();
    }

    /// Lets a look be due.
    #[cfg(test)]
    pub(in crate::engine) fn look_now(&self) {
        self.queue.lock().look = Some(Deadline::after(Duration::ZERO));
    }

    /// When to [look](Self::relieve) again.
    pub(in crate::engine) fn next_look(&self) -> Deadline {
        self.queue.lock().look.unwrap_or(Deadline::NEVER)
    }

    /// Serves requests: as the thread of this number until none is left for it; as one of many that
    /// help where the engine has no threads, as many as are queued when it is called; as the one
    /// that [stands in](STAND_IN) no longer than a read may take that is not slow, because it has
    /// other work too.
    pub(in crate::engine) fn serve(&self, store: &Store, clock: &EngineClock, reader: Option<usize>) {
        let generation = fork::generation();
        let is_sole = reader.is_some_and(|reader| reader < READERS);
        let wanted = if is_sole { usize::MAX } else { self.queue.lock().jobs.len() };
        let until = if reader == Some(STAND_IN) { Deadline::after(SLOW) } else { Deadline::NEVER };
        // The task that was woken last may have forked.
        let goes_on = || generation == fork::generation() && !until.has_passed();
        for _ in (0..wanted).take_while(|_| goes_on()) {
            let mut queue = self.queue.lock();
            let job = if queue.has_job() { queue.jobs.pop_front() } else { None };
            let awaited = job.as_ref().filter(|job| job.is_awaited());
            let is_awaited = awaited.is_some();
            let block = awaited.map(|job| job.place.block());
            let reading =
                block.zip(reader).map(|(block, reader)| Reading::start(self, &mut queue, reader, block));
            let wakeups = queue.serve_line();
            drop(queue);
            wakeups.wake();
            if generation != fork::generation() {
                // A task of the line has forked.
                return;
            }
            let Some(job) = job else { return };
            if is_awaited {
                job.answer(store.read(job.place, job.digest, || clock.now()));
            }
            drop(reading);
        }
    }

    /// Whether a read waits for a thread.
    pub(in crate::engine) fn have_jobs(&self) -> bool {
        !self.queue.lock().jobs.is_empty()
    }

    pub(super) fn notify(&self) {
        self.readers.iter().for_each(Notifier::notify);
    }

    /// Refuses all requests from now on.
    pub(in crate::engine) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        let refused = std::mem::take(&mut queue.jobs);
        let behind = queue.reading.iter_mut().flatten().map(|read| std::mem::take(&mut read.behind));
        let behind: Vec<_> = behind.collect();
        let wakeups = queue.line.wake_all();
        drop(queue);
        drop((refused, behind));
        wakeups.wake();
    }
}

/// A read of one of the threads, noted in the queue from the moment at which its job has left it.
struct Reading<'a> {
    reads: &'a Reads,
    reader: usize,
    /// The process in which it began: a forked child must not take the lock.
    generation: u64,
}

impl<'a> Reading<'a> {
    fn start(reads: &'a Reads, queue: &mut Queue, reader: usize, block: u64) -> Self {
        if let Some(reading) = queue.reading.get_mut(reader) {
            let slow_from = Deadline::after(SLOW);
            *reading = Some(BlockRead { block, slow_from, behind: Vec::new() });
        }
        Self { reads, reader, generation: fork::generation() }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if self.generation != fork::generation() {
            return;
        }
        let mut queue = self.reads.queue.lock();
        let read = queue.reading.get_mut(self.reader).and_then(Option::take);
        let behind = read.map(|read| read.behind).unwrap_or_default();
        let calls = !behind.is_empty();
        queue.jobs.extend(behind);
        drop(queue);
        // This thread may do no more: after a panic, or if it stands in.
        if calls {
            self.reads.call_reader();
        }
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

#[cfg(test)]
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
mod tests {
    use super::*;

    /// So many jobs for a block, and what the tasks that wait for them hold.
    fn queue_jobs(reads: &Reads, block: u64, count: usize) -> Vec<Arc<Reply>> {
        let replies: Vec<_> = (0..count).map(|_| Arc::<Reply>::default()).collect();
        let job = |reply| Job {
            place: RecordLocation::new(block, 0),
            digest: Digest::from_u128(0),
            reply,
            generation: fork::generation(),
        };
        reads.queue.lock().jobs.extend(replies.iter().map(Arc::clone).map(job));
        replies
    }

    fn reads() -> Reads {
        Reads::new(Vec::new(), Notifier::pair().0)
    }

    /// They took all places again once the first read of a bad sector had failed.
    #[test]
    fn jobs_behind_a_read_take_no_place_and_come_again_when_it_is_over_each_time() {
        let reads = reads();
        let replies = queue_jobs(&reads, 7, 2 * WAITING_MAX);
        for round in 1..=3 {
            let mut queue = reads.queue.lock();
            assert!(queue.has_job() && !queue.has_place());
            let job = queue.jobs.pop_front().unwrap();
            let reading = Reading::start(&reads, &mut queue, 0, job.place.block());
            assert!(!queue.has_job() && queue.has_place(), "{round}");
            drop(queue);
            drop((job, reading));
            assert_eq!(reads.queue.lock().jobs.len(), 2 * WAITING_MAX - round);
        }
        let other = queue_jobs(&reads, 8, 1);
        let mut queue = reads.queue.lock();
        let reading = Reading::start(&reads, &mut queue, 0, 7);
        assert!(queue.has_job() && queue.jobs.len() == 1, "for the other block");
        drop(queue);
        reads.close();
        drop(reading);
        assert_eq!(reads.queue.lock().jobs.len(), 0);
        let is_refused = |reply: &Arc<Reply>| matches!(*reply.answer.lock(), Some(Err(ReadError::Closed)));
        assert!(replies.iter().chain(&other).all(is_refused));
    }

    #[test]
    fn jobs_of_tasks_that_gave_up_do_not_gather_behind_a_read() {
        let reads = reads();
        let mut queue = reads.queue.lock();
        let _reading = Reading::start(&reads, &mut queue, 0, 7);
        drop(queue);
        for _ in 0..100 {
            drop(queue_jobs(&reads, 7, 10));
            let mut queue = reads.queue.lock();
            assert!(!queue.has_job());
            let behind = queue.reading.iter().flatten().map(|read| read.behind.len());
            assert!(behind.sum::<usize>() <= 16);
        }
    }
}
