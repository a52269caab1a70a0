//! Waiting: threads and tasks that wait for claims of others, for room and for places, and code of
//! others that the engine calls.

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

mod bad_wakers;
mod callbacks;
mod closing;
#[path = "../common/mod.rs"]
mod common;
mod foreign_bodies;
mod helpers;
mod in_line;
#[path = "../common/inside.rs"]
mod inside;
mod observers;
mod others;
mod own_key;
mod own_threads;
mod places;
mod queue_line;
mod taken_back;
mod tasks;
