//! The engine with its threads, callers and tasks under a scheduler that decides after each step
//! who goes on: at random, or so that few changes of who goes first reach a bug (PCT). Locks,
//! condition variables, atomics and threads are the scheduler's; see `src/sync.rs`.
//!
//! ```text
//! RUSTFLAGS="--cfg idemkv_shuttle" cargo test --release --target-dir target/shuttle --test schedules
//! RUSTFLAGS="--cfg idemkv_shuttle" IDEMKV_SECONDS=60 cargo test --release --target-dir target/shuttle --test schedules -- --nocapture --test-threads 1
//! ```
//!
//! Without the flag there is nothing here. A schedule that fails prints itself and the seed of its
//! round: `IDEMKV_SEED=n` runs that round again, `IDEMKV_SCHEDULE=..` with the name of the test
//! that schedule alone.
//!
//! Time passes when a test moves its clock, and in no other way. So a thread that is not woken
//! waits for ever, which the scheduler reports, and is not saved by a timeout or by the worker's
//! tick. What callers are told of a key is noted and must come from one call after the other, as
//! in `tests/linear/`. Not seen: reordering of memory by processors (each atomic is taken for
//! sequentially consistent; `src/models/` looks at that), and what goes on within redb, where
//! nobody is interrupted.

#![cfg(idemkv_shuttle)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod actor;
mod calls;
#[allow(dead_code, reason = "`tests/linear/` counts what meets as well")]
#[path = "../linear/checker.rs"]
mod checker;
mod closes;
#[path = "../common/mod.rs"]
mod common;
mod durability;
mod ends;
mod given_back;
#[allow(dead_code, reason = "`tests/linear/` makes more calls")]
#[path = "../linear/key.rs"]
mod key;
mod mixed;
mod order;
mod world;
