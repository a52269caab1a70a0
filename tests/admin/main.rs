//! The operator's page: what each route shows and changes, and what it refuses.
//! `browser/` has its tests in a real browser.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    clippy::needless_pass_by_value,
    reason = "tests"
)]

mod changing;
mod client;
mod hostile;
mod looking;
mod mounting;
mod refusing;
