//! Where a record lies in the store, and what becomes of it when its block goes.

/// What becomes of a record whose block is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relocation {
    /// The index has it in memory now, without a place.
    Moved,
    /// The index does not name it any more: the key has another record or claim, or its time is
    /// over.
    History,
    /// Its key is about to change, and may be what it was before. The block has to stay.
    Stays,
}

/// Where a record lies in the store: the number of its block, and its offset there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RecordLocation(pub(super) u64);

impl RecordLocation {
    const OFFSET_BITS: u32 = 16;

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
