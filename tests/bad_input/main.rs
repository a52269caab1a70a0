//! Every bad input is refused with a typed error that says what happened and what to do: never a
//! panic, never a silently fresh file, and what isn't ours is left as it was.
//!
//! A process of its own: it has a panic hook, and parts of it run in further processes that may
//! abort.

#![cfg(unix)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::format_collect,
    clippy::indexing_slicing,
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod apart;
mod flips;
mod foreign;
mod helpers;
mod in_use;
mod values;
mod versions;
