//! What metrics and traces say of an engine.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::float_cmp,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

#[path = "../common/mod.rs"]
mod common;
mod counts;
mod recorder;
mod table;
mod traces;
