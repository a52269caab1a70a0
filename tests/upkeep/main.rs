//! Upkeep: what sweeping, merging and compaction cost, and to what size they keep file, log and
//! memory.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::similar_names,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod cache_bytes;
mod churn;
#[path = "../common/mod.rs"]
mod common;
mod compaction;
mod idleness;
mod merging;
mod quiet_hours;
mod sweeper;
