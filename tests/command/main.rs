//! The command `idemkv`, run as a process on real files.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod changing;
mod checking;
mod exporting;
mod flips;
mod helpers;
mod looking;
mod restoring;
mod small;
