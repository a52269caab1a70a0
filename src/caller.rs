//! Who calls: a thread, which waits by blocking and may do I/O, or a task, which does neither.
//!
//! Calls that may have to wait are written once, as futures. What they wait for asks who calls: for a thread it blocks, so
//! that its future is always ready at the first poll; for a task it leaves a waker behind and the work to the
//! engine's own threads.

use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};

use crate::sync::{Arc, AtomicBool, Ordering, Thread, current, park};

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Waits by blocking.
    Thread,
    /// Must not block.
    Task,
    /// One of many in a batch, which sees to it that somebody leads once all of them are queued.
    Member,
}

struct Unpark {
    thread: Thread,
    /// The thread's own token is not enough: foreign code that runs within a poll may park, and use it up.
    is_called: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.is_called.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Runs something that waits as a task does, and parks the thread meanwhile.
pub(crate) fn park_on<T>(call: impl Future<Output = T>) -> T {
    let unpark = Arc::new(Unpark { thread: current(), is_called: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    let mut call = pin!(call);
    loop {
        if let Poll::Ready(value) = call.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        while !unpark.is_called.swap(false, Ordering::Acquire) {
            park();
        }
    }
}

/// Runs a call of a thread.
pub(crate) fn block<T>(call: impl Future<Output = T>) -> T {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a thread's call waits by blocking"),
    }
}
