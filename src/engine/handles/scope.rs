//! `Scope`: the public handle on a namespace of keys.

use super::claim::{Begin, Claim};
use super::handle::Handle;
use super::token::ClaimToken;
use crate::engine::common::namespace::ScopeInner;
use crate::engine::common::untold::CallingProcess;
use crate::error::{BeginError, ForgetError, KeyError, ReadError, ResolveError, TokenError};
use crate::policy::Policy;
#[cfg(feature = "postgres")]
use crate::shared::refusal::carry_checked;
use crate::status::Status;
use crate::sync::Arc;
use crate::task::caller::{Caller, block};
use crate::{Fence, Fingerprint, KeyHash, Seen};

/// A namespace for keys: an endpoint, a tenant, a queue. The same key in two scopes is two
/// operations.
///
/// Cheap to clone and to share among threads; it keeps the engine open.
///
/// ```
/// # use idemkv::{Begin, Engine, Fingerprint};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// let (charges, refunds) = (engine.scope("POST /v1/charges"), engine.scope("POST /v1/refunds"));
/// let request = Fingerprint::of("amount=10");
/// assert!(matches!(charges.begin("key", request)?, Begin::Fresh(_)));
/// assert!(matches!(refunds.begin("key", request)?, Begin::Fresh(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Scope {
    pub(in crate::engine) handle: Handle,
    pub(in crate::engine) inner: Arc<ScopeInner>,
}

