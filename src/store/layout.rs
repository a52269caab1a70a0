//! The tables of the store.

use redb::TableDefinition;

pub(super) const BLOCKS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("idemkv.blocks");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("idemkv.meta");
pub(super) const INDEX: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("idemkv.index");
pub(super) const CLAIMS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("idemkv.claims");
pub(super) const FORGOTTEN: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("idemkv.forgotten");
pub(super) const SCOPES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("idemkv.scopes");
