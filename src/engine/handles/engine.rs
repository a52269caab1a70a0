//! `Engine`: the public handle on an open file, or on a shared store.

use std::path::Path;

use super::handle::Handle;
use super::scope::Scope;
use super::stats::Stats;
use crate::Timestamp;
use crate::engine::common::namespace::ScopeInner;
use crate::engine::core::options::Options;
use crate::engine::file::handle::FileHandle;
use crate::error::{CommitError, Failure, OpenError, SetPolicyError};
use crate::policy::Policy;
#[cfg(feature = "postgres")]
use crate::shared::refusal::carry_checked;
use crate::sync::Arc;
use crate::task::caller::{Caller, block};

/// An open idempotency file, or a store that several processes share (feature `postgres`).
///
/// Cheap to clone and to share among threads. [`close`](Self::close) closes the file, and so does
/// the drop of the last handle (clone, scope, claim or pending), which can't report errors.
///
/// See the [front page](crate) for an example.
#[derive(Clone)]
pub struct Engine {
    pub(in crate::engine) handle: Handle,
    /// The default scope: the one with the empty name.
    pub(in crate::engine) default: Scope,
}

/// What closing found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Claims that callers still had. If their intents are durable, the next opening
    /// interrupts their keys. A claim that was handed over as a token counts too, but stays good.
    pub claims_left: usize,
}

impl Options {
    /// Opens the file at `path`, and its log beside it (the same name with `-wal` appended). Both
    /// are made if neither exists.
    ///
    /// Everything acknowledged before is there, however the last process ended. Claims that were
    /// in flight are *interrupted*.
    ///
    /// # Errors
    ///
    /// When an option is out of range; when the file can't be opened, is in use, isn't an idemkv
    /// file, is of a newer version, is damaged, or lacks its log. An error loses nothing, and
    /// leaves a file that isn't an idemkv file unchanged.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Engine, OpenError> {
        FileHandle::open(path.as_ref(), self).map(|file| Engine::new(Handle::File(file)))
    }
}

