//! The caller: a thread, which waits by blocking and may do I/O, or a task, which does neither.
//!
//! Calls that may have to wait are written once, as futures. Each wait asks for the caller. For a
//! thread it blocks, so the future is always ready at the first poll. For a task it stores a
//! waker and leaves the work to the engine's own threads.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};

use crate::sync::{Arc, AtomicBool, Ordering, Thread, current, park};

/// The caller of a call that may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Waits by blocking.
    Thread,
    /// Must not block.
    Task,
    /// One of many in a batch, which makes sure that a thread leads once all of them are queued.
    Member,
}

struct Unpark {
    thread: Thread,
    /// The thread's own park token is not enough: application code inside a poll may park, and
    /// consume it.
    is_called: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.is_called.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Runs a future that waits as a task, and parks the thread meanwhile.
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

/// Polls a call that is nearly always ready at once. If it is not, a task or thread that can be
/// woken has to poll it again.
pub(crate) fn poll_once<T>(call: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    call.poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs a call of a thread. Inlined, so that the call's future, which is large, is made in place.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "measured: a copy of the call takes as many instructions as finding its key"
)]
pub(crate) fn block<T>(call: impl Future<Output = T>) -> T {
    match poll_once(pin!(call)) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a thread's call waits by blocking"),
    }
}

#[cfg(test)]
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
#[expect(clippy::disallowed_methods, reason = "the thread is foreign")]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    /// As an observer may, which is application code.
    #[test]
    fn a_thread_whose_token_was_used_up_within_a_poll_is_not_kept_asleep() {
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let mut polls = 0;
            park_on(poll_fn(|context| {
                polls += 1;
                if polls == 1 {
                    context.waker().wake_by_ref();
                    thread::park();
                    return Poll::Pending;
                }
                Poll::Ready(())
            }));
            done.send(polls).unwrap();
        });
        assert_eq!(is_done.recv_timeout(Duration::from_secs(60)), Ok(2));
    }
}
