//! The end of a claim, as a future for tasks.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::pending_end::PendingEnd;
use crate::error::EndError;

/// The end of a claim, for tasks: a future that is ready once the end is durable. Nearly always
/// the end is already queued, and takes effect whether or not the future is polled; see
/// [`Claim::complete_async`](crate::Claim::complete_async).
#[must_use = "a claim has ended once this was awaited"]
pub struct Ending<T>(pub(super) EndingState<T>);

pub(super) enum EndingState<T> {
    /// The end is queued, and this is its result, returned once it is durable; `None` after that.
    /// Written by hand, because a boxed future would cost an allocation for every claim.
    PendingEnd(Option<(PendingEnd, T)>),
    /// Any other case.
    Slow(Pin<Box<dyn Future<Output = Result<T, EndError>> + Send>>),
}

impl<T> Ending<T> {
    pub(super) fn slowly(future: impl Future<Output = Result<T, EndError>> + Send + 'static) -> Self {
        Self(EndingState::Slow(Box::pin(future)))
    }
}

/// The output is never pinned.
impl<T> Unpin for Ending<T> {}

impl<T> Future for Ending<T> {
    type Output = Result<T, EndError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            EndingState::Slow(future) => future.as_mut().poll(context),
            EndingState::PendingEnd(waits) => {
                let Some((handed, _)) = waits else { unreachable!("it was polled after it was ready") };
                let acknowledged = ready!(handed.poll_acknowledged(context));
                let given = waits.take().map(|(_, given)| given);
                Poll::Ready(acknowledged.map(|()| given.unwrap_or_else(|| unreachable!("it is there"))))
            }
        }
    }
}

impl<T> std::fmt::Debug for Ending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").finish_non_exhaustive()
    }
}
