//! A consumer of messages: each is handled once, and the broker is told the right thing of it.

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

mod batches;
#[path = "../common/mod.rs"]
mod common;
mod deliveries;
mod faults;
mod helpers;
mod random;
mod shown;
