//! What people and programs are told: errors, refusals, events, counters and lists.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

#[path = "../common/mod.rs"]
mod common;
mod display;
mod events;
mod lists;
mod numbers;
mod refusals;
mod sentences;
