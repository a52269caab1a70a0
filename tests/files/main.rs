//! Files: made, opened, named, looked into, backed up, put back, taken away, and on a full disk.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

mod backup;
mod checked;
#[path = "../common/mod.rs"]
mod common;
mod creation;
mod full_disk;
mod names;
mod open;
mod read_only;
mod restore;
mod taken_away;
