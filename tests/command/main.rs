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
#[cfg(feature = "postgres")]
mod copying;
mod exporting;
mod flips;
mod helpers;
mod looking;
mod restoring;
#[cfg(feature = "postgres")]
#[path = "../shared/server.rs"]
#[allow(dead_code, clippy::disallowed_methods, reason = "the tests of the shared store use the rest")]
mod server;
mod small;
