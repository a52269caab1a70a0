//! Prepares the log for a new opening: the replayed entries move to the store, and the log is
//! empty again.
//!
//! An opening does this before it answers a call. On a full disk the store can't take the
//! entries. The engine still opens, because replaying results needs no space: it makes the log
//! durable in place, and the first checkpoint that finds space prepares the log. Until then the
//! log has no space to reserve, so nothing is granted and nothing is appended.

use crate::engine::common::counters::Counters;
use crate::engine::core::Core;
use crate::engine::core::maintenance::Unprepared;
use crate::engine::core::modes::CommitMode;
use crate::error::{Failure, IoFailure};
use crate::store::{Batch, Meta, StoreError};
use crate::sync::Arc;
use crate::wal;
use crate::wal::{Log, LogWriter};

impl Core {
    /// Moves the replayed entries to the store and opens the log for writing, if that was not
    /// done before. For the holder of the maintenance lock.
    ///
    /// # Errors
    ///
    /// If the store or the log can't be written. Nothing that counts was changed then.
    pub(in crate::engine) fn prepare(&self, unprepared: &mut Option<Unprepared>) -> Result<(), StoreError> {
        let Some(Unprepared { path, id, last_seq, is_durable }) = unprepared else { return Ok(()) };
        let wanted = self.options.log_segment_bytes;
        let found = self.log.get().filter(|log| log.segment_bytes() == wanted);
        let bytes = found.as_ref().map(|log| log.bytes()).transpose().map_err(StoreError::Later)?;
        let kept = found.zip(bytes).filter(|(_, bytes)| *bytes >= wal::first_bytes(wanted));
        let name = path.to_string_lossy();
        let disk = &*self.options.disk;
        // Nothing is appended meanwhile. So once is enough, however often the store is full.
        if let Some((log, _)) = kept.as_ref().filter(|_| !*is_durable) {
            // What the meta row is about to say of it may be from right before a kill.
            let Meta { salt, log_bytes, .. } = self.store.meta();
            log.add_opening(disk, &id.checksummer, (salt, self.opening), log_bytes).map_err(refused)?;
            *is_durable = true;
        }
        self.move_replayed(&name, kept.as_ref().map(|(_, bytes)| *bytes))?;
        let (log, bytes) = if let Some(kept) = kept {
            kept
        } else {
            // The one there was is over. Where this fails, it must not be missed at its path.
            self.log.set(None);
            let log = Log::create(disk, path, id, wanted, self.opening).map_err(refused)?;
            let bytes = log.bytes().map_err(refused)?;
            // Only now does the store rely on it.
            self.move_replayed(&name, Some(bytes))?;
            (Arc::new(log), bytes)
        };
        self.log.set(Some(Arc::clone(&log)));
        let synced = self.options.commit_mode == CommitMode::Synced;
        let checksummer = id.checksummer.clone();
        let writer =
            LogWriter::new(log, Arc::clone(&self.space), checksummer, self.opening, synced, *last_seq);
        *unprepared = None;
        self.commit.start(writer);
        self.health.disk().log_has_room();
        self.health.store_is_ready();
        self.space.open(bytes);
        Ok(())
    }

    /// Moves the replayed entries to the store. From then on the store says that this opening has
    /// a log with so many bytes of segments, or that no log is needed. One atomic step thus
    /// retires the old log.
    fn move_replayed(&self, name: &str, log_bytes: Option<u64>) -> Result<(), StoreError> {
        let applied = self.or_poison(|| {
            let (tail, limit) = (self.publisher.take_tail(), self.fences.limit());
            let change = |meta: &mut Meta| {
                self.stamp(meta);
                meta.checkpointed_seq = tail.seq;
                meta.fence_next = limit;
                meta.salt = self.opening;
                name.clone_into(&mut meta.opened_as.0);
                meta.log_empty = log_bytes.is_none();
                meta.log_buffered = self.options.commit_mode == CommitMode::Buffered;
                meta.log_bytes = log_bytes.unwrap_or(0);
            };
            let batch = if tail.len() == 0 { Batch::default() } else { tail.batch(0) };
            let lift = |from, tombstone: &_| self.index.pin_in_memory(from, tombstone);
            self.store
                .apply(None, &batch, &|| self.clock.now(), change, lift)
                .inspect_err(|_| self.publisher.put_tail_back(tail))
        })?;
        self.index.evict();
        Counters::add(&self.counters.reclaimed_blocks, applied.reclaimed);
        applied.cold.iter().for_each(|record| self.index.drop_cached(record));
        Ok(())
    }
}

/// The error if the log can't be prepared; on a full disk the engine tries again.
fn refused(failure: IoFailure) -> StoreError {
    if failure.is_disk_full() { StoreError::Full(failure) } else { StoreError::Failed(Failure::Io(failure)) }
}
