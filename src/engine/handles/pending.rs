//! `Pending`: the handle on another caller's claim, to wait for its end.

use std::pin::Pin;
use std::time::Duration;

use super::handle::Handle;
use crate::Timestamp;
use crate::attempt::Attempt;
use crate::attempt::waited::Waited;
use crate::clock::Deadline;
use crate::error::BeginError;
#[cfg(feature = "http")]
use crate::error::ClaimError;
use crate::sync::Arc;
use crate::task::caller::{Caller, block};

/// A handle on another caller's claim.
#[derive(Clone)]
pub struct Pending {
    attempt: Arc<Attempt>,
    /// Keeps the engine open.
    handle: Handle,
}

impl Pending {
    pub(crate) fn new(attempt: Arc<Attempt>, handle: Handle) -> Self {
        Self { attempt, handle }
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
    /// When a commit failed, or the engine is closed, while the claim was in flight; when the calling
    /// operation itself holds the claim ([`BeginError::OwnKey`]); inside the work of a
    /// transaction ([`BeginError::InsideTransaction`]).
    pub fn wait(&self) -> Result<Waited, BeginError> {
        block(self.wait_until(Caller::Thread, Deadline::NEVER))
    }

    /// Waits until the other claim has ended, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Waited};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let Begin::Fresh(claim) = engine.default_scope().begin("key", request)? else { panic!() };
    /// let Begin::InFlight(pending) = engine.default_scope().begin("key", request)? else { panic!() };
    /// assert!(matches!(pending.wait_timeout(Duration::from_millis(1))?, Waited::TimedOut));
    /// claim.complete("reply")?;
    /// assert!(matches!(pending.wait()?, Waited::Done(record) if record.body() == b"reply"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Waited, BeginError> {
        block(self.wait_until(Caller::Thread, Deadline::after(timeout)))
    }

    /// [`wait`](Self::wait) for tasks. `pending.await` does the same.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Waited};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// # futures_executor::block_on(async {
    /// let Begin::Fresh(claim) = engine.default_scope().begin_async("key", request).await? else { panic!() };
    /// let Begin::InFlight(pending) = engine.default_scope().begin_async("key", request).await? else { panic!() };
    /// let (waited, completed) = futures_util::join!(pending.into_future(), claim.complete_async("reply"));
    /// assert!(matches!(waited?, Waited::Done(record) if record.body() == b"reply"));
    /// # completed?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn wait_async(&self) -> Result<Waited, BeginError> {
        self.wait_until(Caller::Task, Deadline::NEVER).await
    }

    /// [`wait_timeout`](Self::wait_timeout) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub async fn wait_timeout_async(&self, timeout: Duration) -> Result<Waited, BeginError> {
        self.wait_until(Caller::Task, Deadline::after(timeout)).await
    }

    pub(super) async fn wait_until(&self, caller: Caller, deadline: Deadline) -> Result<Waited, BeginError> {
        match &self.handle {
            Handle::File(file) => file.core().wait_for_end(caller, &self.attempt, deadline).await,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => shared.wait_for_end(caller, &self.attempt, deadline).await,
        }
    }

    /// Why the claim's holder can't end it any more, once that is so; `None` when the deadline
    /// passes first. It takes no place among the waiters, and observers are not told: no caller
    /// waits for the key.
    #[cfg(feature = "http")]
    pub(crate) async fn lost(&self, deadline: Deadline) -> Option<ClaimError> {
        match &self.handle {
            Handle::File(file) => file.core().lost(&self.attempt, deadline).await,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => Box::pin(shared.lost(&self.attempt, deadline)).await,
        }
    }

    /// The attempt of the other claim.
    pub(crate) fn of(&self) -> &Arc<Attempt> {
        &self.attempt
    }
}

impl IntoFuture for Pending {
    type Output = Result<Waited, BeginError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.wait_async().await })
    }
}

/// In short, and without the key.
impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending")
            .field("key", &self.attempt.digest.key_hash())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}
