//! `FileEntries`: an iterator over all live keys of a file.

use super::handle::FileHandle;
use crate::Timestamp;
use crate::engine::common::names::KeyNames;
use crate::error::ReadError;
use crate::index::{Slot, WalkPlace};
use crate::key::Digest;
use crate::status::Status;
use crate::sync::Arc;

/// Iterates over live keys, shard by shard, some cells at a time.
pub(crate) struct FileEntries {
    handle: Arc<FileHandle>,
    shard: usize,
    /// Where the walk over the shard goes on.
    place: WalkPlace,
    slots: Vec<(Digest, Slot)>,
    /// The time before the slots were read.
    before: Timestamp,
}

impl FileEntries {
    pub(in crate::engine) fn new(handle: &Arc<FileHandle>) -> Self {
        let (place, before) = (WalkPlace::default(), Timestamp::default());
        Self { handle: Arc::clone(handle), shard: 0, place, slots: Vec::new(), before }
    }
}

impl Iterator for FileEntries {
    type Item = Result<(Status, KeyNames), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let core = self.handle.core();
        if core.health.is_forked() && self.shard < core.index.shards() {
            self.slots.clear();
            self.shard = core.index.shards();
            return Some(Err(ReadError::Forked));
        }
        loop {
            while let Some((digest, slot)) = self.slots.pop() {
                if let Err(shut) = core.health.check() {
                    self.slots.clear();
                    self.shard = core.index.shards();
                    return Some(Err(shut.into()));
                }
                match core.resolve(digest, slot, self.before) {
                    Ok(Some((Status::Vacant, _)) | None) => {}
                    Ok(Some(found)) => return Some(Ok(found)),
                    Err(error) => return Some(Err(error)),
                }
            }
            if self.shard == core.index.shards() {
                return None;
            }
            self.before = core.clock.now();
            let (slots, next) = core.index.snapshot(self.shard, self.place);
            self.slots = slots;
            self.shard += usize::from(next.is_none());
            self.place = next.unwrap_or_default();
        }
    }
}

impl std::fmt::Debug for FileEntries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileEntries").field("shard", &self.shard).finish_non_exhaustive()
    }
}
