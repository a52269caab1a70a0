//! Wakes the threads that help with commits, so that a queued entry finds a leader.

use std::time::Duration;

use super::queue::Queue;
use super::{Commit, Publish};
use crate::clock::Deadline;
use crate::sync::{MutexGuard, Ordering};
use crate::task::caller::Caller;

impl<P: Publish> Commit<P> {
    /// Makes sure that a thread leads for queued entries whose callers do not lead.
    pub(super) fn call_leader_for(&self, caller: Caller, queue: &Queue<P::Op>) {
        // More than one group is more than anybody should leave for later.
        if caller == Caller::Task || queue.is_backed_up() {
            self.call_leader(queue);
        }
    }

    /// Makes sure that a thread leads.
    pub(super) fn call_leader(&self, queue: &Queue<P::Op>) {
        if queue.writer.is_some() {
            self.call();
        }
    }

    /// Makes sure that the queued entries are written soon.
    pub(crate) fn call(&self) {
        self.is_called.store(true, Ordering::Release);
        self.call_leader_thread();
    }

    fn call_leader_thread(&self) {
        if let Some(leader) = &self.threads.leader {
            leader.notify();
        }
    }

    /// Wakes the engine's threads.
    pub(crate) fn notify_threads(&self) {
        self.call_leader_thread();
        if let Some(press) = &self.threads.press {
            press.notify();
        }
    }

    /// Makes sure that the queued entries are written within this time.
    pub(crate) fn flush_within(&self, within: Duration) {
        if self.origin.is_elsewhere() {
            return;
        }
        let deadline = Deadline::after(within);
        let mut flush_at = self.flush_at.lock();
        let is_earlier = flush_at.is_none_or(|at| deadline.is_before(at));
        if is_earlier {
            *flush_at = Some(deadline);
        }
        drop(flush_at);
        if is_earlier {
            self.call_leader_thread();
        }
    }

    /// Gives free places to the first callers in line, and wakes them. Threads are woken
    /// together: any of them may have to lead.
    pub(super) fn give_places(&self, mut queue: MutexGuard<'_, Queue<P::Op>>) {
        let wakeups = queue.serve_line();
        drop(queue);
        self.drained.notify_all();
        wakeups.wake();
    }

    /// Wakes all callers in line, because no entries are taken any more.
    pub(super) fn stop_waiting(&self) {
        let wakeups = self.queue.lock().line.wake_all();
        self.drained.notify_all();
        wakeups.wake();
    }
}
