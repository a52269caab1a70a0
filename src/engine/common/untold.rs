//! `Untold`: the outcome of a change before its caller learns of it, and `CallingProcess`: the
//! process that may.

use crate::error::{CommitError, EndError, Failure};
use crate::fork::generation;

/// What a call changed, before its caller is told. Only [`CallingProcess`] opens it.
///
/// A call runs code of others: wakers, observers, the drop of a body. That code may fork, and the
/// child then returns from its parent's call. A task may also be polled in a child for the first
/// time since its end was queued. In neither case has the child changed anything.
#[derive(Debug)]
#[must_use = "its caller waits for it"]
pub(crate) struct Untold<T>(T);

impl<T> Untold<T> {
    pub(crate) fn new(outcome: T) -> Self {
        Self(outcome)
    }
}

/// The process that makes a call. Taken before the call runs any code of others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallingProcess {
    generation: u64,
}

impl CallingProcess {
    /// The calling process.
    #[inline]
    pub(crate) fn here() -> Self {
        Self { generation: generation() }
    }

    /// Tells the process that made the call how it went, and no other.
    #[inline]
    pub(crate) fn tell<T>(self, outcome: Untold<T>) -> Result<T, CommitError> {
        if self.generation == generation() {
            Ok(outcome.0)
        } else {
            Err(CommitError::Failed(Failure::Forked))
        }
    }

    /// The same for the end of a claim, which is over in the child too: the parent has it.
    #[inline]
    pub(crate) fn tell_end<T>(self, ended: Result<Untold<T>, EndError>) -> Result<T, EndError> {
        self.tell(ended?).map_err(|forked| EndError::new(forked.into(), None))
    }
}
