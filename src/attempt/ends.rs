//! The end of an attempt, and the wait for it.

use super::{Attempt, Ended};
use crate::clock::Deadline;
use crate::error::Failure;

impl Attempt {
    /// Tells all waiters how it ended. Only the first call counts.
    pub(crate) fn end(&self, how: Ended) {
        let mut ended = self.ended.lock();
        if ended.is_none() {
            *ended = Some(how);
        }
        drop(ended);
        self.woken.notify_all();
        // A waiter that comes too late for this sees the end: it looks under the lock after it
        // made the list.
        if let Some(tasks) = self.tasks.get() {
            tasks.wake_all();
        }
    }

    /// Whether waiters were told to begin again.
    pub(crate) fn was_given_up(&self) -> bool {
        matches!(*self.ended.lock(), Some(Ended::Vacated | Ended::Interrupted))
    }

    /// How it has ended, if it has.
    pub(crate) fn ended_so_far(&self) -> Option<Ended> {
        self.ended.lock().clone()
    }

    /// Waits for the end, as a task. In a forked child the end never comes.
    pub(crate) async fn ended(&self, is_forked: impl Fn() -> bool) -> Ended {
        let ended = || {
            if is_forked() {
                return Some(Ended::Failed(Box::new(Failure::Forked)));
            }
            self.ended.lock().clone()
        };
        self.tasks.get_or_init(Box::default).until(ended).await
    }

    /// Waits for the end; `None` when the deadline passes first.
    pub(crate) fn wait(&self, deadline: Deadline) -> Option<Ended> {
        let mut ended = self.ended.lock();
        while ended.is_none() {
            match deadline.instant() {
                Some(at) => {
                    if self.woken.wait_until(&mut ended, at).timed_out() {
                        break;
                    }
                }
                None => self.woken.wait(&mut ended),
            }
        }
        ended.clone()
    }
}
