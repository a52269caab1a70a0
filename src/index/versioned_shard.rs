//! A shard with its lock, and the version that every change of it raises.

use std::ops::Deref;

use crossbeam::utils::CachePadded;

use super::shard::{CELLS_PER_STEP, Shard};
use super::slot::Slot;
use super::table::WalkPlace;
use crate::key::Digest;
use crate::record::Record;
use crate::sync::{AtomicU64, Ordering, RwLock};

/// A shard, its lock, and the counts of lookups.
///
/// The holder of a shard's lock takes no other lock. Only a batch of lookups,
/// [`Index::records`](super::Index::records), takes read locks of several shards, in ascending
/// order, each once. So the thread that waits for the highest shard waits for a holder that waits
/// for nothing, and there is no deadlock.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct VersionedShard {
    /// Raised under the lock before each change of the shard. On a line that no lookup writes.
    version: CachePadded<AtomicU64>,
    /// The counts, the lock and the table are on one line: a lookup writes no other.
    pub(super) replayed: AtomicU64,
    pub(super) waited: AtomicU64,
    pub(super) loaded: AtomicU64,
    shard: RwLock<Shard>,
    /// The most keys that a step of a walk visited under the lock.
    #[cfg(test)]
    pub(super) visited_max: crate::sync::AtomicUsize,
}

/// A shard's version, read under its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShardVersion(u64);

impl VersionedShard {
    pub(super) fn read(&self) -> impl Deref<Target = Shard> {
        self.shard.read()
    }

    /// One step of a walk over all keys, if `are_wanted` finds some; returns from where it goes on.
    ///
    /// The lock is held for the step alone. While it is held for reading, lookups wait too as soon
    /// as one thread wants to change the shard.
    pub(super) fn walk(
        &self,
        from: WalkPlace,
        are_wanted: impl FnOnce(&Shard) -> bool,
        mut visit: impl FnMut(Digest, &Slot),
    ) -> Option<WalkPlace> {
        let shard = self.read();
        #[cfg(test)]
        let mut visited = 0;
        let next = are_wanted(&shard).then(|| {
            shard.walk(from, CELLS_PER_STEP, |digest, slot| {
                #[cfg(test)]
                (visited += 1);
                visit(digest, slot);
            })
        });
        #[cfg(test)]
        self.visited_max.fetch_max(visited, Ordering::Relaxed);
        next.flatten()
    }

    /// What the shard holds for a key.
    #[inline]
    pub(super) fn get(&self, digest: Digest) -> Slot {
        self.read().get(digest).cloned().unwrap_or_default()
    }

    /// The cached record of a key.
    #[inline]
    pub(super) fn record(&self, digest: Digest) -> Option<Record> {
        self.read().get(digest).and_then(Slot::record).cloned()
    }

    /// The same, and the version for [`is_unchanged_since`](Self::is_unchanged_since).
    pub(super) fn record_with_version(&self, digest: Digest) -> (Option<Record>, ShardVersion) {
        let shard = self.read();
        // Exact, for it is raised under the lock.
        let version = ShardVersion(self.version.load(Ordering::Relaxed));
        (shard.get(digest).and_then(Slot::record).cloned(), version)
    }

    /// Counts a replay.
    #[inline]
    pub(super) fn count_replay(&self) {
        self.replayed.fetch_add(1, Ordering::Relaxed);
    }

    /// The only way to change a shard that other threads can see.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Shard) -> R) -> R {
        let mut shard = self.shard.write();
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::SeqCst);
        change(&mut shard)
    }

    /// Whether the shard is unchanged since it had this version, so that a lookup under the lock
    /// would find the same now.
    ///
    /// Each change of the shard raises the version first. If a change happens before this call,
    /// so does its raise, and the load cannot return an older version. So this misses no change
    /// that the caller could know of.
    ///
    /// Any memory order would do for that, because the caller has a copy. Raise and load are
    /// `SeqCst` because of pairs of keys. If one thread changes key A and then asks for B, and
    /// another changes B and asks for A, at least one must see the other's change, as with locks.
    /// With weaker orders both loads could come before both stores.
    #[inline]
    pub(super) fn is_unchanged_since(&self, version: ShardVersion) -> bool {
        self.version.load(Ordering::SeqCst) == version.0
    }

    /// The shard of an index that no other thread has yet: its version need not change.
    pub(super) fn get_mut(&mut self) -> &mut Shard {
        self.shard.get_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Index};
    use super::*;
    use crate::Timestamp;
    use crate::record::{Record, RecordLocation, RecordParts, Relocation};

    #[test]
    fn whatever_may_change_a_shard_raises_its_version_and_lookups_do_not() {
        let digest = RecordParts::example(1).digest;
        let record = Record::new(&RecordParts::example(1), Some(RecordLocation::new(3, 4)));
        let index = Index::new(1, 0, Timestamp::default());
        let locked = index.locked(digest);
        let raises = |what: &dyn Fn()| {
            let (_, version) = locked.record_with_version(digest);
            assert!(locked.is_unchanged_since(version));
            what();
            !locked.is_unchanged_since(version)
        };
        assert!(raises(&|| index.change(digest, |_| (Change::Set(Slot::cached(record.clone())), ()))));
        assert!(!raises(&|| drop((
            index.get(digest),
            index.snapshot(0, WalkPlace::default()),
            index.sizes(),
            index.hits()
        ))));
        assert!(raises(&|| assert_eq!(
            index.pin_in_memory(RecordLocation::new(3, 4), &record.without_body()),
            Relocation::Moved
        )));
        assert!(raises(&|| index.drop_cached(&record)));
        assert!(!raises(&|| index.cache(digest, &record)), "there is no room for it");
        assert!(raises(&|| drop(index.sweep(0, 0, Timestamp::default()))));
        index.change(digest, |_| (Change::Set(Slot::cached(record.clone())), ()));
        assert!(raises(&|| index.evict()));
        assert!(!raises(&|| index.evict()), "there is nothing to evict");

        let index = Index::new(1, 1 << 20, Timestamp::default());
        let locked = index.locked(digest);
        let (_, version) = locked.record_with_version(digest);
        index.cache(digest, &record);
        assert!(!locked.is_unchanged_since(version));
    }

    #[test]
    #[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
    fn a_lookup_writes_to_one_cache_line_of_the_shard() {
        let locked = VersionedShard::default();
        let line = |at: *const u8| at.addr() / 64;
        let start = line(std::ptr::from_ref(&locked.replayed).cast());
        let table = locked.read().table_addr();
        assert_eq!(line(table), start);
        assert_eq!(line(table.wrapping_add(size_of::<super::super::table::Table>() - 1)), start);
        assert_eq!(line(std::ptr::from_ref(&locked.shard).cast()), start);
        assert_ne!(line(std::ptr::from_ref(&locked.version).cast()), start);
    }
}
