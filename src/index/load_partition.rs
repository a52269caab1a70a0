//! A part of the shards, for one loading thread during an opening: no locks are needed.

use std::hint::black_box;

use crossbeam::utils::CachePadded;

use super::slot::SlotTime;
use super::{Change, Slot, VersionedShard};
use crate::Timestamp;
use crate::key::Digest;
use crate::record::RecordLocation;

#[derive(Debug)]
pub(crate) struct LoadPartition<'i> {
    pub(super) shards: &'i mut [CachePadded<VersionedShard>],
    /// The number of the first of them.
    pub(super) first: usize,
    /// Maps a digest to its shard.
    pub(super) mask: usize,
    pub(super) epoch: Timestamp,
    /// The records that are being loaded, with the numbers of their shards within this part.
    pub(super) mine: Vec<(usize, Digest, Timestamp, RecordLocation)>,
}

impl LoadPartition<'_> {
    /// Makes room for this part's share of so many keys.
    pub(crate) fn reserve(&mut self, keys: usize) {
        // Digests spread evenly; a little more than the share spares most shards a second growth.
        let share = keys / (self.mask + 1);
        for locked in &mut *self.shards {
            locked.get_mut().reserve(share + share / 16);
        }
    }

    /// Sets slots of stored records: digest, until when each is remembered, location. Records of
    /// other parts are skipped. Blocks come in the order in which they are due.
    pub(crate) fn load(&mut self, records: impl Iterator<Item = (Digest, Timestamp, RecordLocation)>) {
        self.mine.clear();
        for (digest, until, place) in records {
            let shard = super::shard_of(digest, self.mask).wrapping_sub(self.first);
            // No processor can guess whose a record is, so nothing branches on it.
            let kept = self.mine.len() + usize::from(shard < self.shards.len());
            self.mine.push((shard, digest, until, place));
            self.mine.truncate(kept);
        }
        // All cells are read before the first one is written, so that the processor waits for them
        // together.
        let mut read = 0;
        for (shard, digest, ..) in &self.mine {
            read ^= self.shards.get_mut(*shard).map_or(0, |locked| locked.get_mut().warm(*digest));
        }
        black_box(read);
        for (shard, digest, until, place) in self.mine.iter().copied() {
            let Some(locked) = self.shards.get_mut(shard) else { continue };
            let stored = Slot::Stored { until: SlotTime::new(until, self.epoch), place };
            locked.get_mut().change(digest, |slot| match slot {
                // The later block has the later word.
                Slot::Stored { place: other, .. } if other.block() > place.block() => (Change::Keep, ()),
                Slot::Vacant
                | Slot::InFlight(_)
                | Slot::Ending(_)
                | Slot::Interrupted(_)
                | Slot::Cached(..)
                | Slot::Stored { .. } => (Change::Set(stored), ()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Index;
    use super::*;

    const KEYS: usize = 4_000;

    fn record(key: u64, block: u64) -> (Digest, Timestamp, RecordLocation) {
        // Homes and shards are spread as those of digests are.
        let digest = Digest::from_u128(key.wrapping_mul(0x9e37_79b9_7f4a_7c15).into());
        (digest, Timestamp::from_millis(9_000), RecordLocation::new(block, 0))
    }

    #[test]
    fn of_two_records_of_a_key_the_one_in_the_later_block_counts_whichever_is_read_first() {
        for blocks in [[3, 7], [7, 3]] {
            let mut index = Index::new(1, 0, Timestamp::default());
            index
                .parts(1)
                .iter_mut()
                .for_each(|part| part.load(blocks.iter().map(|block| record(1, *block))));
            let slot = index.get(record(1, 0).0);
            assert!(matches!(slot, Slot::Stored { place, .. } if place.block() == 7), "{slot:?}");
        }
    }

    #[test]
    fn every_record_is_loaded_by_one_part_however_many_there_are() {
        for parts in [1, 2, 3, 8, 20] {
            let mut index = Index::new(8, 0, Timestamp::default());
            for mut part in index.parts(parts) {
                part.reserve(KEYS);
            }
            let room = index.sizes().table_bytes;
            let share = KEYS / 8;
            let cells = (share + share / 16) * 32 / 25 + 1;
            assert_eq!(room, 8 * 32 * cells, "each shard has room for its share and a sixteenth more");
            for mut part in index.parts(parts) {
                part.load((0..KEYS as u64).map(|key| record(key, key)));
            }
            assert_eq!(index.sizes().keys, KEYS, "{parts} parts");
            assert_eq!(index.sizes().table_bytes, room, "there was room for all");
            for key in 0..KEYS as u64 {
                let slot = index.get(record(key, 0).0);
                assert!(matches!(slot, Slot::Stored { place, .. } if place.block() == key), "{slot:?}");
            }
        }
    }
}
