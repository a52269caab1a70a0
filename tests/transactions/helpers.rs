//! What several of these modules need.

use crate::common::{Machine, default_scope, fresh};
use idemkv::Engine;
use idemkv::tables::redb::{ReadableTable, TableDefinition};
use idemkv::tables::{TableError, Tables};

pub type Anything = Box<dyn std::error::Error>;

pub const EFFECTS: TableDefinition<'_, &str, u64> = TableDefinition::new("effects");
pub const BULK: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bulk");

/// Counts one more effect of the operation with this key.
pub fn effect(tables: &Tables<'_>, key: &str) -> Result<String, Anything> {
    let mut effects = tables.open_table(EFFECTS)?;
    let count = effects.get(key)?.map_or(0, |count| count.value()) + 1;
    effects.insert(key, count)?;
    Ok(format!("effect {count}"))
}

pub fn effects(engine: &Engine, key: &str) -> u64 {
    engine
        .read_tables(|tables| match tables.open_table(EFFECTS) {
            Ok(effects) => effects.get(key).unwrap().map_or(0, |count| count.value()),
            Err(TableError::Redb(_)) => 0,
            Err(other) => panic!("{other}"),
        })
        .unwrap()
}

pub const ROWS: u64 = 200;

/// More rows of the application's own than memory holds.
pub fn with_bulk(machine: &Machine) -> Engine {
    let open = || machine.options().cache_bytes(8 << 10).open("x.idem").unwrap();
    let engine = open();
    let bulk = fresh(&default_scope(&engine), "bulk").complete_in(|tables| {
        let mut bulk = tables.open_table(BULK)?;
        (0..ROWS).try_for_each(|n| bulk.insert(n, &[7; 16 << 10][..]).map(drop))?;
        Ok::<_, Anything>("")
    });
    bulk.unwrap();
    engine.close().unwrap();
    open()
}
