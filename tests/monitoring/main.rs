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

#[cfg(any(feature = "metrics", feature = "tracing"))]
#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "metrics")]
mod counts;
#[cfg(feature = "metrics")]
mod recorder;
#[cfg(feature = "metrics")]
mod table;
#[cfg(feature = "tracing")]
mod traces;