impl Scope {
    /// The scope's name; empty for the default scope.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.inner.name()
    }

    /// The short hash of a key of this scope, as logs and metrics show it.
    ///
    /// # Errors
    ///
    /// When the key, or the scope's name, can't be used.
    pub fn key_hash(&self, key: impl AsRef<[u8]>) -> Result<KeyHash, KeyError> {
        Ok(self.inner.digest(key.as_ref())?.key_hash())
    }

    /// Asks whether to run the operation with this key. Exactly one caller at a time is told to
    /// run it.
    ///
    /// [`Begin::Fresh`] is a claim: run the operation, then end the claim. It is returned once the
    /// grant is durable (see [`Policy::durability`]). [`Begin::InFlight`] means that another
    /// caller has the claim. [`Begin::Done`] is the stored result. The latter two do no I/O,
    /// unless the record is no longer in memory.
    ///
    /// # Errors
    ///
    /// When the key is empty or too long; when it was used with another fingerprint; when the key
    /// is interrupted and the policy grants no further attempt ([`BeginError::Unresolved`]); when
    /// the operation has run and its result is no longer kept ([`BeginError::Expired`], see
    /// [`Options::tombstone_ttl`](crate::Options::tombstone_ttl)); when a limit held for too long,
    /// the disk is full, an earlier commit failed, the engine is closed, or the key's record can't
    /// be read. An error grants nothing.
    #[inline]
    pub fn begin(&self, key: impl AsRef<[u8]>, fingerprint: Fingerprint) -> Result<Begin, BeginError> {
        match &self.handle {
            Handle::File(file) => file.core().begin(file, &self.inner, key.as_ref(), &fingerprint),
            #[cfg(feature = "postgres")]
            Handle::Shared(_) => block(self.begin_as(Caller::Thread, key.as_ref(), &fingerprint)),
        }
    }

    /// The current policy of this scope; see [`Engine::set_policy`](crate::Engine::set_policy).
    #[must_use]
    pub fn policy(&self) -> Policy {
        match &self.handle {
            Handle::File(file) => file.core().policy_of(self.name()),
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => shared.policy_of(self.name()),
        }
    }

    /// A claim on an interrupted key, under any policy, for a caller that knows the outcome of the
    /// operation. Complete or fail the claim with that outcome; release it if the operation
    /// certainly did not happen in any attempt; or run the operation.
    ///
    /// It differs from the claim of a begin in one way: [`Claim::release`] speaks for all
    /// attempts, and leaves the key vacant. A token does not carry this right: after
    /// [`Claim::into_token`] a release leaves the earlier interruption, as any other does.
    ///
    /// # Errors
    ///
    /// When the key is not interrupted; otherwise as for [`begin`](Self::begin).
    ///
    /// ```
    /// # use idemkv::{Begin, BeginError, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let charges = engine.scope("charges");
    /// drop(charges.begin("key", request)?); // lost: was the card charged?
    /// assert!(matches!(charges.begin("key", request), Err(BeginError::Unresolved(_))));
    ///
    /// // Somebody asks the bank. It was.
    /// charges.resolve("key")?.complete("charged")?;
    /// assert!(matches!(charges.begin("key", request)?, Begin::Done(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resolve(&self, key: impl AsRef<[u8]>) -> Result<Claim, ResolveError> {
        block(self.resolve_as(Caller::Thread, key.as_ref(), None))
    }

    /// [`resolve`](Self::resolve), if the key is still interrupted by the attempt with this fence.
    /// For operators that decide by what they saw: an attempt that was lost since may have had an
    /// effect that they know nothing of.
    ///
    /// If nothing comes of the resolution, give the claim back with
    /// [`Claim::put_back`](crate::Claim::put_back).
    ///
    /// # Errors
    ///
    /// When another attempt was interrupted since ([`ResolveError::AnotherAttempt`]); otherwise as
    /// for [`resolve`](Self::resolve).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Recovery, ResolveError, Status};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let charges = engine.set_policy("charges", engine.policy().recovery(Recovery::Rerun))?;
    /// drop(charges.begin("key", request)?);
    /// let Status::Interrupted(seen) = charges.get("key")? else { panic!() };
    /// // An operator asks the bank: it knows of no charge. Meanwhile a retry runs, and is lost.
    /// drop(charges.begin("key", request)?);
    /// let late = charges.resolve_if("key", seen.fence());
    /// assert!(matches!(late, Err(ResolveError::AnotherAttempt(now)) if now.attempt() == 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resolve_if(&self, key: impl AsRef<[u8]>, fence: Fence) -> Result<Claim, ResolveError> {
        block(self.resolve_as(Caller::Thread, key.as_ref(), Some(fence)))
    }

    /// [`resolve`](Self::resolve) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve).
    pub async fn resolve_async(&self, key: impl AsRef<[u8]>) -> Result<Claim, ResolveError> {
        self.resolve_as(Caller::Task, key.as_ref(), None).await
    }

    /// [`resolve_if`](Self::resolve_if) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`resolve_if`](Self::resolve_if).
    pub async fn resolve_if_async(&self, key: impl AsRef<[u8]>, fence: Fence) -> Result<Claim, ResolveError> {
        self.resolve_as(Caller::Task, key.as_ref(), Some(fence)).await
    }

    /// Resumes a claim that was handed over with [`Claim::into_token`].
    ///
    /// # Errors
    ///
    /// When the token is damaged, of another file or of another scope; when the claim has ended,
    /// its lease has run out, or another caller has it already; when a commit failed, or the
    /// engine is closed.
    pub fn resume(&self, token: &ClaimToken) -> Result<Claim, TokenError> {
        block(self.resume_as(Caller::Thread, token))
    }

    /// [`resume`](Self::resume) for tasks. If the future is dropped before it is ready, the token
    /// is as good as before. On a shared store, other holders may be told
    /// [`Held`](crate::TokenError::Held) until the store has heard of the drop.
    ///
    /// # Errors
    ///
    /// As for [`resume`](Self::resume).
    pub async fn resume_async(&self, token: &ClaimToken) -> Result<Claim, TokenError> {
        self.resume_as(Caller::Task, token).await
    }

    /// Looks up a key without claiming it.
    ///
    /// # Errors
    ///
    /// When the key can't be used, the engine is closed, or the key's record can't be read.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Status};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// assert!(matches!(engine.default_scope().get("key")?, Status::Vacant));
    /// let Begin::Fresh(claim) = engine.default_scope().begin("key", Fingerprint::of("request"))? else { panic!() };
    /// assert!(matches!(engine.default_scope().get("key")?, Status::InFlight(_)));
    /// claim.complete("reply")?;
    /// assert!(matches!(engine.default_scope().get("key")?, Status::Done(record) if record.body() == b"reply"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Status, ReadError> {
        match &self.handle {
            Handle::File(file) => block(file.core().status(Caller::Thread, &self.inner, key.as_ref())),
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => {
                block(carry_checked(Caller::Thread, shared.status(&self.inner, key.as_ref())))
            }
        }
    }

    /// Forgets a record, a tombstone or an interrupted key before its time. Durable when it
    /// returns; `false` if there was nothing.
    ///
    /// The next begin runs the operation again: this is for operators who know that it may.
    ///
    /// # Errors
    ///
    /// When a claim on the key is in flight; when the key can't be used, its record can't be
    /// read, or the commit fails.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Status};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let Begin::Fresh(claim) = engine.default_scope().begin("key", Fingerprint::of("request"))? else { panic!() };
    /// claim.complete("reply")?;
    /// assert!(engine.default_scope().forget("key")?);
    /// assert!(!engine.default_scope().forget("key")?);
    /// assert!(matches!(engine.default_scope().get("key")?, Status::Vacant));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forget(&self, key: impl AsRef<[u8]>) -> Result<bool, ForgetError> {
        block(self.forget_as(Caller::Thread, key.as_ref(), None))
    }

    /// [`forget`](Self::forget), if the key still has the result or the interruption that the
    /// caller saw; `false` if not. For operators that decide by what they saw: a record that came
    /// since is kept, also that of the same attempt.
    ///
    /// # Errors
    ///
    /// As for [`forget`](Self::forget).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Status};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let scope = engine.default_scope();
    /// # drop(scope.begin("key", Fingerprint::of("request"))?);
    /// let Status::Interrupted(seen) = scope.get("key")? else { panic!() };
    /// scope.resolve("key")?.complete("charged")?; // meanwhile, by another operator
    /// assert!(!scope.forget_if("key", &seen)?);
    /// assert!(matches!(scope.get("key")?, Status::Done(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forget_if(&self, key: impl AsRef<[u8]>, seen: impl Into<Seen>) -> Result<bool, ForgetError> {
        block(self.forget_as(Caller::Thread, key.as_ref(), Some(seen.into())))
    }

    /// [`begin`](Self::begin) for tasks, on any executor. The future does no I/O and does not
    /// block: the engine's own threads do the work.
    ///
    /// A future that is dropped before it is ready claims nothing: a pending grant is released.
    /// But the drop of a claim leaves its key interrupted. So in a handler that a framework drops
    /// with its client, spawn a task to hold the claim.
    ///
    /// # Errors
    ///
    /// As for [`begin`](Self::begin).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let charges = engine.scope("charges");
    /// # futures_executor::block_on(async {
    /// match charges.begin_async("key", Fingerprint::of("request")).await? {
    ///     Begin::Fresh(claim) => drop(claim.complete_async("reply").await?),
    ///     Begin::InFlight(pending) => drop(pending.await?),
    ///     Begin::Done(record) => println!("{:?}", record.body()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn begin_async(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
    ) -> Result<Begin, BeginError> {
        self.begin_as(Caller::Task, key.as_ref(), &fingerprint).await
    }

    /// [`get`](Self::get) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn get_async(&self, key: impl AsRef<[u8]>) -> Result<Status, ReadError> {
        match &self.handle {
            Handle::File(file) => file.core().status(Caller::Task, &self.inner, key.as_ref()).await,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => Box::pin(shared.status(&self.inner, key.as_ref())).await,
        }
    }

    /// [`forget`](Self::forget) for tasks. If the future is dropped, the key may be forgotten or
    /// not.
    ///
    /// # Errors
    ///
    /// As for [`forget`](Self::forget).
    pub async fn forget_async(&self, key: impl AsRef<[u8]>) -> Result<bool, ForgetError> {
        self.forget_as(Caller::Task, key.as_ref(), None).await
    }

    /// [`forget_if`](Self::forget_if) for tasks. If the future is dropped, the key may be
    /// forgotten or not.
    ///
    /// # Errors
    ///
    /// As for [`forget`](Self::forget).
    pub async fn forget_if_async(
        &self,
        key: impl AsRef<[u8]>,
        seen: impl Into<Seen>,
    ) -> Result<bool, ForgetError> {
        self.forget_as(Caller::Task, key.as_ref(), Some(seen.into())).await
    }
}

