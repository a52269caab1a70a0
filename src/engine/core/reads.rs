//! Reads records for tasks, which must not wait for the disk: one of the engine's threads reads
//! for them.

use std::collections::VecDeque;

use super::gate::Gate;
use crate::error::ReadError;
use crate::fork;
use crate::key::Digest;
use crate::record::RecordLocation;
use crate::store::{Store, StoredRecord};
use crate::sync::{Arc, Mutex};
use crate::task::notifier::Notifier;
use crate::task::wait_list::WaitList;

/// Reads that may wait; further tasks wait for a place.
const WAITING_MAX: usize = 1_024;

type Answer = Result<StoredRecord, ReadError>;

#[derive(Debug)]
pub(crate) struct Reads {
    /// Leaf lock.
    queue: Mutex<Queue>,
    reader: Notifier,
    /// Tasks that wait for a place in the queue.
    crowd: WaitList,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
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
        Self { queue: Mutex::default(), reader, crowd: WaitList::default() }
    }

    /// The record at `place`, as [`Store::read`] gives it.
    pub(in crate::engine) async fn read(&self, place: RecordLocation, digest: Digest, gate: &Gate) -> Answer {
        let reply = Arc::new(Reply::default());
        self.crowd
            .until(|| {
                if gate.is_forked() {
                    return Some(Err(ReadError::Forked));
                }
                let mut queue = self.queue.lock();
                if queue.closed {
                    return Some(Err(ReadError::Closed));
                }
                if queue.jobs.len() >= WAITING_MAX {
                    return None;
                }
                queue.jobs.push_back(Job { place, digest, reply: Arc::clone(&reply) });
                Some(Ok(()))
            })
            .await?;
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
    pub(in crate::engine) fn serve(&self, store: &Store) {
        let generation = fork::generation();
        let wanted = self.queue.lock().jobs.len();
        // The task that was woken last may have forked.
        for _ in (0..wanted).take_while(|_| generation == fork::generation()) {
            let job = self.queue.lock().jobs.pop_front();
            let Some(job) = job else { return };
            self.crowd.wake_all();
            job.answer(store.read(job.place, job.digest));
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
        drop(queue);
        drop(refused);
        self.crowd.wake_all();
    }
}
