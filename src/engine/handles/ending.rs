//! The end of a claim, as a future for tasks.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::engine::common::untold::{CallingProcess, Untold};
use crate::engine::file::pending_end::{PendingEnd, QueuedEnd};
use crate::error::EndError;
use crate::record::Record;
use crate::task::caller::Caller;

/// The end of a claim, for tasks: a future that is ready once the end is durable. Nearly always
/// the end is already queued, and takes effect whether or not the future is polled; see
/// [`Claim::complete_async`](crate::Claim::complete_async).
#[must_use = "a claim has ended once this was awaited"]
pub struct Ending<T> {
    asked: CallingProcess,
    state: EndingState,
    /// What the caller gets of the record, which is `None` after a release.
    result: fn(Option<Record>) -> T,
}

type SlowEnd = Pin<Box<dyn Future<Output = Result<Untold<Option<Record>>, EndError>> + Send>>;

enum EndingState {
    /// The end is queued; `None` once it was acknowledged. Written by hand, because a boxed
    /// future would cost an allocation for every claim.
    Queued(Option<QueuedEnd>),
    /// Any other case.
    Slow(SlowEnd),
}

impl<T> Ending<T> {
    /// The end of a claim on a key of a file.
    pub(super) fn of(asked: CallingProcess, end: PendingEnd, result: fn(Option<Record>) -> T) -> Self {
        let state = match end {
            PendingEnd::Queued(queued) => EndingState::Queued(Some(queued)),
            slow @ (PendingEnd::Waits(..)
            | PendingEnd::Released
            | PendingEnd::Superseded(..)
            | PendingEnd::Refused(_)) => EndingState::Slow(Box::pin(slow.acknowledged(Caller::Task))),
        };
        Self { asked, state, result }
    }

    /// The end of a claim on a key of a shared store.
    #[cfg(feature = "postgres")]
    pub(super) fn of_shared(
        asked: CallingProcess,
        end: impl Future<Output = Result<Untold<Option<Record>>, EndError>> + Send + 'static,
        result: fn(Option<Record>) -> T,
    ) -> Self {
        Self { asked, state: EndingState::Slow(Box::pin(end)), result }
    }
}

impl<T> Future for Ending<T> {
    type Output = Result<T, EndError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = match &mut self.state {
            EndingState::Slow(future) => ready!(future.as_mut().poll(context)),
            EndingState::Queued(queued) => {
                let Some(end) = queued else { unreachable!("it was polled after it was ready") };
                let ended = ready!(end.poll_acknowledged(context));
                *queued = None;
                ended
            }
        };
        Poll::Ready(self.asked.tell_end(ended).map(self.result))
    }
}

impl<T> std::fmt::Debug for Ending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").finish_non_exhaustive()
    }
}
