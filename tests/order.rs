//! Who may queue what, and when: the log has the entries about a key in the order in which its state changed, whatever its callers wait for
//! meanwhile.

#![cfg(feature = "sim")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;
