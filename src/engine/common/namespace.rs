//! The namespace behind a scope: its name, and the hash of its keys.

use crate::error::KeyError;
use crate::key::{Digest, KeyHasher, NAME_MAX, Secret};
use crate::sync::Arc;

/// Longest name of a scope, in bytes.
pub(crate) const SCOPE_MAX: usize = 255;

#[derive(Debug)]
pub(crate) struct ScopeInner {
    name: Arc<[u8]>,
    hasher: KeyHasher,
    /// Bytes of the longest key that a file can have. Zero if the scope's own name is too long,
    /// so that the hot path needs only one check.
    key_max: usize,
    /// Bytes of the longest key that is granted a claim.
    granted_max: usize,
}

impl ScopeInner {
    pub(crate) fn new(secret: &Secret, name: &[u8], granted_max: usize) -> Self {
        let key_max = if name.len() > SCOPE_MAX { 0 } else { NAME_MAX };
        Self { name: name.into(), hasher: KeyHasher::new(secret, name), key_max, granted_max }
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn shared_name(&self) -> Arc<[u8]> {
        Arc::clone(&self.name)
    }

    #[inline]
    pub(crate) fn digest(&self, key: &[u8]) -> Result<Digest, KeyError> {
        if key.is_empty() || key.len() > self.key_max {
            return Err(self.refusal(key));
        }
        Ok(self.hasher.digest(key))
    }

    /// Checks that a key may be granted a claim. Longer keys, from a time when the limit was
    /// higher, can be looked up, replayed, resolved and forgotten.
    pub(crate) fn check_granted(&self, key: &[u8]) -> Result<(), KeyError> {
        if key.len() > self.granted_max { Err(self.refusal(key)) } else { Ok(()) }
    }

    #[cold]
    fn refusal(&self, key: &[u8]) -> KeyError {
        if self.key_max == 0 {
            KeyError::ScopeTooLong { len: self.name.len(), max: SCOPE_MAX }
        } else if key.is_empty() {
            KeyError::Empty
        } else {
            KeyError::TooLong { len: key.len(), max: self.granted_max }
        }
    }
}

/// A key with its digest and its scope, as calls need it.
#[derive(Clone, Copy)]
pub(crate) struct KeyRef<'a> {
    pub(crate) scope: &'a ScopeInner,
    pub(crate) key: &'a [u8],
    pub(crate) digest: Digest,
}
