//! `Entries`: an iterator over all live keys of an engine, for tools.

use super::engine::Engine;
use super::handle::Handle;
use crate::KeyHash;
use crate::engine::common::names::KeyNames;
use crate::engine::file::entries::FileEntries;
use crate::error::ReadError;
#[cfg(feature = "postgres")]
use crate::shared::entries::SharedEntries;
use crate::status::Status;

/// One live key, as [`Engine::entries`](crate::Engine::entries) gives it.
pub struct KeyEntry {
    names: KeyNames,
    status: Status,
}

impl Engine {
    /// Iterates over all live keys of all scopes, for tools: it reads every record that isn't in
    /// memory.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let charges = engine.scope("charges");
    /// # let Begin::Fresh(claim) = charges.begin("key", Fingerprint::of("request"))? else { panic!() };
    /// claim.complete("reply")?;
    /// for entry in engine.entries() {
    ///     let entry = entry?;
    ///     assert_eq!((entry.scope(), entry.key()), (&b"charges"[..], &b"key"[..]));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn entries(&self) -> Entries {
        match &self.handle {
            Handle::File(file) => Entries(EntriesInner::File(FileEntries::new(file))),
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => Entries(EntriesInner::Shared(SharedEntries::new(shared))),
        }
    }
}

impl KeyEntry {
    /// The key's scope; empty for the default scope.
    #[must_use]
    pub fn scope(&self) -> &[u8] {
        self.names.scope()
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.names.key()
    }

    /// The short hash of the key, as logs and metrics show it.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        self.names.digest().key_hash()
    }

    /// Its state. Never [`Status::Vacant`].
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }
}

/// Iterates over live keys, in no particular order. It shows each shard at one moment, but
/// different shards at different moments.
pub struct Entries(EntriesInner);

#[derive(Debug)]
enum EntriesInner {
    File(FileEntries),
    #[cfg(feature = "postgres")]
    Shared(SharedEntries),
}

impl Iterator for Entries {
    type Item = Result<KeyEntry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = match &mut self.0 {
            EntriesInner::File(entries) => entries.next()?,
            #[cfg(feature = "postgres")]
            EntriesInner::Shared(entries) => entries.next()?,
        };
        Some(next.map(|(status, names)| KeyEntry { names, status }))
    }
}

/// In short, and without the key.
impl std::fmt::Debug for KeyEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyEntry")
            .field("key", &self.key_hash())
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Entries").field(&self.0).finish()
    }
}
