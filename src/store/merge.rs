//! Merging: small blocks that are due at about the same time become one.
//!
//! A commit of few records writes a small block: `complete_in` writes one with a single record,
//! and a quiet service writes one every ten minutes. Each block costs memory in the directory,
//! and two rows that an opening has to read. So a commit also rewrites the records of some small
//! blocks, together with its own.
//!
//! Records move as tombstones do (`relocate.rs`): the index has each in memory before its block
//! leaves the directory, so a reader that finds the block gone asks the index again. A record
//! that the index no longer names is left out: it was forgotten, or its key ran again. In a new
//! block, with a higher number, it would take precedence over its successor, and no row would
//! hide it.

use super::batch::Commit;
use super::directory::BlockInfo;
use super::opened::Opened;
use super::relocate::{MovingRecord, Relocated};
use super::{Store, StoreError, block};
use crate::Timestamp;
use crate::record::{Record, RecordLocation, Relocation};

/// The blocks to drop, and their records that move.
#[derive(Debug, Default)]
pub(super) struct Merged {
    blocks: Vec<(u64, BlockInfo)>,
    carried: Relocated,
}

impl Merged {
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, BlockInfo)> {
        self.blocks.iter().copied()
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.carried.records()
    }

    /// The blocks stay after all.
    pub(super) fn put_back(&self) {
        self.carried.put_back();
    }
}

/// A block that may be dropped.
struct Small {
    number: u64,
    info: BlockInfo,
    moving: Vec<MovingRecord>,
}

impl Store {
    /// Takes the records of small blocks that can be merged, if there are enough of them and the
    /// batch asks for it.
    pub(super) fn merge(
        &self,
        database: &Opened,
        it: &Commit<'_>,
        pin: &impl Fn(RecordLocation, &Record) -> Relocation,
    ) -> Result<Merged, StoreError> {
        let wanted = it.batch.merges && it.takes_blocks.get();
        let small = if wanted { self.read_small(database, it)? } else { Vec::new() };
        let mut merged = Merged::default();
        if !self.is_worth_it(&small, it.now) {
            return Ok(merged);
        }
        for Small { number, info, moving } in small {
            let mut pinned = Relocated::default();
            let mut stays = false;
            for it in moving {
                match pin(it.from, &it.record) {
                    Relocation::Moved => pinned.0.push(it),
                    Relocation::History => {}
                    Relocation::Stays => stays = true,
                }
            }
            if stays {
                pinned.put_back();
            } else {
                merged.carried.0.extend(pinned.0);
                merged.blocks.push((number, info));
            }
        }
        Ok(merged)
    }

    fn read_small(&self, database: &Opened, it: &Commit<'_>) -> Result<Vec<Small>, StoreError> {
        let now = it.now;
        let mut candidates = self.directory.write().mergeable(now);
        self.leave_to_checkpoints(&mut candidates, it);
        let mut small = Vec::with_capacity(candidates.len());
        for (number, info) in candidates {
            let is_remembered = |_, until| until > now;
            let read = self.remembered(database, number, info, is_remembered, Record::to_be_moved);
            match read.map_err(|trouble| self.block_failed(database, number, it, trouble))? {
                Ok(moving) => small.push(Small { number, info, moving }),
                // Its keys are answered with the damage for as long as they would have been
                // remembered.
                Err(_damaged) => self.keep(number, info.remembered_until),
            }
        }
        Ok(small)
    }

    /// Whether half as many blocks can hold these records. Otherwise they would be merged again
    /// and again.
    fn is_worth_it(&self, small: &[Small], now: Timestamp) -> bool {
        let records = small.iter().flat_map(|block| &block.moving).map(|it| it.record.clone()).collect();
        2 * block::pack(records, now, 0, &self.checksummer).len() < small.len()
    }
}
