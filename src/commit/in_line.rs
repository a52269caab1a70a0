//! `InLine`: a caller that may have to wait in line for a place in the queue.

use std::task::{Context, Poll};

use super::queue::{Queue, bytes_of};
use super::{Commit, Publish};
use crate::error::CommitError;
use crate::foreign::TaskWaker;
use crate::sync::MutexGuard;
use crate::task::wait_queue::{Priority, Turn, Wakeup};

/// Its drop gives its place to the next in line. It must not be dropped under the queue's lock
/// before [`take`](Self::take).
pub(super) struct InLine<'a, P: Publish> {
    commit: &'a Commit<P>,
    bytes: usize,
    /// `None` before it waits, and once it took its place.
    turn: Option<Turn>,
}

impl<'a, P: Publish> InLine<'a, P> {
    pub(super) fn new(commit: &'a Commit<P>, entry: &[u8]) -> Self {
        Self { commit, bytes: bytes_of(entry), turn: None }
    }

    /// Whether its entry may be queued.
    pub(super) fn has_place(&self, queue: &Queue<P::Op>) -> bool {
        queue.has_place(self.turn, self.bytes)
    }

    /// Leaves the line, right before its entry is queued.
    pub(super) fn take(&mut self, queue: &mut Queue<P::Op>) {
        // Nothing of a task is dropped under the lock: it took its waker back when it was polled.
        drop(self.turn.take().and_then(|turn| queue.leave_line(turn, self.bytes)));
    }

    /// Lines up, unless it has.
    pub(super) fn join(&mut self, queue: &mut Queue<P::Op>) -> Turn {
        *self.turn.get_or_insert_with(|| queue.line.join(self.bytes as u64, Priority::Other, false))
    }

    /// Waits for a place as a task does; the queue once there is one.
    pub(super) fn poll(
        &mut self,
        context: &Context<'_>,
    ) -> Poll<Result<MutexGuard<'a, Queue<P::Op>>, CommitError>> {
        let (commit, mut waker) = (self.commit, None);
        loop {
            commit.check_process()?;
            let mut queue = commit.queue.lock();
            commit.check_open(&queue)?;
            // Taken back first: no waker is dropped under the lock.
            let turn = self.join(&mut queue);
            if self.has_place(&queue) {
                let unused = (queue.line.take_wakeup(turn), waker.take());
                if unused.0.is_some() || unused.1.is_some() {
                    drop(queue);
                    drop(unused);
                    continue;
                }
                return Poll::Ready(Ok(queue));
            }
            commit.call_leader(&queue);
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

impl<P: Publish> Drop for InLine<'_, P> {
    fn drop(&mut self) {
        let Some(turn) = self.turn.filter(|_| self.commit.check_process().is_ok()) else { return };
        let mut queue = self.commit.queue.lock();
        let left = queue.leave_line(turn, self.bytes);
        self.commit.give_places(queue);
        drop(left);
    }
}
