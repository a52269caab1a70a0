//! Claims: begun, ended in each way, replayed, expired, forgotten, handed over and interrupted.
//! One by one and in batches.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unchecked_time_subtraction,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod batch;
#[path = "../common/mod.rs"]
mod common;
mod durability;
mod ends;
mod engine;
mod expiry;
mod foreign_keys;
mod forgetting;
mod helpers;
mod hot_key;
mod leases;
mod lifecycle;
mod limits;
mod order;
mod policies;
mod progress;
mod putting_back;
mod recovery;
mod remembered;
mod tokens;
mod unresolved;
mod unusable;
mod withdrawn;
