//! Publishing: written groups become visible, in the order in which they were written, by one
//! thread at a time.
//!
//! If the next group already waits, the leader writes it and leaves publishing to a thread
//! without other work ([`Commit::publish_what_is_written`]). A failed commit is handled in the
//! same order: groups that were durable before it are still published.

use super::queue::{Queue, Written};
use super::status::{CommitStatus, GroupEnd};
use super::{Commit, Publish};
use crate::activity::{Activity, ActivityMark};
use crate::error::Failure;
use crate::sync::{Arc, MutexGuard};

/// Groups that a thread publishes before it calls the engine's own thread for the rest. Another
/// thread may lead meanwhile, and under load it writes one group after the other.
pub(super) const PUBLISHED_MAX: usize = 8;

impl<P: Publish> Commit<P> {
    /// Publishes the written groups, in order, unless another thread does; that thread then
    /// continues with them. After [`PUBLISHED_MAX`] it leaves the rest to the thread for that, if
    /// there is one. `None` as for [`lead`](Self::lead).
    pub(super) fn publish<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue<P::Op>>,
    ) -> Option<MutexGuard<'a, Queue<P::Op>>> {
        if queue.is_publishing {
            return Some(queue);
        }
        let _inside = ActivityMark::enter(self, Activity::Commits);
        let mut published = 0;
        while let Some(written) = queue.written.pop_front() {
            queue.is_publishing = true;
            drop(queue);
            let ops = self.publish_one(written);
            if self.origin.is_elsewhere() {
                return None;
            }
            queue = self.queue.lock();
            queue.is_publishing = false;
            queue.keep_ops(ops);
            published += 1;
            if published >= PUBLISHED_MAX && !queue.written.is_empty() && self.calls_publisher(&queue) {
                break;
            }
        }
        if published > 0 {
            self.drained.notify_all();
        }
        Some(queue)
    }

    /// Publishes the written groups. For the engine's own thread, when it is woken.
    pub(crate) fn publish_what_is_written(&self) {
        if self.origin.is_elsewhere() {
            return;
        }
        drop(self.publish(self.queue.lock()));
    }

    /// Publishes one group; returns an empty vector, to be used again.
    fn publish_one(&self, written: Written<P::Op>) -> Vec<P::Op> {
        let Written { status, outcome } = written;
        let unwinding = FailOnUnwind::new(self, &status, Stage::Publishing);
        let ops = match outcome {
            Ok((seq, mut ops)) if self.failure.get().is_none() => {
                self.publisher.publish(seq, &mut ops);
                if self.origin.is_elsewhere() {
                    std::mem::forget(unwinding);
                    return Vec::new();
                }
                status.settle(GroupEnd::Durable);
                // A segment may have been filled since those in line called the worker. In a child
                // that a task forked, the parent calls it.
                let calls = || !self.origin.is_elsewhere() && self.space.awaits_checkpoint();
                if let Some(worker) = self.threads.worker.as_ref().filter(|_| calls()) {
                    worker.notify();
                }
                ops
            }
            // Publishing panicked before, and what this one follows is not in the index.
            Ok(_) => {
                status.settle(GroupEnd::Failed);
                Vec::new()
            }
            Err(failure) => {
                self.fail(&failure);
                if !self.origin.is_elsewhere() {
                    status.settle(GroupEnd::Failed);
                }
                // The task that was woken last may have forked.
                if !self.origin.is_elsewhere() {
                    self.fail_queued();
                }
                Vec::new()
            }
        };
        std::mem::forget(unwinding);
        ops
    }

    /// Stops all commits for good, for a failure outside of commits. The group that is being
    /// published may still be acknowledged; groups that are being written or queued are not.
    pub(crate) fn stop(&self, failure: &Failure) {
        self.fail(failure);
        if !self.origin.is_elsewhere() {
            self.fail_queued();
        }
    }

    /// Stops all commits for good. Only the publishing thread comes here, and
    /// [`stop`](Self::stop).
    fn fail(&self, failure: &Failure) {
        if self.failure.set(failure.clone()).is_ok() {
            self.publisher.failed(failure);
            if !self.origin.is_elsewhere() {
                self.space.wake();
            }
        }
    }

    /// Tells all callers with queued entries that a commit failed. Without the queue's lock,
    /// because wakers are application code, which may call the engine again.
    pub(super) fn fail_queued(&self) {
        let (written, groups) = self.queue.lock().take_all();
        let written = written.iter().map(|written| &written.status);
        // The task that was woken last may have forked.
        written
            .chain(groups.iter().map(|group| &group.status))
            .take_while(|_| !self.origin.is_elsewhere())
            .for_each(|status| status.settle(GroupEnd::Failed));
        if !self.origin.is_elsewhere() {
            self.stop_waiting();
        }
    }
}

/// Turns a panic while a group is written or published into a failed commit. Defused if there is
/// none.
pub(super) struct FailOnUnwind<'a, P: Publish> {
    commit: &'a Commit<P>,
    status: &'a Arc<CommitStatus>,
    at: Stage,
}

pub(super) enum Stage {
    Writing,
    Publishing,
}

impl<'a, P: Publish> FailOnUnwind<'a, P> {
    pub(super) fn new(commit: &'a Commit<P>, status: &'a Arc<CommitStatus>, at: Stage) -> Self {
        Self { commit, status, at }
    }
}

impl<P: Publish> Drop for FailOnUnwind<'_, P> {
    fn drop(&mut self) {
        let failed = Written { status: Arc::clone(self.status), outcome: Err(Failure::Panicked) };
        if self.commit.origin.is_elsewhere() {
            return;
        }
        let mut queue = self.commit.queue.lock();
        match self.at {
            Stage::Writing => {
                queue.writing = None;
                queue.written.push_back(failed);
            }
            Stage::Publishing => {
                queue.is_publishing = false;
                queue.written.push_front(failed);
            }
        }
        drop(self.commit.publish(queue));
    }
}
