//! What several of these modules need.

use std::time::Duration;

use crate::common::{Machine, request};
use idemkv::{BeginError, Engine, Scope, Tombstone};

pub const TOMBSTONE_TTL: Duration = Duration::from_secs(10 * 3_600);

pub fn open(machine: &Machine) -> Engine {
    machine.options().tombstone_ttl(TOMBSTONE_TTL).open("x.idem").unwrap()
}

/// With no room in the cache, so that every lookup goes to the file.
pub fn open_uncached(machine: &Machine) -> Engine {
    machine.options().tombstone_ttl(TOMBSTONE_TTL).cache_bytes(0).open("x.idem").unwrap()
}

#[track_caller]
pub fn expired(scope: &Scope, key: &str) -> Tombstone {
    match scope.begin(key, request()) {
        Err(BeginError::Expired(tombstone)) => tombstone,
        other => panic!("{key} should be expired, is {other:?}"),
    }
}
