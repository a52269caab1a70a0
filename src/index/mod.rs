//! The index: every live key, in shards with a lock each.
//!
//! Locks are leaves: no other lock is taken, and no I/O is done, under one. The one exception is
//! a batch of lookups, which takes read locks of several shards, in ascending order.

use crossbeam::utils::CachePadded;

use crate::Timestamp;
use crate::attempt::Attempt;
use crate::key::Digest;
use crate::record::{Record, RecordLocation, Relocation};
use crate::sync::{Arc, Ordering, UnseenU64};
use local_counter::LocalCounters;
use shard::Shard;
use versioned_shard::VersionedShard;

mod batch;
#[cfg(test)]
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
mod cache_tests;
mod cached;
mod due;
mod load_partition;
mod local_counter;
mod shard;
mod slot;
mod table;
mod thread_cache;
mod versioned_shard;

pub(crate) use batch::BATCH_MAX;
pub(crate) use load_partition::LoadPartition;
pub(crate) use shard::{CELLS_PER_STEP, Change, Swept};
pub(crate) use slot::{Slot, SlotTime};
pub(crate) use table::WalkPlace;
#[cfg(all(test, idemkv_loom, feature = "sim"))]
pub(crate) use thread_cache::ThreadCache;

#[derive(Debug)]
pub(crate) struct Index {
    /// Unique in this process, also among dropped indexes.
    number: u64,
    shards: Box<[CachePadded<VersionedShard>]>,
    /// Replays that were not counted by a shard.
    tallies: LocalCounters,
    /// Bytes of cached records that a shard may keep.
    budget: usize,
    /// When the file was opened: slot times count from here.
    epoch: Timestamp,
}

#[inline]
fn shard_of(digest: Digest, mask: usize) -> usize {
    digest.as_u128() as usize & mask
}

/// Counts of lookups by their results.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hits {
    pub(crate) replayed: u64,
    pub(crate) waited: u64,
    pub(crate) loaded: u64,
}

/// Sizes of the index.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) keys: usize,
    pub(crate) interrupted: usize,
    pub(crate) cached_bytes: usize,
    pub(crate) table_bytes: usize,
}

