//! What a checkpoint writes, and what it did.

use crate::Timestamp;
use crate::key::Digest;
use crate::record::Record;

/// What one checkpoint writes, all or nothing.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Records to store.
    pub(crate) records: Vec<Record>,
    /// Claims that are out, or interrupted, as encoded intent rows.
    pub(crate) claims: Vec<(Digest, Vec<u8>)>,
    /// Keys whose claim rows, if any, are over.
    pub(crate) ended: Vec<Digest>,
    /// Keys whose stored records don't count any more, and until when they would have.
    pub(crate) forgotten: Vec<(Digest, Timestamp)>,
    /// Scopes that were given a policy, as encoded rows.
    pub(crate) scopes: Vec<(Box<[u8]>, Vec<u8>)>,
    /// Blocks that are due are dropped until they have so many bytes, or twice what is written
    /// where that is more.
    pub(crate) reclaim_max: u64,
    /// Small blocks are merged, where there are enough of them.
    pub(crate) merges: bool,
}

impl Batch {
    /// Adds a record that no log knows of, in place of anything else that was to be written of its
    /// key.
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
    /// Records that nobody needs in memory any more: written without their bodies, or moved.
    pub(crate) cold: Vec<Record>,
}
