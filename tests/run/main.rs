//! Running an operation for its caller: every way in which it can end, and who gets what.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod helpers;
mod json;
mod tasks;
