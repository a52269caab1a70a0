//! The shared store over a real PostgreSQL, which these tests start for themselves. Without one on
//! the machine they say SKIPPED.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../common/random.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
mod random;

mod basic;
mod groups;
mod in_tx;
mod processes;
mod proxy;
mod server;
mod sweep;
mod table;
mod unknown;
mod waiting;
