//! The tables of the store, by name: blocks (records and tombstones), claims, forgotten keys,
//! scopes, the meta row.

use redb::TableDefinition;

use super::tally::TalliedTable;

pub(super) const BLOCKS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("idemkv.blocks");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("idemkv.meta");
pub(super) const INDEX: TalliedTable<(u64, u64)> =
    TalliedTable::new("idemkv.index", |tallies| &mut tallies.index);
pub(super) const CLAIMS: TalliedTable<u128> =
    TalliedTable::new("idemkv.claims", |tallies| &mut tallies.claims);
pub(super) const FORGOTTEN: TalliedTable<u128> =
    TalliedTable::new("idemkv.forgotten", |tallies| &mut tallies.forgotten);
pub(super) const SCOPES: TalliedTable<&[u8]> =
    TalliedTable::new("idemkv.scopes", |tallies| &mut tallies.scopes);
