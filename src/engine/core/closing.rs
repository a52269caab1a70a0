//! How far closing has come: one thread closes, all others wait for it.

use crate::error::Failure;
use crate::sync::{Condvar, Mutex};

/// How far closing has come.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// Leaf lock.
    stage: Mutex<Stage>,
    settled: Condvar,
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

    /// Whether a close has begun.
    pub(in crate::engine) fn has_begun(&self) -> bool {
        !matches!(*self.stage.lock(), Stage::Open)
    }

    pub(in crate::engine) fn settle(&self, outcome: Result<usize, Failure>) {
        *self.stage.lock() = Stage::Over(outcome);
        self.settled.notify_all();
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
}
