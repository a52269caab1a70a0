//! What all worlds have in common: options, scopes and their keys.

use std::time::Duration;

use idemkv::sim::{ManualClock, SimDisk};
use idemkv::tables::redb::TableDefinition;
use idemkv::{Durability, Engine, Fingerprint, Options, Policy, Recovery, Scope};

pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const TTL: Duration = Duration::from_secs(1_800);
pub(crate) const TOMBSTONE_TTL: Duration = Duration::from_secs(3 * 1_800);
/// How long interrupted keys are remembered: not as long as a record, and longer.
pub(crate) const UNRESOLVED: Duration = Duration::from_secs(1_500);
const UNRESOLVED_LONG: Duration = Duration::from_secs(4_000);
pub(crate) const LEASE: Duration = Duration::from_secs(300);
pub(crate) const RELAXED: Duration = Duration::from_millis(100);
pub(crate) const CLOCK_JUMP_MAX: Duration = Duration::from_secs(3_600);
pub(crate) const EFFECTS: TableDefinition<'_, u64, u64> = TableDefinition::new("effects");

pub(crate) const KEYS: u64 = 9;
/// Scopes with policies of their own.
pub(crate) const SCOPES: [&str; 5] = ["rerun", "leased", "refusing", "quick", "relaxed"];
/// Keys of the default scope.
pub(crate) const DEFAULT_KEYS: [u64; 3] = [0, 2, 8];

pub(crate) fn options(disk: &SimDisk, clock: &ManualClock) -> Options {
    Engine::options()
        .disk(disk)
        .clock(clock)
        .stepped()
        .seed(7)
        .policy(Policy::default().ttl(TTL).tombstone_ttl(TOMBSTONE_TTL).unresolved_ttl(UNRESOLVED))
        .max_clock_jump(CLOCK_JUMP_MAX)
        .queue_timeout(Duration::ZERO)
        .max_body_bytes(4_096)
        .reserve_bytes(4_096)
        .batch_bytes(4_096)
        .log_segment_bytes(64 << 10)
        .log_bytes(256 << 10)
        .shards(2)
        .cache_bytes(8 << 10)
}

pub(crate) fn scope_of(key: u64) -> &'static str {
    match key {
        0 | 2 | 8 => "",
        1 => "rerun",
        3..5 => "leased",
        5 => "refusing",
        6 => "quick",
        _ => "relaxed",
    }
}

pub(crate) fn is_leased(key: u64) -> bool {
    scope_of(key) == "leased"
}

/// Whether a begin of an interrupted key is refused.
pub(crate) fn refuses(key: u64) -> bool {
    matches!(scope_of(key), "" | "refusing")
}

/// How long an interrupted key is remembered; `None` until somebody says what became of it.
pub(crate) fn unresolved(key: u64) -> Option<Duration> {
    match scope_of(key) {
        "refusing" => None,
        "leased" => Some(UNRESOLVED_LONG),
        _ => Some(UNRESOLVED),
    }
}

/// Whether a claim need not survive a crash.
pub(crate) fn forgets_claims(key: u64) -> bool {
    matches!(scope_of(key), "quick" | "relaxed")
}

/// The policy of a scope; its limit of claims says how often it was declared.
pub(crate) fn policy_of(engine: &Engine, scope: &str, declared: u32) -> Policy {
    let policy = engine.policy().max_in_flight(100 + declared);
    let rerun = policy.recovery(Recovery::Rerun);
    match scope {
        "rerun" => rerun,
        "leased" => rerun.lease(LEASE).unresolved_ttl(UNRESOLVED_LONG),
        "refusing" => policy.unresolved_forever(),
        "quick" => rerun.durability(Durability::Completions),
        _ => rerun.durability(Durability::Relaxed(RELAXED)),
    }
}

pub(crate) fn scope(engine: &Engine, key: u64) -> Scope {
    engine.scope(scope_of(key))
}

pub(crate) fn name(key: u64) -> String {
    format!("key {key}")
}

pub(crate) fn fingerprint(key: u64) -> Fingerprint {
    Fingerprint::of(key.to_le_bytes())
}
