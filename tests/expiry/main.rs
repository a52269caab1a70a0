//! Expiry: how long keys, bodies and tombstones are kept, by which clock.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unchecked_time_subtraction,
    clippy::unwrap_used,
    reason = "tests"
)]

mod bodies;
mod clocks;
#[path = "../common/mod.rs"]
mod common;
mod helpers;
mod reclaiming;
mod time;
mod tombstones;
