//! `SharedPending`: the handle on another caller's claim, in this process or in another.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::core::{Core, Handle};
use super::error::SharedError;
use crate::attempt::{Attempt, Ended};
use crate::clock::Deadline;
use crate::sync::Arc;
use crate::{Timestamp, Waited};

/// A handle on another caller's claim.
#[derive(Clone)]
pub struct SharedPending {
    handle: Arc<Handle>,
    attempt: Arc<Attempt>,
}

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

impl SharedPending {
    pub(super) fn new(handle: &Arc<Handle>, attempt: Arc<Attempt>) -> Self {
        Self { handle: Arc::clone(handle), attempt }
    }

    /// When the other claim was granted.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.attempt.started
    }

    /// The number of the other attempt.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// Waits until the other claim has ended.
    ///
    /// # Errors
    ///
    /// When the store is closed, or did not answer for longer than a call may take.
    pub fn wait(&self) -> Result<Waited, SharedError> {
        self.wait_until(Deadline::NEVER)
    }

    /// The same, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Waited, SharedError> {
        self.wait_until(Deadline::after(timeout))
    }

    /// [`wait`](Self::wait) for tasks, on any executor.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub async fn wait_async(&self) -> Result<Waited, SharedError> {
        let (core, place) = self.place()?;
        let ended = place.attempt.ended(|| core.is_forked()).await;
        self.told(Some(ended), &place)
    }

    /// [`wait_timeout`](Self::wait_timeout) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub async fn wait_timeout_async(&self, timeout: Duration) -> Result<Waited, SharedError> {
        let deadline = Deadline::after(timeout);
        let (core, place) = self.place()?;
        let (mut ended, mut over) =
            (pin!(place.attempt.ended(|| core.is_forked())), pin!(core.sleep(deadline)));
        let ended = poll_fn(|context| match ended.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending => over.as_mut().poll(context).map(|()| None),
        });
        let ended = ended.await;
        self.told(ended, &place)
    }

    fn wait_until(&self, deadline: Deadline) -> Result<Waited, SharedError> {
        let (_, place) = self.place()?;
        self.told(place.attempt.wait(deadline), &place)
    }

    fn place(&self) -> Result<(&Core, Place<'_>), SharedError> {
        let core = &*self.handle.0;
        core.check()?;
        Ok((core, Place { core, attempt: core.watches.join(&self.attempt) }))
    }

    fn told(&self, ended: Option<Ended>, place: &Place<'_>) -> Result<Waited, SharedError> {
        match ended {
            None => Ok(Waited::TimedOut),
            Some(Ended::Done(record)) => Ok(Waited::Done(record)),
            Some(Ended::Vacated) => Ok(Waited::Vacant),
            Some(Ended::Interrupted) => Ok(Waited::Interrupted),
            Some(Ended::Failed(_) | Ended::Closed) => {
                self.handle.0.check()?;
                let failure = self.handle.0.watches.failure(&place.attempt);
                Err(failure.map_or(SharedError::Closed, SharedError::Unavailable))
            }
        }
    }
}

/// In short, and without the key.
impl std::fmt::Debug for SharedPending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedPending")
            .field("key", &self.attempt.digest.key_hash())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}
