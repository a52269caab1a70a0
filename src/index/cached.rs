//! The cached records of a shard, in two lists: those that may be evicted, and those not stored.
//!
//! A slot with a cached record has its position in a list, and each position names its slot's key.
//! So a record joins and leaves in constant time, with any number of keys. Records that no
//! checkpoint has stored yet have their own list: they can't be evicted, and there may be many
//! times more of them than the cache holds.

/// The place of a cached record in one of the two lists; in a slot that is not in a shard, it has
/// no meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CachePosition(u32);

/// Set if the record is not stored yet.
const UNSTORED: u32 = 1 << 31;
/// Lists give memory back above this many free positions.
const SPARE_MAX: usize = 1_024;

impl CachePosition {
    #[expect(clippy::cast_possible_truncation, reason = "a shard has fewer than 2^31 records in memory")]
    pub(super) fn stored(at: usize) -> Self {
        Self(at as u32)
    }

    pub(super) fn unstored(at: usize) -> Self {
        Self(Self::stored(at).0 | UNSTORED)
    }

    fn at(self) -> usize {
        (self.0 & !UNSTORED) as usize
    }

    fn is_stored(self) -> bool {
        self.0 & UNSTORED == 0
    }
}

/// A key whose record was given another position.
#[must_use = "its slot must be told"]
pub(super) struct Moved {
    /// The first half of the key's digest, which gives its home in the table.
    pub(super) half: u64,
    pub(super) from: CachePosition,
    pub(super) to: CachePosition,
}

/// The cached records of a shard, by the first halves of digests.
#[derive(Debug, Default)]
pub(super) struct CachedRecords {
    stored: Vec<u64>,
    unstored: Vec<u64>,
}

impl CachedRecords {
    #[inline]
    pub(super) fn add(&mut self, half: u64, is_stored: bool) -> CachePosition {
        let list = if is_stored { &mut self.stored } else { &mut self.unstored };
        list.push(half);
        let at = list.len() - 1;
        if is_stored { CachePosition::stored(at) } else { CachePosition::unstored(at) }
    }

    /// Frees a position. The last one of its list moves there.
    pub(super) fn remove(&mut self, position: CachePosition) -> Option<Moved> {
        let is_stored = position.is_stored();
        let list = if is_stored { &mut self.stored } else { &mut self.unstored };
        list.swap_remove(position.at());
        let half = *list.get(position.at())?;
        let from =
            if is_stored { CachePosition::stored(list.len()) } else { CachePosition::unstored(list.len()) };
        Some(Moved { half, from, to: position })
    }

    pub(super) fn get_stored(&self, at: usize) -> Option<u64> {
        self.stored.get(at).copied()
    }

    pub(super) fn get_unstored(&self, at: usize) -> Option<u64> {
        self.unstored.get(at).copied()
    }

    pub(super) fn stored(&self) -> usize {
        self.stored.len()
    }

    pub(super) fn unstored(&self) -> usize {
        self.unstored.len()
    }

    /// Gives memory back that few records need.
    pub(super) fn shrink(&mut self) {
        for list in [&mut self.stored, &mut self.unstored] {
            if list.capacity() > 4 * list.len() + SPARE_MAX {
                list.shrink_to(2 * list.len());
            }
        }
    }

    /// Bytes of memory that the lists take.
    pub(super) fn bytes(&self) -> usize {
        (self.stored.capacity() + self.unstored.capacity()) * size_of::<u64>()
    }

    #[cfg(test)]
    pub(super) fn is_of(&self, position: CachePosition, half: u64) -> bool {
        let list = if position.is_stored() { &self.stored } else { &self.unstored };
        list.get(position.at()) == Some(&half)
    }
}
