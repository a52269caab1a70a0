//! Many lookups at once, so that they wait for memory together.
//!
//! A lookup alone waits for two cache misses in a row: the key's cell, then its record. A processor overlaps the misses of
//! loads that don't depend on each other, but not beyond an instruction with a lock prefix, and both taking a lock and
//! cloning a record are such. So all locks are taken first, then all cells are read, then all records, and only then are
//! records cloned. The two passes that only read take no branch on what they read, so nothing in them waits for it.

use std::hint::black_box;

use super::Index;
use super::slot::Slot;
use crate::key::Digest;
use crate::record::Record;

/// Keys that are looked up under one set of locks: enough to hide the misses, and few enough that a writer waits for some
/// microseconds at most.
pub(crate) const BATCH_MAX: usize = 64;

/// A key of a batch.
struct Asked {
    shard: usize,
    position: usize,
    digest: Digest,
}

impl Index {
    /// Clones of those records in memory that `wanted` accepts; it is also given the position of the key. They are in the
    /// order of the digests; a position without a digest has none.
    ///
    /// The read locks of all shards concerned are held at once: see [`Locked`](super::Locked). `wanted` must not block.
    pub(crate) fn records(
        &self,
        digests: &[Option<Digest>; BATCH_MAX],
        mut wanted: impl FnMut(usize, &Record) -> bool,
    ) -> [Option<Record>; BATCH_MAX] {
        let asked = self.by_shard(digests);
        let groups = || asked.chunk_by(|a, b| a.shard == b.shard);
        let guards: Vec<_> = groups()
            .filter_map(|group| group.first())
            .map(|asked| self.locked(asked.digest).shard.read())
            .collect();
        let mut read = 0;
        let mut looks = Vec::with_capacity(asked.len());
        for (group, shard) in groups().zip(&guards) {
            for asked in group {
                read ^= shard.warm(asked.digest);
                looks.push((asked, shard));
            }
        }
        black_box(read);
        let mut records = Vec::with_capacity(asked.len());
        for (asked, shard) in looks {
            if let Some(Slot::Cached(record)) = shard.get(asked.digest) {
                records.push((asked.position, record));
            }
        }
        black_box(records.iter().fold(0, |read, (_, record)| read ^ record.warm()));
        let mut found = [const { None }; BATCH_MAX];
        for (position, record) in records {
            if wanted(position, record)
                && let Some(found) = found.get_mut(position)
            {
                *found = Some(record.clone());
            }
        }
        found
    }

    /// The keys of a batch, shard by shard.
    fn by_shard(&self, digests: &[Option<Digest>; BATCH_MAX]) -> Vec<Asked> {
        let mut asked = Vec::with_capacity(BATCH_MAX);
        for (position, digest) in digests.iter().enumerate() {
            if let Some(digest) = *digest {
                asked.push(Asked { shard: self.shard_of(digest), position, digest });
            }
        }
        asked.sort_unstable_by_key(|asked| asked.shard);
        asked
    }
}
