//! Forked children: each call is refused, each drop is harmless, and the parent loses nothing.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::needless_pass_by_value,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod child;
mod ends;
mod moments;
mod within;
