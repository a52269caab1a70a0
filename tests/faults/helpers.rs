//! What several of these modules need.

use crate::common::{default_scope, done, fresh, request};
use idemkv::tables::redb::TableDefinition;
use idemkv::{Begin, BeginError, Engine};

/// More than the store's page cache takes.
pub const MANY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("many");

/// More results than memory holds, all on disk; gives how many.
pub fn results_on_disk_alone(engine: &Engine) -> usize {
    // More than the store's page cache takes.
    const COUNT: usize = 400;
    let scope = default_scope(engine);
    for n in 0..COUNT {
        fresh(&scope, &format!("key {n}")).complete(body(n)).unwrap();
        if n % 25 == 24 {
            engine.checkpoint().unwrap();
        }
    }
    COUNT
}

fn body(n: usize) -> Vec<u8> {
    vec![u8::try_from(n % 251).unwrap(); 4_000]
}

#[track_caller]
pub fn all_are_replayed(engine: &Engine, count: usize) {
    let scope = default_scope(engine);
    for n in 0..count {
        assert_eq!(done(&scope, &format!("key {n}")).body(), body(n));
    }
}

/// Begins keys until one is refused.
pub fn claims_until_refused(engine: &Engine) -> (Vec<idemkv::Claim>, BeginError) {
    let mut claims = Vec::new();
    loop {
        match engine.default_scope().begin(format!("filler {}", claims.len()), request()) {
            Ok(Begin::Fresh(claim)) => claims.push(claim),
            Ok(other) => panic!("{other:?}"),
            Err(error) => return (claims, error),
        }
    }
}