/// Each call that may wait, once for threads and tasks.
impl Scope {
    pub(super) async fn begin_as(
        &self,
        caller: Caller,
        key: &[u8],
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        match &self.handle {
            Handle::File(file) => file.core().begin_as(caller, file, &self.inner, key, fingerprint).await,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => shared.begin(caller, &self.inner, key, *fingerprint).await,
        }
    }

    async fn resolve_as(
        &self,
        caller: Caller,
        key: &[u8],
        only: Option<Fence>,
    ) -> Result<Claim, ResolveError> {
        match &self.handle {
            Handle::File(file) => file.core().resolve_key(caller, file, &self.inner, key, only).await,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => {
                carry_checked(caller, Box::pin(shared.resolve(&self.inner, key, only))).await
            }
        }
    }

    async fn resume_as(&self, caller: Caller, token: &ClaimToken) -> Result<Claim, TokenError> {
        match &self.handle {
            Handle::File(file) => file.core().resume(caller, file, &self.inner, token).await,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => {
                carry_checked(caller, Box::pin(shared.resume(&self.inner, token))).await
            }
        }
    }

    async fn forget_as(&self, caller: Caller, key: &[u8], only: Option<Seen>) -> Result<bool, ForgetError> {
        let asked = CallingProcess::here();
        let forgotten = match &self.handle {
            Handle::File(file) => file.core().forget(caller, &self.inner, key, only).await,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => {
                carry_checked(caller, Box::pin(shared.forget(&self.inner, key, only))).await
            }
        };
        Ok(asked.tell(forgotten?)?)
    }
}

/// Its name, or the start of it.
impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 32;
        let name = self.inner.name();
        let (shown, rest) = name.split_at(name.len().min(SHOWN));
        let more = if rest.is_empty() { "" } else { ".." };
        write!(f, "Scope(\"{}{more}\")", shown.escape_ascii())
    }
}
