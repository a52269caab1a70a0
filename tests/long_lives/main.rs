//! Long lives: months of quiet, bursty and mixed traffic on a simulated disk and clock, beside a
//! model of what memory, file, log, bytes written and work of the background may be at each
//! moment.
//!
//! A life is drawn from a seed. It opens an engine with scopes whose records live from seconds to
//! a year, some with tombstones, and goes through every kind of phase, in a random order. After
//! each step and each phase, `bounds.rs` says what there may be. A failure prints the seed, the
//! phase, and the bound with its parts.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod life;
mod model;

use common::budget::Budget;
use life::Life;

#[test]
fn memory_file_log_bytes_written_and_work_stay_within_their_bounds_over_months() {
    let mut budget = Budget::new(
        "long_lives::memory_file_log_bytes_written_and_work_stay_within_their_bounds_over_months",
        "simulated days",
        4,
    );
    while let Some(seed) = budget.next_seed() {
        let days = Life::new(seed).live(if budget.is_long() { 3 } else { 1 });
        budget.count(days);
    }
}
