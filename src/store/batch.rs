//! A checkpoint's input and its result.

use std::cell::Cell;

use crate::Timestamp;
use crate::key::Digest;
use crate::record::Record;

/// What one checkpoint writes, all or nothing.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Records to store.
    pub(crate) records: Vec<Record>,
    /// Claims in flight or interrupted, as encoded rows.
    pub(crate) claims: Vec<(Digest, Vec<u8>)>,
    /// Keys whose claim rows, if any, are removed; in any order.
    pub(crate) ended: Vec<Digest>,
    /// Keys whose stored records no longer count, and until when they would have.
    pub(crate) forgotten: Vec<(Digest, Timestamp)>,
    /// Scopes that were given a policy, as encoded rows.
    pub(crate) scopes: Vec<(Box<[u8]>, Vec<u8>)>,
    /// Due blocks are dropped until they have so many bytes, or twice the bytes written if that
    /// is more.
    pub(crate) reclaim_max: u64,
    /// Whether small blocks are merged, if there are enough of them.
    pub(crate) merges: bool,
    /// Whether the store is closed next. Closing it is a commit as well: that one makes this one
    /// durable, or neither is.
    pub(crate) closes: bool,
}

/// How a batch is committed, in one try or some.
pub(super) struct Commit<'a> {
    pub(super) batch: &'a Batch,
    pub(super) now: Timestamp,
    /// The time when a try is over.
    pub(super) clock: &'a dyn Fn() -> Timestamp,
    /// Whether blocks that are due go, and small ones are merged. Not once a block could not be
    /// read: the next might be like it, and no commit needs that.
    pub(super) takes_blocks: Cell<bool>,
    /// An application waits for it, with writes of its own.
    pub(super) has_one_try: bool,
}

impl Batch {
    /// Adds a record that the log does not have, replacing any other change of its key.
    pub(crate) fn complete(&mut self, record: Record) {
        let digest = record.digest();
        self.records.retain(|other| other.digest() != digest);
        self.claims.retain(|(open, _)| *open != digest);
        self.ended.push(digest);
        self.records.push(record);
    }
}

/// What a checkpoint did.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Blocks that were dropped.
    pub(crate) reclaimed: usize,
    /// A block could not be read, so others that are due were left for the next checkpoint.
    pub(crate) leaves_due: bool,
    /// Records that need not stay in memory: written without their bodies, or moved.
    pub(crate) cold: Vec<Record>,
}
