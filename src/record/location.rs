//! Where a record lies in the store, and whether it moves when its block is dropped.

/// Whether a record of a block that is to be dropped moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relocation {
    /// It moves: the index has it in memory now, without a location.
    Moved,
    /// It does not move: the index no longer names it, because the key has another record or
    /// claim, or is no longer remembered.
    History,
    /// Its key is about to change, and the change may be undone. The block has to stay.
    Stays,
}

/// Where a record lies in the store: the number of its block, and its offset there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RecordLocation(pub(super) u64);

impl RecordLocation {
    const OFFSET_BITS: u32 = 16;

    /// The record lies in a store that is not a file of this process.
    pub(crate) const ELSEWHERE: Self = Self(u64::MAX - 1);

    /// Offsets in a block lie below this; only a block's first entry may be larger than that.
    pub(crate) const OFFSET_LIMIT: usize = 1 << Self::OFFSET_BITS;

    /// Blocks are numbered below this.
    pub(crate) const BLOCK_LIMIT: u64 = 1 << (64 - Self::OFFSET_BITS);

    pub(crate) fn new(block: u64, offset: u16) -> Self {
        Self(block << Self::OFFSET_BITS | u64::from(offset))
    }

    pub(crate) fn block(self) -> u64 {
        self.0 >> Self::OFFSET_BITS
    }

    #[expect(clippy::cast_possible_truncation, reason = "the mask leaves 16 bits")]
    pub(crate) fn offset(self) -> usize {
        usize::from((self.0 & (Self::OFFSET_LIMIT as u64 - 1)) as u16)
    }
}