impl Engine {
    /// Opens the file at `path` with default options, or makes it.
    ///
    /// # Errors
    ///
    /// As for [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().open(path)
    }

    /// Options to open a file with.
    pub fn options() -> Options {
        Options::default()
    }

    pub(in crate::engine) fn new(handle: Handle) -> Self {
        let default = Self::scope_of(&handle, b"");
        Self { handle, default }
    }

    fn scope_of(handle: &Handle, name: &[u8]) -> Scope {
        let inner = ScopeInner::new(handle.secret(), name, handle.max_key_bytes());
        Scope { handle: handle.clone(), inner: Arc::new(inner) }
    }

    /// The scope with this name; scopes need no declaration.
    ///
    /// Every call on a scope with a name longer than 255 bytes is refused. Make a scope once and
    /// keep it: that saves deriving its hash key again.
    #[must_use]
    pub fn scope(&self, name: impl AsRef<[u8]>) -> Scope {
        Self::scope_of(&self.handle, name.as_ref())
    }

    /// The scope with the empty name, for a file that holds the keys of one operation.
    #[inline]
    #[must_use]
    pub fn default_scope(&self) -> &Scope {
        &self.default
    }

    /// The policy of scopes that have none of their own, as set when the file was opened.
    #[must_use]
    pub fn policy(&self) -> Policy {
        match &self.handle {
            Handle::File(file) => file.core().policies.default(),
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => shared.default_policy(),
        }
    }

    /// Sets the policy of the scope with this name, durably, and returns the scope.
    ///
    /// A file remembers the policies of its scopes, so that they hold for every program that opens
    /// it. If the scope had another policy, claims in flight keep their leases, and claims and
    /// stored results keep their retention. The policy at the time of a begin decides whether an
    /// interrupted key runs again. A file holds up to 65,536 policies; the empty name is that of
    /// the default scope.
    ///
    /// # Errors
    ///
    /// When the name is too long, a part of the policy is out of range or contradicts another,
    /// there are too many policies, or the commit fails. The scope then keeps the policy it had.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Recovery};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("x.idem");
    /// # let request = Fingerprint::of("request");
    /// let engine = Engine::open(&path)?;
    /// let reports = engine.set_policy("reports", engine.policy().recovery(Recovery::Rerun))?;
    /// drop(reports.begin("key", request)?); // a worker that lost its way
    /// engine.close()?;
    ///
    /// let engine = Engine::open(&path)?;
    /// let Begin::Fresh(claim) = engine.scope("reports").begin("key", request)? else { panic!() };
    /// assert_eq!(claim.interrupted().unwrap().attempt(), 1);
    /// # claim.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_policy(&self, name: impl AsRef<[u8]>, policy: Policy) -> Result<Scope, SetPolicyError> {
        block(self.set_policy_as(Caller::Thread, name.as_ref(), policy))?;
        Ok(self.scope(name))
    }

    /// [`set_policy`](Self::set_policy) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`set_policy`](Self::set_policy).
    pub async fn set_policy_async(
        &self,
        name: impl AsRef<[u8]>,
        policy: Policy,
    ) -> Result<Scope, SetPolicyError> {
        self.set_policy_as(Caller::Task, name.as_ref(), policy).await?;
        Ok(self.scope(name))
    }

    async fn set_policy_as(&self, caller: Caller, name: &[u8], policy: Policy) -> Result<(), SetPolicyError> {
        match &self.handle {
            Handle::File(file) => file.core().set_policy(caller, name, policy).await,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => carry_checked(caller, Box::pin(shared.set_policy(name, policy))).await,
        }
    }

    /// The scopes that have policies of their own, by name. None in a forked child.
    #[must_use]
    pub fn policies(&self) -> Vec<(Box<[u8]>, Policy)> {
        match &self.handle {
            Handle::File(file) => file.core().declared_policies(),
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => shared.declared_policies(),
        }
    }

    /// Counters and sizes. Walks over the shards, so don't call it on a hot path.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match &self.handle {
            Handle::File(file) => file.core().stats(),
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => shared.stats(),
        }
    }

    /// The engine's time now. Records' times are on the same clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.handle {
            Handle::File(file) => file.core().clock.now(),
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => shared.now(),
        }
    }

    /// Waits until every acknowledged completion is durable; see
    /// [`Durability::Relaxed`](crate::Durability::Relaxed).
    ///
    /// # Errors
    ///
    /// When a commit failed.
    ///
    /// ```
    /// # use idemkv::{Begin, Durability, Engine, Fingerprint, Recovery};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let relaxed = Durability::Relaxed(Duration::from_secs(60));
    /// let clicks = engine.set_policy("clicks", engine.policy().recovery(Recovery::Rerun).durability(relaxed))?;
    /// let Begin::Fresh(claim) = clicks.begin("key", Fingerprint::of("request"))? else { panic!() };
    /// let record = claim.complete("reply")?;
    /// assert!(!record.is_durable());
    /// engine.flush()?;
    /// assert!(record.is_durable());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&self) -> Result<(), CommitError> {
        block(self.flush_as(Caller::Thread))
    }

    /// [`flush`](Self::flush) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`flush`](Self::flush).
    pub async fn flush_async(&self) -> Result<(), CommitError> {
        self.flush_as(Caller::Task).await
    }

    async fn flush_as(&self, caller: Caller) -> Result<(), CommitError> {
        match &self.handle {
            Handle::File(file) => file.core().flush(caller).await,
            // Every answer is durable.
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => Ok(shared.check()?),
        }
    }

    /// Closes the file: stops grants, commits the queue, and moves the log's content to the file.
    ///
    /// Calls on other clones, scopes and claims then fail with "closed". Claims in flight can't
    /// be completed any more: the next opening interrupts their keys, and this returns their
    /// number. To lose none, end them first. Only the first call closes; any other waits for it
    /// and returns the same result.
    ///
    /// # Errors
    ///
    /// When an earlier commit failed, or the last checkpoint fails. Nothing acknowledged is lost:
    /// the next opening finds it in the log.
    ///
    /// A close from within a callback or a transaction needs a thread. If the system refuses one,
    /// this is an error too, and the engine stays open as long as other handles live.
    pub fn close(self) -> Result<Closed, Failure> {
        let claims_left = match &self.handle {
            Handle::File(file) => file.close()?,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => block(shared.close(Caller::Thread))?,
        };
        Ok(Closed { claims_left })
    }

    /// [`close`](Self::close) for tasks, on any executor: a separate thread does the work, and
    /// the task waits without blocking.
    ///
    /// Once the future was polled, closing goes on even if the future is dropped. Inside
    /// `complete_in` or `read_tables` it is ready before the file is closed, as
    /// [`close`](Self::close) returns there: the close waits for their end.
    ///
    /// # Errors
    ///
    /// As for [`close`](Self::close).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # futures_executor::block_on(async {
    /// let Begin::Fresh(claim) = engine.default_scope().begin_async("key", Fingerprint::of("request")).await? else { panic!() };
    /// claim.complete_async("reply").await?;
    /// assert_eq!(engine.close_async().await?.claims_left, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn close_async(self) -> Result<Closed, Failure> {
        let claims_left = match &self.handle {
            Handle::File(file) => file.close_async().await?,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => shared.close(Caller::Task).await?,
        };
        Ok(Closed { claims_left })
    }
}

/// Its file, and whether it is closed.
impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.handle {
            Handle::File(file) => file.core().fmt(f),
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => shared.fmt(f),
        }
    }
}
