//! `ThreadCache`: a thread's own copy of the record that it replays again and again.
//!
//! A lookup under the shard's lock writes three times to lines that all threads write: the lock,
//! the count of replays, and the count of references in front of the record. With one key and two
//! threads these lines move between the processors, and two threads do less than one. So a thread
//! that asks for the same key twice in a row keeps a copy, with the shard's version at that
//! moment. While the shard has that version, the copy is the answer that a lookup under the lock
//! would give; `VersionedShard` says why. Such a lookup writes only its own thread's memory.
//!
//! The copy may not learn its location on disk. Nothing reads the location of a record that was
//! handed to a caller. The copy does not keep the engine open; it names its index by a number,
//! because addresses are reused. The copy and its original stay in memory until the thread keeps
//! another one, or ends.

use std::cell::{Cell, RefCell};

use super::Index;
use super::local_counter::LocalCounter;
use super::versioned_shard::ShardVersion;
use crate::key::Digest;
use crate::record::Record;
use crate::sync::thread_local;

/// Larger records are not kept, because every thread may keep one.
const KEPT_BYTES_MAX: usize = 4_096;

thread_local! {
    /// The first half of the digest that was last replayed. It only shows when a look at `HOT` may pay;
    /// `HOT` decides.
    static LAST: Cell<u64> = const { Cell::new(0) };
    static HOT: RefCell<ThreadCache> = const { RefCell::new(ThreadCache::new()) };
}

/// The record that a thread keeps.
#[derive(Debug)]
pub(crate) struct ThreadCache(Option<CachedReplay>);

#[derive(Debug)]
struct CachedReplay {
    /// The number of its index.
    index: u64,
    digest: Digest,
    /// The shard's version when the record was found there.
    version: ShardVersion,
    /// Shares no memory with the record in the index, so that only this thread counts references
    /// to it.
    copy: Record,
    /// The record in the index, whose touch mark the eviction hand reads.
    original: Record,
    tally: LocalCounter,
}

impl Index {
    /// The record in memory that `answers` accepts, if the key has one. It is touched and counted.
    ///
    /// `answers` must not come back here.
    #[inline]
    pub(crate) fn replay(&self, digest: Digest, answers: impl Fn(&Record) -> bool) -> Option<Record> {
        // Threads that are about to end may have neither any more; they go by the lock.
        if LAST.try_with(|last| last.get() == digest.first_half()).unwrap_or(false) {
            return self.replay_again(digest, &answers);
        }
        self.replay_by_lock(digest, answers)
    }

    /// [`replay`](Self::replay) of the key that this thread replayed last.
    #[inline(never)]
    fn replay_again(&self, digest: Digest, answers: &impl Fn(&Record) -> bool) -> Option<Record> {
        let by_copy =
            |hot: &RefCell<ThreadCache>| Some(hot.try_borrow_mut().ok()?.replay(self, digest, answers));
        let found = HOT.try_with(by_copy).ok().flatten();
        found.unwrap_or_else(|| self.replay_by_lock(digest, answers))
    }

    /// [`replay`](Self::replay) of the record in the shard.
    #[inline]
    fn replay_by_lock(&self, digest: Digest, answers: impl Fn(&Record) -> bool) -> Option<Record> {
        let locked = self.locked(digest);
        let record = locked.record(digest).filter(answers)?;
        record.touch();
        locked.count_replay();
        LAST.try_with(|last| last.set(digest.first_half())).ok();
        Some(record)
    }
}

impl ThreadCache {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// [`Index::replay`] of the key that was replayed last.
    pub(crate) fn replay(
        &mut self,
        index: &Index,
        digest: Digest,
        answers: impl Fn(&Record) -> bool,
    ) -> Option<Record> {
        let locked = index.locked(digest);
        if let Some(kept) = &mut self.0
            && kept.digest == digest
            && kept.index == index.number
            && locked.is_unchanged_since(kept.version)
        {
            return kept.replay(answers);
        }
        let (record, version) = locked.record_with_version(digest);
        let record = record?;
        match &mut self.0 {
            // Something else in the shard has changed.
            Some(kept) if kept.original.is_same(&record) => {
                kept.version = version;
                kept.replay(answers)
            }
            _ if record.is_durable() && record.footprint() <= KEPT_BYTES_MAX => {
                self.keep(index, digest, version, record).replay(answers)
            }
            _ if answers(&record) => {
                record.touch();
                locked.count_replay();
                Some(record)
            }
            _ => None,
        }
    }

    fn keep(
        &mut self,
        index: &Index,
        digest: Digest,
        version: ShardVersion,
        original: Record,
    ) -> &mut CachedReplay {
        let tally = match self.0.take() {
            Some(kept) if kept.index == index.number => kept.tally,
            Some(_) | None => index.tallies.take(),
        };
        let copy = original.to_copy();
        self.0.insert(CachedReplay { index: index.number, digest, version, copy, original, tally })
    }
}

impl CachedReplay {
    #[inline]
    fn replay(&mut self, answers: impl Fn(&Record) -> bool) -> Option<Record> {
        if !answers(&self.copy) {
            return None;
        }
        self.original.touch();
        self.tally.count();
        Some(self.copy.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Slot};
    use super::*;
    use crate::Timestamp;
    use crate::record::{RecordLocation, RecordParts};

    fn digest() -> Digest {
        RecordParts::example(1).digest
    }

    fn index_of(record: &Record) -> Index {
        let index = Index::new(1, 0, Timestamp::default());
        index.change(digest(), |_| (Change::Set(Slot::cached(record.clone())), ()));
        index
    }

    fn durable() -> Record {
        Record::new(&RecordParts::example(1), Some(RecordLocation::new(3, 4)))
    }

    #[test]
    fn a_replay_of_the_copy_tells_the_eviction_hand_that_the_record_is_wanted() {
        let record = durable();
        let index = index_of(&record);
        for _ in 0..4 {
            record.take_touch();
            assert!(index.replay(digest(), |_| true).is_some());
            assert!(record.take_touch());
            assert!(index.replay(digest(), |_| false).is_none());
            assert!(!record.take_touch(), "it was not replayed");
        }
        assert_eq!(index.hits().replayed, 4);
    }

    #[test]
    fn a_record_that_could_be_lost_is_not_kept() {
        let record = Record::new(&RecordParts::example(1), None);
        let index = index_of(&record);
        for _ in 0..4 {
            assert!(index.replay(digest(), |_| true).unwrap().is_same(&record));
        }
    }

    #[test]
    fn replays_are_counted_by_the_index_that_had_them() {
        let (one, other) = (index_of(&durable()), index_of(&durable()));
        for _ in 0..3 {
            (0..4).for_each(|_| assert!(one.replay(digest(), |_| true).is_some()));
            (0..5).for_each(|_| assert!(other.replay(digest(), |_| true).is_some()));
        }
        assert_eq!((one.hits().replayed, other.hits().replayed), (12, 15));
    }

    /// Two engines of one seed, say.
    #[test]
    fn the_same_digest_in_another_index_is_another_key() {
        let index = index_of(&durable());
        for _ in 0..3 {
            assert!(index.replay(digest(), |_| true).is_some());
        }
        let version = index.locked(digest()).record_with_version(digest()).1;
        drop(index);
        let vacant = Index::new(1, 0, Timestamp::default());
        vacant.change(digest(), |_| (Change::Keep, ()));
        // Only the number of the index tells the two apart.
        assert_eq!(vacant.locked(digest()).record_with_version(digest()).1, version);
        assert!(vacant.replay(digest(), |_| true).is_none());
    }
}
