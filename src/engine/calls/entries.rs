//! `Entries`: an iterator over all live keys of an engine, for tools.

use super::lookup::SlotNames;
use crate::engine::handles::engine::Engine;
use crate::engine::handles::handle::Handle;
use crate::error::ReadError;
use crate::index::Slot;
use crate::key::Digest;
use crate::status::Status;
use crate::sync::Arc;
use crate::{KeyHash, Timestamp};

/// One live key, as [`Engine::entries`](crate::Engine::entries) gives it.
pub struct KeyEntry {
    names: SlotNames,
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
        Entries::new(&self.handle)
    }
}

impl KeyEntry {
    /// The key's scope; empty for the default scope.
    #[must_use]
    pub fn scope(&self) -> &[u8] {
        match &self.names {
            SlotNames::Record(record) => record.scope(),
            SlotNames::Attempt(attempt) => attempt.scope(),
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match &self.names {
            SlotNames::Record(record) => record.key(),
            SlotNames::Attempt(attempt) => attempt.key(),
        }
    }

    /// The short hash of the key, as logs and metrics show it.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        let digest = match &self.names {
            SlotNames::Record(record) => record.digest(),
            SlotNames::Attempt(attempt) => attempt.digest,
        };
        digest.key_hash()
    }

    /// Its state. Never [`Status::Vacant`].
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }
}

/// Iterates over live keys, in no particular order. It shows each shard at one moment, but
/// different shards at different moments.
pub struct Entries {
    handle: Arc<Handle>,
    next_shard: usize,
    slots: Vec<(Digest, Slot)>,
    /// The time before the shard was read.
    before: Timestamp,
}

impl Entries {
    pub(super) fn new(handle: &Arc<Handle>) -> Self {
        Self { handle: Arc::clone(handle), next_shard: 0, slots: Vec::new(), before: Timestamp::default() }
    }
}

impl Iterator for Entries {
    type Item = Result<KeyEntry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let core = self.handle.core();
        if core.health.is_forked() && self.next_shard < core.index.shards() {
            self.slots.clear();
            self.next_shard = core.index.shards();
            return Some(Err(ReadError::Forked));
        }
        loop {
            while let Some((digest, slot)) = self.slots.pop() {
                if let Err(shut) = core.health.check() {
                    self.slots.clear();
                    self.next_shard = core.index.shards();
                    return Some(Err(shut.into()));
                }
                match core.resolve(digest, slot, self.before) {
                    Ok(Some((Status::Vacant, _)) | None) => {}
                    Ok(Some((status, names))) => return Some(Ok(KeyEntry { names, status })),
                    Err(error) => return Some(Err(error)),
                }
            }
            if self.next_shard == core.index.shards() {
                return None;
            }
            self.before = core.clock.now();
            self.slots = core.index.snapshot(self.next_shard);
            self.next_shard += 1;
        }
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
        f.debug_struct("Entries").field("next_shard", &self.next_shard).finish_non_exhaustive()
    }
}
