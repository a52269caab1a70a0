//! Compacts the file while the engine is idle. `compaction.rs` decides when that pays.

use crate::Timestamp;
use crate::engine::core::Core;
use crate::engine::core::compaction::Space;
use crate::engine::core::maintenance::MaintenanceState;
use crate::store::{Batch, Meta};

/// The engine is idle when nothing but the time was committed for so many [ticks](Core::tick): ten
/// seconds, or a quarter of a short TTL.
const IDLE_TICKS: u32 = 10;

impl Core {
    /// Gives free space in the file back to the disk. redb doubles its file when it needs more,
    /// and never shrinks it by itself. Readers of records on disk have to wait for a compaction,
    /// so it happens only while nothing is committed. Whether it did.
    pub(super) fn compact_when_idle(&self, maintenance: &mut MaintenanceState, now: Timestamp) -> bool {
        let entries = self.publisher.entries_but_marks();
        let is_idle = maintenance.compaction.is_idle(entries, now, IDLE_TICKS * self.tick());
        let logged = self.commit.stats().bytes;
        let stopped = self.commit.failure().is_some()
            || self.health.is_poisoned()
            || self.health.disk().any().is_some()
            || self.health.file_not_ready().is_some()
            // A compaction that meets a bad sector leaves a file that can't be opened.
            || self.store.failed_reads() > 0;
        // Expired bodies go first, in as many steps as it takes.
        if !is_idle
            || stopped
            || self.has_due(now)
            || !self.space().is_some_and(|space| maintenance.compaction.pays(space, logged))
        {
            return false;
        }
        let compacted = match self.store.compact() {
            // An application reads tables. The next step tries again.
            Ok(false) => return false,
            // The last commit has to be one of ours: a commit of the compaction needs a repair
            // after a kill.
            Ok(true) => {
                let live = self.store.live_bytes();
                let note = |meta: &mut Meta| meta.compacted_live = live;
                self.store_batch(None, &Batch::default(), note).map(drop)
            }
            Err(error) => Err(error),
        };
        maintenance.compaction.is_over(self.store.live_bytes().unwrap_or_default(), logged);
        compacted.map_err(|error| self.checkpoint_failed(error)).is_ok()
    }

    /// Live bytes and all bytes of the file; `None` if the store does not know.
    fn space(&self) -> Option<Space> {
        Some(Space { live: self.store.live_bytes()?, file: self.store.file_bytes() })
    }
}
