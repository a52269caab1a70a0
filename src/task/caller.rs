//! The caller: a thread, which waits by blocking and may do I/O, or a task, which does neither.
//!
//! Calls that may have to wait are written once, as futures. Each wait asks for the caller. For a
//! thread it blocks, so the future is always ready at the first poll. For a task it stores a
//! waker and leaves the work to the engine's own threads.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::parker::Parker;
use crate::sync::Arc;

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

/// Runs a future that waits as a task, and parks the thread meanwhile.
pub(crate) fn park_on<T>(call: impl Future<Output = T>) -> T {
    let parker = Arc::<Parker>::default();
    let waker = Waker::from(Arc::clone(&parker));
    let mut call = pin!(call);
    loop {
        if let Poll::Ready(value) = call.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        parker.wait();
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

    /// It belongs to the application, whose executor may have it as its waker.
    #[test]
    fn a_call_of_a_thread_leaves_the_token_of_that_thread_alone() {
        let (done, is_done) = mpsc::sync_channel(0);
        thread::spawn(move || {
            loop {
                thread::current().unpark();
                let mut polls = 0;
                park_on(poll_fn(|context| {
                    polls += 1;
                    if polls == 1 {
                        let waker = context.waker().clone();
                        thread::spawn(move || waker.wake());
                        return Poll::Pending;
                    }
                    Poll::Ready(())
                }));
                thread::park();
                if done.send(polls).is_err() {
                    return;
                }
            }
        });
        for round in 0..100 {
            assert_eq!(is_done.recv_timeout(Duration::from_secs(60)), Ok(2), "round {round}");
        }
    }
}
