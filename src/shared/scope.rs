//! `SharedScope`: a namespace of keys in the shared store.

use super::begin::begin;
use super::claim::{SharedBegin, SharedClaim};
use super::core::Handle;
use super::error::SharedError;
use super::granting::{Asked, not_granted};
use super::resolve::resolve;
use crate::error::KeyError;
use crate::key::KeyHasher;
use crate::policy::Policy;
use crate::sync::Arc;
use crate::task::caller::park_on;
use crate::{Fence, Fingerprint, Status};

/// Longest name of a scope, in bytes; as in a file.
const SCOPE_MAX: usize = 255;

/// A namespace for keys. Cheap to clone.
#[derive(Clone)]
pub struct SharedScope {
    handle: Arc<Handle>,
    name: Arc<[u8]>,
    hasher: KeyHasher,
}

impl SharedScope {
    pub(super) fn new(handle: &Arc<Handle>, name: &[u8]) -> Self {
        let hasher = KeyHasher::new(&handle.0.secret, name);
        Self { handle: Arc::clone(handle), name: name.into(), hasher }
    }

    fn asked(&self, key: &[u8]) -> Result<Asked, SharedError> {
        let max = self.handle.0.options.max_key_bytes;
        if self.name.len() > SCOPE_MAX {
            return Err(KeyError::ScopeTooLong { len: self.name.len(), max: SCOPE_MAX }.into());
        }
        if key.is_empty() {
            return Err(KeyError::Empty.into());
        }
        if key.len() > max {
            return Err(KeyError::TooLong { len: key.len(), max }.into());
        }
        let digest = self.hasher.digest(key);
        Ok(Asked { scope: Arc::clone(&self.name), key: key.into(), digest })
    }

    /// Asks whether to run the operation with this key. Of all callers in all processes, one at a
    /// time is told to.
    ///
    /// # Errors
    ///
    /// See [`SharedError`]. An error grants nothing.
    pub fn begin(&self, key: impl AsRef<[u8]>, fingerprint: Fingerprint) -> Result<SharedBegin, SharedError> {
        park_on(self.begin_async(key, fingerprint))
    }

    /// [`begin`](Self::begin) for tasks, on any executor. A future that is dropped claims
    /// nothing: what it was granted is withdrawn.
    ///
    /// # Errors
    ///
    /// As for [`begin`](Self::begin).
    pub async fn begin_async(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
    ) -> Result<SharedBegin, SharedError> {
        let asked = self.asked(key.as_ref())?;
        begin(&self.handle, &asked, fingerprint).await.map_err(not_granted)
    }

    /// A claim on an interrupted key, for a caller that knows the outcome.
    ///
    /// # Errors
    ///
    /// When the key is not interrupted; otherwise as for [`begin`](Self::begin).
    pub fn resolve(&self, key: impl AsRef<[u8]>) -> Result<SharedClaim, SharedError> {
        let asked = self.asked(key.as_ref())?;
        park_on(resolve(&self.handle, &asked)).map_err(not_granted)
    }

    /// Looks up a key.
    ///
    /// # Errors
    ///
    /// When the key can't be used, or the store does not answer in time.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Status, SharedError> {
        let asked = self.asked(key.as_ref())?;
        park_on(self.handle.0.status(&asked))
    }

    /// Forgets a record, a tombstone or an interruption; `false` if there was nothing.
    ///
    /// # Errors
    ///
    /// When a claim on the key is in flight, or the store does not answer in time.
    pub fn forget(&self, key: impl AsRef<[u8]>) -> Result<bool, SharedError> {
        let asked = self.asked(key.as_ref())?;
        park_on(self.handle.0.forget(&asked, None))
    }

    /// [`forget`](Self::forget), if the key still has the record or the interruption of the
    /// attempt with this fence.
    ///
    /// # Errors
    ///
    /// As for [`forget`](Self::forget).
    pub fn forget_if(&self, key: impl AsRef<[u8]>, fence: Fence) -> Result<bool, SharedError> {
        let asked = self.asked(key.as_ref())?;
        park_on(self.handle.0.forget(&asked, Some(fence)))
    }

    /// The scope's policy as this process last read it. A begin is decided by the current one.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.handle.0.policies.of(&self.name).0
    }

    /// Gives the scope a policy of its own, in every process, and for good.
    ///
    /// # Errors
    ///
    /// When the policy is not for a shared store, or the store does not answer in time.
    pub fn set_policy(&self, policy: Policy) -> Result<(), SharedError> {
        park_on(self.handle.0.set_policy(&self.name, policy))
    }
}

/// Its name.
impl std::fmt::Debug for SharedScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedScope(\"{}\")", self.name.escape_ascii())
    }
}
