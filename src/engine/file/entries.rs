//! `FileEntries`: an iterator over all live keys of a file.

use super::handle::FileHandle;
use crate::Timestamp;
use crate::engine::common::names::KeyNames;
use crate::error::ReadError;
use crate::index::Slot;
use crate::key::Digest;
use crate::status::Status;
use crate::sync::Arc;

/// Iterates over live keys, shard by shard.
pub(crate) struct FileEntries {
    handle: Arc<FileHandle>,
    next_shard: usize,
    slots: Vec<(Digest, Slot)>,
    /// The time before the shard was read.
    before: Timestamp,
}

impl FileEntries {
    pub(in crate::engine) fn new(handle: &Arc<FileHandle>) -> Self {
        Self { handle: Arc::clone(handle), next_shard: 0, slots: Vec::new(), before: Timestamp::default() }
    }
}

impl Iterator for FileEntries {
    type Item = Result<(Status, KeyNames), ReadError>;

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
                    Ok(Some(found)) => return Some(Ok(found)),
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

impl std::fmt::Debug for FileEntries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileEntries").field("next_shard", &self.next_shard).finish_non_exhaustive()
    }
}
