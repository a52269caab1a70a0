//! The expired rows of the store that the next checkpoint can drop.

use super::directory::BlockInfo;
use crate::key::Digest;

/// The rows that one transaction can drop.
pub(super) struct Due {
    pub(super) blocks: Vec<(u64, BlockInfo)>,
    pub(super) forgotten: Vec<Digest>,
}

impl Due {
    /// Records in the blocks.
    pub(super) fn keys(&self) -> u64 {
        self.blocks.iter().map(|(_, block)| u64::from(block.entries)).sum()
    }
}
