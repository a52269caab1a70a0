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
#[cfg(feature = "postgres")]
#[path = "../shared/server.rs"]
#[allow(dead_code, reason = "the tests of the shared store alone use the rest")]
mod server;
#[cfg(feature = "postgres")]
mod shared_store;
mod shown;