impl Index {
    /// # Panics
    ///
    /// If `shards` is not a power of two; options ensure that it is.
    pub(crate) fn new(shards: usize, cache_bytes: usize, epoch: Timestamp) -> Self {
        static NUMBERS: UnseenU64 = UnseenU64::new(1);
        assert!(shards.is_power_of_two(), "shards are picked by the lower bits of a digest");
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            tallies: LocalCounters::default(),
            shards: (0..shards).map(|_| CachePadded::default()).collect(),
            budget: cache_bytes / shards,
            epoch,
        }
    }

    pub(crate) fn epoch(&self) -> Timestamp {
        self.epoch
    }

    /// The number of a key's shard.
    #[inline]
    pub(crate) fn shard_of(&self, digest: Digest) -> usize {
        shard_of(digest, self.shards.len() - 1)
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "the mask keeps the number below the number of shards")]
    fn locked(&self, digest: Digest) -> &VersionedShard {
        &self.shards[self.shard_of(digest)]
    }

    /// What the index holds for a key.
    #[inline]
    pub(crate) fn get(&self, digest: Digest) -> Slot {
        self.locked(digest).get(digest)
    }

    /// Reads a slot and changes it, under the shard's lock. `change` must not block.
    pub(crate) fn change<R>(&self, digest: Digest, change: impl FnOnce(&Slot) -> (Change, R)) -> R {
        self.locked(digest).change(|shard| shard.change(digest, change))
    }

    #[inline]
    pub(crate) fn count_replayed(&self, digest: Digest) {
        self.count_replays(digest, 1);
    }

    /// Adds several replays to the count of one shard: only sums are ever read.
    #[inline]
    pub(crate) fn count_replays(&self, digest: Digest, replays: u64) {
        self.locked(digest).replayed.fetch_add(replays, Ordering::Relaxed);
    }

    pub(crate) fn count_waited(&self, digest: Digest) {
        self.locked(digest).waited.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_loaded(&self, digest: Digest) {
        self.locked(digest).loaded.fetch_add(1, Ordering::Relaxed);
    }

    /// Caches a record that was read from disk, if its key still has that location, and evicts
    /// others for it. A record that does not fit stays only on disk.
    ///
    /// If the cache is over its budget, evicts twice the record's bytes, so that reads never
    /// increase the excess. The cost depends on the record's length, not on the number of keys.
    pub(crate) fn cache(&self, digest: Digest, record: &Record) {
        self.cache_if(digest, record, |slot| match slot {
            Slot::Stored { place, .. } => Some(*place) == record.location(),
            Slot::Vacant | Slot::InFlight(_) | Slot::Ending(_) | Slot::Interrupted(_) | Slot::Cached(..) => {
                false
            }
        });
    }

    /// Caches a record of a store that is not a file of this process, if it still counts when the
    /// shard is locked. Its eviction leaves nothing of it here.
    #[cfg(feature = "postgres")]
    pub(crate) fn cache_elsewhere(&self, record: &Record, counts: impl FnOnce() -> bool) {
        record.set_location(RecordLocation::ELSEWHERE);
        self.cache_if(record.digest(), record, |_| counts());
    }

    fn cache_if(&self, digest: Digest, record: &Record, counts: impl FnOnce(&Slot) -> bool) {
        let bytes = record.footprint();
        if bytes > self.budget {
            return;
        }
        let locked = self.locked(digest);
        let evicted = locked.change(|shard| {
            shard.change(digest, |slot| {
                let change =
                    if counts(slot) { Change::Set(Slot::cached(record.clone())) } else { Change::Keep };
                (change, ())
            });
            shard.evict(self.budget, self.epoch)
        });
        let mut evicted = evicted.unwrap_or(0);
        while evicted < 2 * bytes {
            match locked.change(|shard| shard.evict(self.budget, self.epoch)) {
                None => break,
                Some(more) => evicted += more,
            }
        }
    }

    /// Pins a moving record or tombstone in memory, in place of the record at `from`.
    pub(crate) fn pin_in_memory(&self, from: RecordLocation, moving: &Record) -> Relocation {
        self.change(moving.digest(), |slot| match slot {
            Slot::Stored { place, .. } if *place == from => {
                (Change::Set(Slot::cached(moving.clone())), Relocation::Moved)
            }
            Slot::Cached(record, _) if record.location() == Some(from) => {
                (Change::Set(Slot::cached(moving.clone())), Relocation::Moved)
            }
            Slot::Ending(_) => (Change::Keep, Relocation::Stays),
            // Another record, or another claim: the one at `from` is history, or its time is over.
            Slot::Vacant
            | Slot::InFlight(_)
            | Slot::Interrupted(_)
            | Slot::Cached(..)
            | Slot::Stored { .. } => (Change::Keep, Relocation::History),
        })
    }

    /// Removes a stored record from memory.
    pub(crate) fn drop_cached(&self, record: &Record) {
        let until = SlotTime::new(record.remembered_until(), self.epoch);
        self.change(record.digest(), |slot| match (slot, record.location()) {
            (Slot::Cached(cached, _), Some(place)) if cached.location() == Some(place) => {
                (Change::Set(Slot::Stored { until, place }), ())
            }
            (
                Slot::Vacant
                | Slot::InFlight(_)
                | Slot::Ending(_)
                | Slot::Interrupted(_)
                | Slot::Cached(..)
                | Slot::Stored { .. },
                _,
            ) => (Change::Keep, ()),
        });
    }

    /// Empties the index.
    #[cfg(feature = "postgres")]
    pub(crate) fn clear(&self) {
        for locked in &self.shards {
            // Dropped without the lock.
            drop(locked.change(std::mem::take));
        }
    }

    /// Brings every shard's cached bytes within the budget, as far as records are stored. Called
    /// after records were stored.
    pub(crate) fn evict(&self) {
        for locked in &self.shards {
            let unsettled = locked.read().unsettled();
            let mut left = Some(unsettled).filter(|unsettled| *unsettled > 0);
            while let Some(end) = left {
                left = locked.change(|shard| shard.settle(end, CELLS_PER_STEP));
            }
            while locked.read().cached_bytes() > self.budget
                && locked.change(|shard| shard.evict(self.budget, self.epoch)).is_some()
            {}
        }
    }

    /// Whether enough of a shard has expired for a pass of the sweeper.
    pub(crate) fn is_pass_due(&self, shard: usize, now: Timestamp) -> bool {
        self.shards.get(shard).is_some_and(|locked| locked.read().is_pass_due(now))
    }

    /// Removes expired keys from a few cells of one shard.
    pub(crate) fn sweep(&self, shard: usize, from: usize, now: Timestamp) -> Swept {
        let nothing = Swept { done: true, ..Swept::default() };
        self.shards.get(shard).map_or(nothing, |locked| {
            locked.change(|shard| shard.sweep(from, CELLS_PER_STEP, now, self.epoch))
        })
    }

    /// The shards in so many parts, for the loading threads of an opening.
    pub(crate) fn parts(&mut self, parts: usize) -> Vec<LoadPartition<'_>> {
        let (epoch, mask) = (self.epoch, self.shards.len() - 1);
        let each = self.shards.len().div_ceil(parts);
        let parts = self.shards.chunks_mut(each).enumerate();
        let part =
            |(number, shards)| LoadPartition { shards, first: number * each, mask, epoch, mine: Vec::new() };
        parts.map(part).collect()
    }

    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// A copy of the next slots of one shard, and from where the walk over it goes on; see
    /// [`Table::walk`](table::Table::walk).
    pub(crate) fn snapshot(&self, shard: usize, from: WalkPlace) -> (Vec<(Digest, Slot)>, Option<WalkPlace>) {
        let mut slots = Vec::new();
        let next = self.shards.get(shard).and_then(|locked| {
            locked.walk(from, |_| true, |digest, slot| slots.push((digest, slot.clone())))
        });
        (slots, next)
    }

    /// Calls `each` with the slots of all keys that have no outcome yet. `each` must not block.
    pub(crate) fn for_each_open(&self, mut each: impl FnMut(&Slot)) {
        self.for_each(Shard::open, |slot| {
            if slot.is_open() {
                each(slot);
            }
        });
    }

    /// The attempts whose claims are in flight or ending.
    pub(crate) fn attempts_out(&self) -> Vec<Arc<Attempt>> {
        let mut out = Vec::new();
        self.for_each(Shard::out, |slot| out.extend(slot.attempt_out().cloned()));
        out
    }

    /// The number of keys whose claims are in flight or ending, and are such.
    pub(crate) fn count_out(&self, is_such: impl Fn(&Slot) -> bool) -> usize {
        let mut count = 0;
        self.for_each(Shard::out, |slot| count += usize::from(slot.attempt_out().is_some() && is_such(slot)));
        count
    }

    /// Calls `each` with all slots of the shards in which some `are_wanted`: nearly all shards of a
    /// large index have no claim.
    fn for_each(&self, are_wanted: fn(&Shard) -> usize, mut each: impl FnMut(&Slot)) {
        for locked in &self.shards {
            let mut place = Some(WalkPlace::default());
            while let Some(from) = place {
                place = locked.walk(from, |shard| are_wanted(shard) > 0, |_, slot| each(slot));
            }
        }
    }

    pub(crate) fn hits(&self) -> Hits {
        let kept = Hits { replayed: self.tallies.sum(), ..Hits::default() };
        self.shards.iter().fold(kept, |sum, locked| Hits {
            replayed: sum.replayed + locked.replayed.load(Ordering::Relaxed),
            waited: sum.waited + locked.waited.load(Ordering::Relaxed),
            loaded: sum.loaded + locked.loaded.load(Ordering::Relaxed),
        })
    }

    pub(crate) fn sizes(&self) -> Sizes {
        self.shards.iter().fold(Sizes::default(), |sum, locked| {
            let shard = locked.read();
            Sizes {
                keys: sum.keys + shard.len(),
                interrupted: sum.interrupted + shard.interrupted(),
                cached_bytes: sum.cached_bytes + shard.cached_bytes(),
                table_bytes: sum.table_bytes + shard.table_bytes(),
            }
        })
    }
}

#[cfg(test)]
mod tests;
