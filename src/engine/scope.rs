//! Scopes: namespaces of keys.

use super::claim::Begin;
use super::{Handle, Status};
use crate::Fingerprint;
use crate::error::{BeginError, ForgetError, KeyError, ReadError};
use crate::key::{self, Digest, KeyHasher, Secret};
use crate::retention::Retention;
use crate::sync::Arc;

/// Longest name of a scope, in bytes.
pub(crate) const SCOPE_MAX: usize = 255;

#[derive(Debug)]
pub(crate) struct ScopeInner {
    name: Box<[u8]>,
    hasher: KeyHasher,
    retention: Retention,
    /// Zero where the scope's own name is too long, so that the hot path checks one thing only.
    key_max: usize,
}

impl ScopeInner {
    pub(super) fn new(secret: &Secret, name: &[u8], retention: Retention, key_max: usize) -> Self {
        let key_max = if name.len() > SCOPE_MAX { 0 } else { key_max };
        Self { name: name.into(), hasher: KeyHasher::new(secret, name), retention, key_max }
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn retention(&self) -> Retention {
        self.retention
    }

    #[inline]
    pub(super) fn digest(&self, key: &[u8]) -> Result<Digest, KeyError> {
        if let Err(error) = key::check(key, self.key_max) {
            return Err(if self.key_max == 0 {
                KeyError::ScopeTooLong { len: self.name.len(), max: SCOPE_MAX }
            } else {
                error
            });
        }
        Ok(self.hasher.digest(key))
    }
}

/// A namespace for keys: an endpoint, a tenant, a queue. The same key in two scopes is two operations.
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
#[derive(Clone, Debug)]
pub struct Scope {
    pub(super) handle: Arc<Handle>,
    pub(super) inner: Arc<ScopeInner>,
}

impl Scope {
    /// The scope's name; empty for the default scope.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.inner.name()
    }

    /// Asks whether to run the operation with this key. Exactly one of all callers is told to.
    ///
    /// [`Begin::Fresh`] is a claim: run the operation, then end the claim. It is returned once the grant is durable
    /// (see [`Options::intents`](crate::Options::intents)). [`Begin::InFlight`] means that somebody else has the claim.
    /// [`Begin::Done`] is the stored result. The latter two touch no disk, except for a record that is no longer in memory.
    ///
    /// # Errors
    ///
    /// When the key is empty or too long; when it was used with another fingerprint; when its operation has run and the result is no
    /// longer kept ([`BeginError::Expired`], see [`Options::tombstone_ttl`](crate::Options::tombstone_ttl)); when a limit held for too long, the
    /// disk is full, an earlier commit failed, the engine is closed, or the key's record can't be read. None of them
    /// grants anything.
    #[inline]
    pub fn begin(&self, key: impl AsRef<[u8]>, fingerprint: Fingerprint) -> Result<Begin, BeginError> {
        self.handle.core().begin(&self.handle, &self.inner, key.as_ref(), &fingerprint)
    }

    /// Looks at a key without claiming it.
    ///
    /// # Errors
    ///
    /// When the key can't be used, the engine is closed, or the key's record can't be read.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Status};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// assert!(matches!(engine.get("key")?, Status::Vacant));
    /// let Begin::Fresh(claim) = engine.begin("key", Fingerprint::of("request"))? else { panic!() };
    /// assert!(matches!(engine.get("key")?, Status::InFlight(_)));
    /// claim.complete("reply")?;
    /// assert!(matches!(engine.get("key")?, Status::Done(record) if record.body() == b"reply"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Status, ReadError> {
        self.handle.core().status(&self.inner, key.as_ref())
    }

    /// Forgets a record, what is left of one, or an interrupted claim, before its time. Durable when it returns; `false` if there was nothing.
    ///
    /// The next begin runs the operation again: this is for operators who know that it may.
    ///
    /// # Errors
    ///
    /// When a claim on the key is out; when the key can't be used, its record can't be read, or the commit fails.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Status};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let Begin::Fresh(claim) = engine.begin("key", Fingerprint::of("request"))? else { panic!() };
    /// claim.complete("reply")?;
    /// assert!(engine.forget("key")?);
    /// assert!(!engine.forget("key")?);
    /// assert!(matches!(engine.get("key")?, Status::Vacant));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forget(&self, key: impl AsRef<[u8]>) -> Result<bool, ForgetError> {
        self.handle.core().forget(&self.inner, key.as_ref())
    }
}
