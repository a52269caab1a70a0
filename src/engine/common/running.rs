//! The claims whose operations the calling thread is running, so that an operation never waits
//! for itself.

use std::cell::RefCell;
#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
use std::pin::Pin;
#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
use std::task::{Context, Poll};

use crate::attempt::Attempt;
#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
use crate::fork::Origin;
use crate::sync::{Arc, thread_local};

thread_local! {
    static RUNNING: RefCell<Vec<*const Attempt>> = const { RefCell::new(Vec::new()) };
}

/// Marks the thread as running the operation of a claim, for as long as it lives.
pub(crate) struct RunningMark(());

impl RunningMark {
    pub(crate) fn enter(attempt: &Arc<Attempt>) -> Self {
        // A thread that is ending keeps no list.
        RUNNING.try_with(|running| running.borrow_mut().push(Arc::as_ptr(attempt))).ok();
        Self(())
    }
}

impl Drop for RunningMark {
    fn drop(&mut self) {
        RUNNING.try_with(|running| running.borrow_mut().pop()).ok();
    }
}

/// Whether the calling thread runs the operation of this claim, and so must not wait for the
/// claim's end.
pub(crate) fn is_running(attempt: &Arc<Attempt>) -> bool {
    // A thread that is ending runs nothing.
    RUNNING.try_with(|running| running.borrow().contains(&Arc::as_ptr(attempt))).unwrap_or(false)
}

/// Runs the operation of a claim as a task, so that it is told if it waits for the claim.
#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
pub(crate) struct Marker {
    pub(in crate::engine) attempt: Arc<Attempt>,
    /// The process that has the claim. Not the one of the first poll: a task may be queued over a
    /// fork.
    pub(in crate::engine) origin: Origin,
}

#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
impl Marker {
    /// Marks the thread while `op` makes the operation, and each thread that polls it. `None` in a
    /// forked child, which must not continue its parent's operation.
    pub(crate) async fn run<Op>(self, op: impl FnOnce() -> Op) -> Option<Op::Output>
    where
        Op: Future + Unpin,
    {
        let Self { attempt, origin } = self;
        if origin.is_elsewhere_for_sure() {
            return None;
        }
        let running = RunningMark::enter(&attempt);
        let operation = op();
        drop(running);
        MarkedFuture { attempt, operation, origin }.await
    }
}

/// The operation of a task. It marks the thread that polls it.
#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
struct MarkedFuture<F> {
    attempt: Arc<Attempt>,
    operation: F,
    origin: Origin,
}

#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
impl<F: Future + Unpin> Future for MarkedFuture<F> {
    /// `None` in a forked child.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.origin.is_elsewhere_for_sure() {
            return Poll::Ready(None);
        }
        let _running = RunningMark::enter(&self.attempt);
        Pin::new(&mut self.operation).poll(context).map(Some)
    }
}
