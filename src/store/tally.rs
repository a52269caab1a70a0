//! Tallies: sums over a table's rows, kept in the meta row, so that an opening notices a missing
//! or an old row.
//!
//! A row's checksum can't show that a row is missing, or that an old row took its place. redb's
//! page checksums would, but an opening verifies them only in short files.

use bincode::{BorrowDecode, Encode};
use redb::{Key, ReadOnlyTable, ReadTransaction, Table, TableDefinition, WriteTransaction};

use super::backend_error::BackendError;
use crate::codec::CHECKSUM_BYTES;

/// Bytes that redb stores for a row besides its value: a digest, and where the row ends.
const KEY_BYTES: u64 = 20;

/// The tally of a table whose rows begin with their checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
pub(crate) struct Tally {
    /// How many there are.
    pub(crate) rows: u64,
    /// Their bytes, without keys.
    pub(crate) bytes: u64,
    /// The sum of their checksums, modulo 2^64: an old row in place of a newer one changes it.
    checksums: u64,
}

impl Tally {
    /// Bytes of the pages that the rows take, roughly: pages are two thirds full of keys that come
    /// in no order.
    pub(super) fn file_bytes(&self) -> u64 {
        let rows = self.bytes.saturating_add(self.rows.saturating_mul(KEY_BYTES));
        rows.saturating_add(rows / 2)
    }

    /// Counts a row. Sums wrap: in a damaged file they may be anything.
    pub(super) fn add(&mut self, row: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(row.len() as u64);
        self.checksums = self.checksums.wrapping_add(checksum(row));
    }

    /// Counts a row no longer.
    fn leave_out(&mut self, row: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(row.len() as u64);
        self.checksums = self.checksums.wrapping_sub(checksum(row));
    }
}

/// The reader of a row refuses one that is too short for a checksum.
fn checksum(row: &[u8]) -> u64 {
    row.first_chunk::<CHECKSUM_BYTES>().map_or(0, |checksum| u64::from_le_bytes(*checksum))
}

/// The tallies of all tables of the engine, except `meta`, which has one row, and `blocks`:
/// `index` lists each block, so a read finds that one is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
pub(crate) struct Tallies {
    pub(crate) index: Tally,
    pub(crate) claims: Tally,
    pub(crate) forgotten: Tally,
    pub(crate) scopes: Tally,
}

/// A table with a tally. All writes to it go through the tally.
pub(super) struct TalliedTable<K: Key + 'static> {
    pub(super) definition: TableDefinition<'static, K, &'static [u8]>,
    tally: fn(&mut Tallies) -> &mut Tally,
}

impl<K: Key + 'static> TalliedTable<K> {
    pub(super) const fn new(name: &'static str, tally: fn(&mut Tallies) -> &mut Tally) -> Self {
        Self { definition: TableDefinition::new(name), tally }
    }

    pub(super) fn name(&self) -> &str {
        redb::TableHandle::name(&self.definition)
    }

    pub(super) fn read(
        &self,
        transaction: &ReadTransaction,
    ) -> Result<ReadOnlyTable<K, &'static [u8]>, BackendError> {
        Ok(transaction.open_table(self.definition)?)
    }

    pub(super) fn write<'t>(
        &self,
        transaction: &'t WriteTransaction,
        tallies: &'t mut Tallies,
    ) -> Result<Rows<'t, K>, BackendError> {
        Ok(Rows { table: transaction.open_table(self.definition)?, tally: (self.tally)(tallies) })
    }
}

/// The rows of a table that is written to.
pub(super) struct Rows<'t, K: Key + 'static> {
    table: Table<'t, K, &'static [u8]>,
    tally: &'t mut Tally,
}

impl<K: Key + 'static> Rows<'_, K> {
    pub(super) fn is_empty(&self) -> bool {
        self.tally.rows == 0
    }

    pub(super) fn insert(&mut self, key: K::SelfType<'_>, row: &[u8]) -> Result<(), BackendError> {
        if let Some(before) = self.table.insert(key, row)? {
            self.tally.leave_out(before.value());
        }
        self.tally.add(row);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: K::SelfType<'_>) -> Result<(), BackendError> {
        if let Some(before) = self.table.remove(key)? {
            self.tally.leave_out(before.value());
        }
        Ok(())
    }
}
