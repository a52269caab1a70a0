//! What the disk and the clock can do to an engine: failed syncs that lie, full disks, clocks that
//! jump.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

mod clocks;
mod closing;
#[path = "../common/mod.rs"]
mod common;
mod compaction;
mod full;
mod held_reads;
mod helpers;
mod reads;
mod returned;
mod slow_reads;
mod unread;
mod writes;
