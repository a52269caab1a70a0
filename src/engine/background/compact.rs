//! Compacts the file while the engine is idle. `compaction.rs` decides when that pays.

use crate::engine::common::counters::Counters;
use crate::engine::core::compaction::Space;
use crate::engine::core::maintenance::MaintenanceState;
use crate::engine::core::{CallWorker, Core};
use crate::error::{CommitError, Failure, IoFailure};
use crate::store::{Batch, Meta, StoreError};
use crate::sync::Ordering;

/// The engine is idle when nothing but the time was committed for so many [ticks](Core::tick): ten
/// seconds, or a quarter of a short TTL.
const IDLE_TICKS: u32 = 10;

impl Core {
    /// Gives free space in the file back to the disk. redb doubles its file when it needs more,
    /// and never shrinks it by itself. Readers of records on disk have to wait for a compaction,
    /// so it happens only while nothing is committed. Whether it did.
    pub(super) fn compact_when_idle(&self, maintenance: &mut MaintenanceState) -> bool {
        // Around the look at the entries. The step may have begun long before.
        let before = self.clock.now();
        let entries = self.publisher.entries_but_marks();
        let looked = before..self.clock.now();
        let is_idle = maintenance.compaction.is_idle(entries, looked, IDLE_TICKS * self.tick());
        let logged = self.commit.stats().bytes;
        // Expired bodies go first, in as many steps as it takes.
        if !is_idle
            || self.must_not_compact()
            || self.has_due(before)
            || !self.space().is_some_and(|space| maintenance.compaction.pays(space, logged))
        {
            return false;
        }
        self.compact_file(maintenance).map_err(|error| self.checkpoint_failed(error)).unwrap_or(false)
    }

    /// Something is amiss that a compaction could make worse.
    fn must_not_compact(&self) -> bool {
        self.commit.failure().is_some()
            || self.health.is_poisoned()
            || self.health.disk().any().is_some()
            || self.health.file_not_ready().is_some()
            // A compaction that meets a bad sector leaves a file that can't be opened.
            || self.store.failed_reads() > 0
    }

    /// Compacts the file, unless an application reads tables; whether it did.
    fn compact_file(&self, maintenance: &mut MaintenanceState) -> Result<bool, StoreError> {
        let logged = self.commit.stats().bytes;
        let compacted = match self.store.compact() {
            // An application reads tables. The next step tries again.
            Ok(false) => return Ok(false),
            // The last commit has to be one of ours: a commit of the compaction needs a repair
            // after a kill.
            Ok(true) => {
                let live = self.store.live_bytes();
                let note = |meta: &mut Meta| meta.compacted_live = live;
                self.store_batch(None, &Batch::default(), note).map(|_| true)
            }
            Err(error) => Err(error),
        };
        if let Ok(true) = compacted {
            Counters::count(&self.counters.compactions);
        }
        maintenance.compaction.is_over(self.store.live_bytes().unwrap_or_default(), logged);
        compacted
    }

    /// Drops what has expired and compacts the file, for a caller that asks for it.
    pub(in crate::engine) fn compact_on_request(&self) -> Result<bool, CommitError> {
        self.checkpoint_on_request()?;
        if !self.may_wait_for_maintenance() {
            return Ok(false);
        }
        let _afterwards = CallWorker(self);
        let mut maintenance = self.lock_maintenance();
        self.health.may_write()?;
        // A checkpoint drops some of what is due. What falls due meanwhile is for a later call: it
        // may never end. A close is let in between.
        let reclaimed = || self.counters.reclaimed_blocks.load(Ordering::Relaxed);
        let now = self.clock.now();
        while self.has_due(now) {
            self.health.may_write()?;
            let before = reclaimed();
            if !self.checkpoint(&mut maintenance) || reclaimed() == before {
                break;
            }
        }
        self.health.may_write()?;
        if self.must_not_compact() {
            return Err(self.not_compacted("the disk is full, or a read failed since the file was opened"));
        }
        self.compact_file(&mut maintenance).map_err(|error| self.store_refused(error))
    }

    /// The engine's failure, or one that passes.
    fn not_compacted(&self, why: &'static str) -> CommitError {
        let passes = || {
            let error = std::io::Error::other(why);
            Failure::FileNotReady(IoFailure::new(self.store.path(), "compacting", error))
        };
        CommitError::Failed(self.health.failure().cloned().unwrap_or_else(passes))
    }

    /// Live bytes and all bytes of the file; `None` if the store does not know.
    fn space(&self) -> Option<Space> {
        Some(Space { live: self.store.live_bytes()?, file: self.store.file_bytes() })
    }
}
