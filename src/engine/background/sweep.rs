//! Sweeps: remove expired keys from memory.

use super::unattended::Unattended;
use crate::Timestamp;
use crate::engine::common::counters::Counters;
use crate::engine::core::Core;
use crate::engine::core::stepped::Stepped;

/// The most interrupted keys that one step of the worker vacates.
const VACATE_MAX: usize = 256;
/// After so many cells a step passes over no further shard: some tenths of a second.
const PASSED_MAX: usize = 1 << 20;

impl Core {
    /// Whether expired keys are to be looked for. Not asked under the maintenance lock: then
    /// transactions one after the other would keep the sweeper from its work.
    fn is_time_to_sweep(&self, now: Timestamp) -> bool {
        let is_due = now >= self.maintenance.sweep_at();
        if is_due {
            self.maintenance.set_sweep_at(now.saturating_add(self.tick()));
        }
        is_due
    }

    /// Removes expired keys from memory, if it is time, and vacates some that were interrupted.
    pub(super) fn sweep(&self, now: Timestamp, stepped: &mut Stepped) {
        let mut removed = if self.is_time_to_sweep(now) { self.pass_over(now, stepped) } else { 0 };
        removed += self.vacate_some(now);
        Counters::add(&self.counters.expired, removed);
        stepped.swept = removed;
    }

    /// Removes expired keys from memory, a few cells under each lock, from shards with enough of
    /// them. Returns how many. If there are very many, the next step goes on, after the worker's
    /// other duties.
    fn pass_over(&self, now: Timestamp, stepped: &mut Stepped) -> usize {
        let mut removed = 0;
        let mut interrupted = Vec::new();
        let (shards, first) = (self.index.shards(), self.maintenance.sweep_from());
        for shard in (0..shards).map(|nth| (first + nth) % shards) {
            if !self.index.is_pass_due(shard, now) {
                continue;
            }
            if stepped.passed >= PASSED_MAX {
                self.maintenance.stop_sweep_at(shard);
                self.worker.notify();
                break;
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
        self.maintenance.add_to_vacate(interrupted);
        removed
    }

    /// Vacates interrupted keys that have expired, as many as one commit may have. The next step
    /// vacates the others, after the worker's other duties; those for which the log has no space
    /// wait for the next tick. Returns how many were vacated.
    fn vacate_some(&self, now: Timestamp) -> usize {
        // Their rows on disk have to go too, so these take the way of everything that changes the
        // disk.
        let (digests, left) = self.maintenance.take_to_vacate(VACATE_MAX);
        let (mut digests, mut vacated) = (digests.into_iter(), 0);
        while let Some(digest) = digests.next() {
            match self.vacate_if_expired(digest, now) {
                Unattended::Queued => vacated += 1,
                Unattended::Dropped => {}
                Unattended::NoSpace => {
                    self.maintenance.add_to_vacate(std::iter::once(digest).chain(digests));
                    return vacated;
                }
            }
        }
        if left > 0 {
            self.worker.notify();
        }
        vacated
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Engine;
    use crate::index::{Change, Slot, SlotTime};
    use crate::key::Digest;
    use crate::record::RecordLocation;
    use crate::sim::{ManualClock, SimDisk};

    /// An import, say. The worker makes the log longer, and room in it, between two steps.
    #[test]
    fn many_keys_that_expire_together_are_removed_in_steps() {
        const KEYS: u64 = 1_500_000;
        let clock = ManualClock::at_millis(1_000);
        let engine = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped().open("x.idem").unwrap();
        let core = engine.handle.core();
        let now = core.clock.now();
        let until = SlotTime::new(now.saturating_add(Duration::from_secs(10)), now);
        let mixed = |key: u64| u128::from(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for key in 0..KEYS {
            let slot = Slot::Stored { until, place: RecordLocation::new(key, 0) };
            core.index.change(Digest::from_u128(mixed(key)), |_| (Change::Set(slot), ()));
        }
        clock.advance(Duration::from_secs(20));
        let mut swept = Vec::new();
        // A pass misses some that moved in the table meanwhile. The next one finds them.
        while core.index.sizes().keys > 10_000 {
            let stepped = engine.step();
            assert!(stepped.passed < 2 * PASSED_MAX, "{stepped:?}");
            swept.push(stepped.swept);
            assert!(stepped.swept > 0, "{swept:?}, and {} keys are left", core.index.sizes().keys);
        }
        assert!(swept.len() > 1, "{swept:?}");
    }
}
