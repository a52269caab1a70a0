//! Who calls: a thread, which waits by blocking and may do I/O, or a task, which does neither.
//!
//! Calls that may have to wait are written once, as futures. What they wait for asks who calls: for a thread it blocks, so
//! that its future is always ready at the first poll; for a task it leaves a waker behind and the work to the
//! engine's own threads.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Waits by blocking.
    Thread,
    /// Must not block.
    Task,
}

/// Runs a call of a thread.
pub(crate) fn block<T>(call: impl Future<Output = T>) -> T {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a thread's call waits by blocking"),
    }
}
