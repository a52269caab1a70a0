//! Many lookups at once, so that their cache misses overlap.
//!
//! A lookup alone waits for two cache misses in a row: the key's cell, then its record. A
//! processor overlaps the misses of independent loads, but hardly across instructions with a lock
//! prefix, as for taking a lock or cloning a record. So all locks are taken first, then all keys
//! are found in one plain loop, then all records are read, and only then are they cloned.
//! `docs/design.md` says how much each step gains.

use std::hint::black_box;

use super::Index;
use super::shard::Shard;
use super::slot::Slot;
use crate::key::Digest;
use crate::record::Record;

/// Keys that are looked up under one set of locks: enough to hide the misses, and few enough that
/// a writer waits for some microseconds at most.
pub(crate) const BATCH_MAX: usize = 64;

/// A key of a batch: the number of its shard above, its position in the batch in the lowest byte.
/// Sorts by shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Asked(usize);

impl Asked {
    fn new(shard: usize, position: usize) -> Self {
        const { assert!(BATCH_MAX <= 1 << 8, "positions fit a byte") };
        Self(shard << 8 | position)
    }

    fn shard(self) -> usize {
        self.0 >> 8
    }

    fn position(self) -> usize {
        self.0 & 0xff
    }
}

impl Index {
    /// Clones of the records in memory that `wanted` accepts; `wanted` also gets the position of
    /// the key. The results are in the order of the digests; a position without a digest has
    /// `None`.
    ///
    /// The read locks of all shards concerned are held at once: see
    /// [`VersionedShard`](super::versioned_shard::VersionedShard). `wanted` must not block.
    ///
    /// # Panics
    ///
    /// If there are more than [`BATCH_MAX`] digests.
    #[expect(clippy::indexing_slicing, reason = "positions are those of digests")]
    pub(crate) fn records(
        &self,
        digests: &[Option<Digest>],
        mut wanted: impl FnMut(usize, &Record) -> bool,
    ) -> Vec<Option<Record>> {
        let asked = self.by_shard(digests);
        let groups = || asked.chunk_by(|a, b| a.shard() == b.shard());
        let mut guards = Vec::with_capacity(asked.len());
        for locked in groups().filter_map(|group| self.shards.get(group.first()?.shard())) {
            guards.push(locked.read());
        }
        let mut looks = Vec::with_capacity(asked.len());
        for (group, shard) in groups().zip(&guards) {
            let shard: &Shard = shard;
            looks.extend(group.iter().map(|asked| (asked.position(), shard)));
        }
        let mut found = [None; BATCH_MAX];
        let found = &mut found[..digests.len()];
        for (position, shard) in looks {
            if let Some(Slot::Cached(record, _)) = digests[position].and_then(|digest| shard.get(digest)) {
                found[position] = Some(record);
            }
        }
        black_box(found.iter().flatten().fold(0, |read, record| read ^ record.warm()));
        let found = found.iter().copied().enumerate();
        found.map(|(position, found)| found.filter(|record| wanted(position, record)).cloned()).collect()
    }

    /// The keys of a batch, shard by shard.
    fn by_shard(&self, digests: &[Option<Digest>]) -> Vec<Asked> {
        let mut asked = Vec::with_capacity(digests.len());
        for (position, digest) in digests.iter().enumerate() {
            if let Some(digest) = digest {
                asked.push(Asked::new(self.shard_of(*digest), position));
            }
        }
        asked.sort_unstable();
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;
    use crate::index::Change;
    use crate::record::{RecordLocation, RecordParts};

    #[test]
    fn every_record_in_memory_is_found_whichever_shard_it_is_in() {
        let index = Index::new(8, 0, Timestamp::default());
        let digest = |key: u64| Digest::from_u128(key.wrapping_mul(0x9e37_79b9_7f4a_7c15).into());
        // Fewer than a batch may have.
        let mut digests = [None; BATCH_MAX - 3];
        for (key, to) in (0..60).zip(&mut digests) {
            *to = Some(digest(key));
            let parts = RecordParts { digest: digest(key), ..RecordParts::example(key) };
            let record = Record::new(&parts, Some(RecordLocation::new(1, 2)));
            if key % 3 > 0 {
                index.change(digest(key), |_| (Change::Set(Slot::cached(record)), ()));
            }
        }
        let shards =
            |at: usize| digests.iter().flatten().filter(|digest| index.shard_of(**digest) == at).count();
        assert!((0..8).all(|at| shards(at) > 0));
        let records = index.records(&digests, |position, record| {
            assert_eq!(Some(record.digest()), digests[position]);
            position % 5 > 0
        });
        for (position, record) in records.iter().enumerate() {
            let is_wanted = position < 60 && position % 3 > 0 && position % 5 > 0;
            assert_eq!(record.as_ref().map(Record::digest), digests[position].filter(|_| is_wanted));
        }
    }
}
