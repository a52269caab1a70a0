//! Waits for the end of another caller's claim.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use crate::attempt::waited::Waited;
use crate::attempt::{Attempt, Ended};
use crate::clock::Deadline;
use crate::engine::common::counters::Counters;
use crate::engine::common::limits::Waiter;
use crate::engine::common::running::is_running;
use crate::engine::core::Core;
use crate::error::BeginError;
#[cfg(feature = "http")]
use crate::error::{ClaimError, CommitError};
#[cfg(feature = "http")]
use crate::status::Status;
use crate::sync::Arc;
use crate::task::caller::Caller;

impl Core {
    /// Waits for the end of a claim, and tells the observer what came of it.
    pub(in crate::engine) async fn wait_for_end(
        &self,
        caller: Caller,
        attempt: &Arc<Attempt>,
        deadline: Deadline,
    ) -> Result<Waited, BeginError> {
        let watch = self.options.hooks.watch();
        let ended = self.end_of(caller, attempt, deadline).await;
        let answer = ended.and_then(|ended| ended.map_or(Ok(Waited::TimedOut), Waited::of));
        self.options.hooks.waited(attempt, answer.as_ref(), watch.as_ref());
        answer
    }

    /// The end of a claim; `None` when the deadline passes first. A caller that need not wait takes
    /// no place among the waiters.
    async fn end_of(
        &self,
        caller: Caller,
        attempt: &Arc<Attempt>,
        deadline: Deadline,
    ) -> Result<Option<Ended>, BeginError> {
        self.health.check_process().map_err(BeginError::Failed)?;
        let ended = attempt.ended_so_far();
        if ended.is_some() {
            return Ok(ended);
        }
        // An operation that waits for its own claim would wait for ever.
        if is_running(attempt) {
            return Err(BeginError::OwnKey);
        }
        if deadline.has_passed() {
            return Ok(None);
        }
        match caller {
            Caller::Thread => {
                self.check_waiting()?;
                let _waiter = self.place()?;
                Ok(attempt.wait(deadline))
            }
            Caller::Task | Caller::Member => {
                let _waiter = self.place()?;
                let mut ended = pin!(attempt.ended(|| self.health.is_forked()));
                // Asked at each poll: the work of a transaction may poll what began before it.
                let ended = poll_fn(|context| match ended.as_mut().poll(context) {
                    Poll::Pending if self.holds_maintenance_up(Caller::Task) => {
                        Poll::Ready(Err(never_ends(attempt)))
                    }
                    polled @ (Poll::Ready(_) | Poll::Pending) => polled.map(Ok),
                });
                self.timers.timeout(deadline, ended).await.transpose()
            }
        }
    }

    /// Why the holder of a claim can't end it any more, once that is so; `None` when the deadline
    /// passes first, or when the holder drops the claim.
    #[cfg(feature = "http")]
    pub(in crate::engine) async fn lost(
        &self,
        attempt: &Arc<Attempt>,
        deadline: Deadline,
    ) -> Option<ClaimError> {
        let ended = pin!(attempt.ended(|| self.health.is_forked()));
        Some(match self.timers.timeout(deadline, ended).await? {
            Ended::Done(record) => ClaimError::Superseded(Box::new(Status::Done(record))),
            Ended::Interrupted if !self.is_too_late(attempt) => return None,
            Ended::Vacated | Ended::Interrupted => self.superseded(Caller::Task, attempt).await,
            Ended::Failed(failure) => CommitError::Failed(*failure).into(),
            Ended::Closed => CommitError::Closed.into(),
        })
    }

    /// Takes a place among the waiters.
    fn place(&self) -> Result<Waiter<'_>, BeginError> {
        self.limits.wait().inspect_err(|_| Counters::count(&self.counters.busy_waiters))
    }
}

/// Why the work of a transaction can't wait for this claim.
fn never_ends(attempt: &Arc<Attempt>) -> BeginError {
    if is_running(attempt) { BeginError::OwnKey } else { BeginError::InsideTransaction }
}
