//! `Pending`: the handle on another caller's claim, to wait for its end.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::handle::Handle;
use super::running::is_running;
use crate::Timestamp;
use crate::attempt::{Attempt, Ended};
use crate::clock::Deadline;
use crate::engine::core::Counters;
use crate::engine::core::limits::Waiter;
use crate::error::BeginError;
use crate::key::Digest;
use crate::record::Record;
use crate::sync::Arc;
use crate::task::caller::Caller;

/// A handle on another caller's claim.
#[derive(Clone)]
pub struct Pending {
    attempt: Arc<Attempt>,
    /// Keeps the engine open.
    handle: Arc<Handle>,
}

/// The outcome of a wait for a claim. There will be no other variant: these are all the ways in
/// which a claim ends, and `TimedOut`.
#[derive(Clone, Debug)]
pub enum Waited {
    /// It was completed or failed: here is the result.
    Done(Record),
    /// It was released, or the key was forgotten: begin again.
    Vacant,
    /// It ended without an outcome: begin again, and the answer says so.
    Interrupted,
    /// It is still in flight.
    TimedOut,
}

impl std::fmt::Display for Waited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(record) => write!(f, "done: {}", record.outcome()),
            Self::Vacant => f.write_str("released or forgotten"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::TimedOut => f.write_str("still out"),
        }
    }
}

impl Pending {
    pub(in crate::engine) fn new(attempt: Arc<Attempt>, handle: &Arc<Handle>) -> Self {
        Self { attempt, handle: Arc::clone(handle) }
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
    /// When a commit failed, or the engine is closed, while the claim was out; when the calling
    /// operation itself holds the claim ([`BeginError::OwnKey`]); inside the work of a
    /// transaction ([`BeginError::InsideTransaction`]).
    pub fn wait(&self) -> Result<Waited, BeginError> {
        self.wait_until(Deadline::NEVER)
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
        self.wait_until(Deadline::after(timeout))
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
        self.wait_until_async(Deadline::NEVER).await
    }

    /// [`wait_timeout`](Self::wait_timeout) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub async fn wait_timeout_async(&self, timeout: Duration) -> Result<Waited, BeginError> {
        self.wait_until_async(Deadline::after(timeout)).await
    }

    pub(in crate::engine) async fn wait_until_async(&self, deadline: Deadline) -> Result<Waited, BeginError> {
        let core = self.handle.core();
        self.check_wait()?;
        if let Some(known) = self.without_waiting(deadline) {
            return known;
        }
        let _waiter = self.place()?;
        let mut ended = pin!(self.attempt.ended(|| core.health.is_forked()));
        // Asked at each poll: the work of a transaction may poll what began before it.
        let ended = poll_fn(|context| match ended.as_mut().poll(context) {
            Poll::Pending if core.holds_maintenance_up(Caller::Task) => Poll::Ready(Err(self.never_ends())),
            polled @ (Poll::Ready(_) | Poll::Pending) => polled.map(waited),
        });
        core.timers.timeout(deadline, ended).await.unwrap_or(Ok(Waited::TimedOut))
    }

    /// Why the work of a transaction can't wait for this claim.
    fn never_ends(&self) -> BeginError {
        if is_running(&self.attempt) { BeginError::OwnKey } else { BeginError::InsideTransaction }
    }

    /// An operation that waits for its own claim would wait for ever, and so would a forked child.
    fn check_wait(&self) -> Result<(), BeginError> {
        self.handle.core().health.check_process().map_err(BeginError::Failed)?;
        if is_running(&self.attempt) { Err(BeginError::OwnKey) } else { Ok(()) }
    }

    /// The key of the other claim.
    pub(in crate::engine) fn digest(&self) -> Digest {
        self.attempt.digest
    }

    pub(in crate::engine) fn wait_until(&self, deadline: Deadline) -> Result<Waited, BeginError> {
        self.check_wait()?;
        let core = self.handle.core();
        if let Some(known) = self.without_waiting(deadline) {
            return known;
        }
        core.check_waiting()?;
        if core.options.hooks.is_telling() {
            return Err(BeginError::InsideCallback);
        }
        let _waiter = self.place()?;
        self.attempt.wait(deadline).map_or(Ok(Waited::TimedOut), waited)
    }

    /// The answer for a caller that need not wait, because the claim has ended or the time is up.
    /// It takes no place among the waiters.
    fn without_waiting(&self, deadline: Deadline) -> Option<Result<Waited, BeginError>> {
        let ended = self.attempt.ended_so_far().map(waited);
        ended.or_else(|| deadline.has_passed().then_some(Ok(Waited::TimedOut)))
    }

    /// Takes a place among the waiters.
    fn place(&self) -> Result<Waiter<'_>, BeginError> {
        let core = self.handle.core();
        core.limits.wait().inspect_err(|_| Counters::count(&core.counters.busy_waiters))
    }
}

impl IntoFuture for Pending {
    type Output = Result<Waited, BeginError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.wait_async().await })
    }
}

fn waited(ended: Ended) -> Result<Waited, BeginError> {
    match ended {
        Ended::Done(record) => Ok(Waited::Done(record)),
        Ended::Vacated => Ok(Waited::Vacant),
        Ended::Interrupted => Ok(Waited::Interrupted),
        Ended::Failed(failure) => Err(BeginError::Failed(*failure)),
        Ended::Closed => Err(BeginError::Closed),
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
