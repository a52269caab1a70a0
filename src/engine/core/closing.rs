//! How far closing has come: one thread closes, all others wait for it.

use std::io;

use crate::error::Failure;
use crate::sync::{Condvar, JoinHandle, Mutex};
use crate::task::wait_list::WaitList;

/// How far closing has come.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// Leaf lock.
    stage: Mutex<Stage>,
    settled: Condvar,
    /// Tasks that wait for the close.
    tasks: WaitList,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Open,
    /// A thread is closing.
    Begun,
    /// The number of claims that were in flight, or why the last checkpoint failed.
    Over(Result<usize, Failure>),
}

impl Closing {
    /// Whether the caller is the first to close, and so does the work.
    pub(in crate::engine) fn is_first(&self) -> bool {
        let mut stage = self.stage.lock();
        let is_first = matches!(*stage, Stage::Open);
        if is_first {
            *stage = Stage::Begun;
        }
        is_first
    }

    /// Starts the thread that closes, if nobody closes yet; whether it did. Until that thread is
    /// there nobody is told that one closes.
    pub(in crate::engine) fn start(
        &self,
        start: impl FnOnce() -> io::Result<JoinHandle<()>>,
    ) -> io::Result<bool> {
        let mut stage = self.stage.lock();
        let is_first = matches!(*stage, Stage::Open);
        if is_first {
            // It takes the stage's lock only when it settles.
            start()?;
            *stage = Stage::Begun;
        }
        Ok(is_first)
    }

    pub(in crate::engine) fn settle(&self, outcome: Result<usize, Failure>) {
        *self.stage.lock() = Stage::Over(outcome);
        self.settled.notify_all();
        self.tasks.wake_all();
    }

    /// The result of the close; waits for the thread that closes.
    pub(in crate::engine) fn outcome(&self) -> Result<usize, Failure> {
        let mut stage = self.stage.lock();
        loop {
            if let Stage::Over(outcome) = &*stage {
                return outcome.clone();
            }
            self.settled.wait(&mut stage);
        }
    }

    /// [`outcome`](Self::outcome) for tasks.
    pub(in crate::engine) async fn told(&self, is_forked: impl Fn() -> bool) -> Result<usize, Failure> {
        let told = || {
            // Nobody closes there, and the stage may be locked for ever.
            if is_forked() {
                return Some(Err(Failure::Forked));
            }
            match &*self.stage.lock() {
                Stage::Over(outcome) => Some(outcome.clone()),
                Stage::Open | Stage::Begun => None,
            }
        };
        self.tasks.until(told).await
    }
}

#[cfg(test)]
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_that_a_thread_closes_which_does_not_start() {
        let closing = Closing::default();
        let refused = closing.start(|| {
            assert!(closing.stage.try_lock().is_none(), "another caller may look at the stage");
            Err(io::ErrorKind::WouldBlock.into())
        });
        assert!(refused.is_err());
        assert!(closing.start(|| crate::sync::spawn("idemkv-close", || ())).unwrap(), "the next one tries");
        assert!(!closing.start(|| panic!("a second thread")).unwrap());
        assert!(!closing.is_first());
        closing.settle(Ok(7));
        assert_eq!(closing.outcome().unwrap(), 7);
    }
}
