//! Sweeps: remove expired keys from memory.

use crate::Timestamp;
use crate::engine::common::counters::Counters;
use crate::engine::core::Core;
use crate::engine::core::stepped::Stepped;

/// The most interrupted keys that the sweeper vacates in one commit.
const VACATE_MAX: usize = 256;

impl Core {
    pub(super) fn is_time_to_sweep(&self, now: Timestamp) -> bool {
        let Some(mut maintenance) = self.try_lock_maintenance() else { return false };
        let due = now >= maintenance.sweep_at;
        if due {
            maintenance.sweep_at = now.saturating_add(self.tick());
        }
        due
    }

    /// Removes expired keys from memory, a few cells under each lock, from shards with enough of
    /// them.
    pub(super) fn sweep(&self, now: Timestamp, stepped: &mut Stepped) {
        let mut removed = 0;
        let mut interrupted = Vec::new();
        for shard in 0..self.index.shards() {
            if !self.index.is_pass_due(shard, now) {
                continue;
            }
            let mut from = 0;
            loop {
                let swept = self.index.sweep(shard, from, now);
                stepped.passed += swept.passed;
                removed += swept.removed;
                interrupted.extend(swept.interrupted);
                if swept.done {
                    break;
                }
                from += crate::index::CELLS_PER_STEP;
            }
        }
        // Their rows on disk have to go too, so these take the way of everything that changes the
        // disk, some at a time.
        for digests in interrupted.chunks(VACATE_MAX) {
            removed += digests.iter().filter(|digest| self.vacate_if_expired(**digest, now)).count();
            self.commit.drain();
        }
        Counters::add(&self.counters.expired, removed);
        stepped.swept = removed;
    }
}
