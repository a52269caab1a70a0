//! A caller waits for the end of another caller's claim, in this process or in another.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
#[cfg(feature = "http")]
use std::time::Duration;

use super::core::{Core, SharedHandle};
use super::refusal::carry_checked;
#[cfg(feature = "http")]
use crate::Status;
use crate::Waited;
use crate::attempt::{Attempt, AttemptParts, Ended};
use crate::clock::Deadline;
use crate::engine::common::counters::Counters;
use crate::engine::common::limits::Waiter;
use crate::engine::common::running::is_running;
use crate::error::{BeginError, SharedError};
#[cfg(feature = "http")]
use crate::error::{ClaimError, CommitError};
use crate::sync::Arc;
use crate::task::caller::Caller;

/// Before a claim is looked at again, where the store did not answer.
#[cfg(feature = "http")]
const PAUSE: Duration = Duration::from_secs(1);

/// A waiter's place among the watched claims.
struct Place<'a> {
    core: &'a Core,
    /// Which all waiters of this process share.
    attempt: Arc<Attempt>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.core.is_forked() {
            self.core.watches.leave(&self.attempt);
        }
    }
}

impl SharedHandle {
    /// Waits for the end of a claim, for a caller of either kind, and tells the observer what came
    /// of it.
    pub(crate) async fn wait_for_end(
        &self,
        caller: Caller,
        attempt: &Arc<Attempt>,
        deadline: Deadline,
    ) -> Result<Waited, BeginError> {
        let watch = self.0.options.hooks.watch();
        let ended = carry_checked(caller, Box::pin(self.end_of(attempt, deadline, true))).await;
        let answer = ended.and_then(|ended| ended.map_or(Ok(Waited::TimedOut), Waited::of));
        self.0.options.hooks.waited(attempt, answer.as_ref(), watch.as_ref());
        answer
    }

    /// Why the holder of a claim can't end it any more, once that is so; `None` when the deadline
    /// passes first.
    #[cfg(feature = "http")]
    pub(crate) async fn lost(&self, attempt: &Arc<Attempt>, deadline: Deadline) -> Option<ClaimError> {
        loop {
            match self.end_of(attempt, deadline, false).await {
                Ok(None) => return None,
                Ok(Some(Ended::Done(record))) => {
                    return Some(ClaimError::Superseded(Box::new(Status::Done(record))));
                }
                Ok(Some(Ended::Vacated | Ended::Interrupted)) => {
                    let now = self.0.became(attempt).await;
                    return Some(self.0.superseded(attempt, now));
                }
                // The store does not answer, and the claim may be good.
                Err(BeginError::Shared(_)) => self.0.sleep(Deadline::after(PAUSE)).await,
                Ok(Some(Ended::Failed(_) | Ended::Closed)) | Err(_) => {
                    return Some(CommitError::Closed.into());
                }
            }
        }
    }

    /// How the claim ended; `None` if it is still in flight at the deadline. A caller that waits
    /// for the claim of another takes one of the places that there are for those.
    async fn end_of(
        &self,
        attempt: &Arc<Attempt>,
        deadline: Deadline,
        is_of_another: bool,
    ) -> Result<Option<Ended>, BeginError> {
        let core = &*self.0;
        core.check()?;
        // An operation that waits for its own claim would wait for ever.
        if is_running(attempt) {
            return Err(BeginError::OwnKey);
        }
        let waited_for = match attempt.ended_so_far() {
            None => Arc::clone(attempt),
            // The wait for it was given up while the store did not answer. It is watched again.
            Some(Ended::Closed | Ended::Failed(_)) => Arc::new(stand_in(attempt)),
            ended @ Some(Ended::Done(_) | Ended::Vacated | Ended::Interrupted) => return Ok(ended),
        };
        if deadline.has_passed() {
            return Ok(None);
        }
        let _waiter = if is_of_another { Some(core.waiter()?) } else { None };
        let place = Place { core, attempt: core.watches.join(&waited_for) };
        if is_running(&place.attempt) {
            return Err(BeginError::OwnKey);
        }
        // Asked again: after a close nobody ends what is watched.
        core.check()?;
        let (mut ended, mut over) =
            (pin!(place.attempt.ended(|| core.is_forked())), pin!(core.sleep(deadline)));
        let ended = poll_fn(|context| match ended.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if deadline.instant().is_none() => Poll::Pending,
            Poll::Pending => over.as_mut().poll(context).map(|()| None),
        });
        let ended = ended.await;
        told(core, ended, &place.attempt)
    }
}

impl Core {
    /// Takes a place among the calls that wait for claims of others.
    fn waiter(&self) -> Result<Waiter<'_>, BeginError> {
        Waiter::within(&self.waiting, self.options.max_waiters)
            .inspect_err(|_| Counters::count(&self.counters.busy_waiters))
    }
}

/// The same claim, as if nothing were known of its end.
fn stand_in(attempt: &Attempt) -> Attempt {
    Attempt::new(AttemptParts {
        digest: attempt.digest,
        scope: attempt.scope(),
        key: attempt.key(),
        fence: attempt.fence,
        number: attempt.number,
        fingerprint: attempt.fingerprint,
        started: attempt.started,
        retention: attempt.retention,
        lease: attempt.lease,
        unresolved_ttl: attempt.unresolved_ttl,
        earlier: attempt.earlier,
        progress: attempt.progress(),
        replaced: None,
        undelivered_bytes: 0,
    })
}

fn told(core: &Core, ended: Option<Ended>, attempt: &Attempt) -> Result<Option<Ended>, BeginError> {
    let Some(Ended::Failed(_) | Ended::Closed) = &ended else { return Ok(ended) };
    core.check()?;
    // Where others watch the claim anew, the store's last failure says why.
    let failure = core.watches.failure(attempt).unwrap_or_else(|| core.failure());
    Err(SharedError::Unavailable(failure).into())
}
