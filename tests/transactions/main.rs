//! Transactions: an effect and its completion together, and readers of tables.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

mod both_or_neither;
#[path = "../common/mod.rs"]
mod common;
mod failed_reads;
mod failures;
mod full_log;
mod helpers;
mod spoiled;
mod table_readers;
mod waits;
