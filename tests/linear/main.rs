//! Histories of real threads on one key, each explained by one thing that does one call after the
//! other.
//!
//! Short form: `cargo test --release --test linear`. Long form: `IDEMKV_SECONDS=600 cargo test
//! --release --test linear -- --nocapture`. A seed repeats the calls of a run, though not what the
//! threads make of them; a history that can't be explained is printed whole. `tests/linear-check/`
//! compares the checker with another one.

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

mod bad;
mod checker;
#[path = "../common/mod.rs"]
mod common;
mod key;
mod threads;

use std::sync::atomic::{AtomicUsize, Ordering};

use checker::{Model, Timed, is_linearizable, overlaps};
use common::budget::Budget;
use key::{Call, Key, LeasedKey, State};
use threads::{Kind, histories};

/// With one engine and one set of threads.
const HISTORIES: usize = 250;

fn check<M: Model<State = State, Call = Call>>(kind: Kind, history: &[Timed<Call>]) {
    if !is_linearizable::<M>(kind.state(), history) {
        for call in history {
            println!("{call:?}");
        }
        panic!("nothing that does one call after the other answers like this");
    }
}

fn explain(kind: Kind, history: &[Timed<Call>]) {
    if kind.has_leases() { check::<LeasedKey>(kind, history) } else { check::<Key>(kind, history) }
}

#[test]
fn what_threads_are_told_of_a_key_comes_from_one_call_after_the_other() {
    let mut budget = Budget::new("linear::what_threads_are_told", "linearizability histories", 15);
    let (mut overlapping, mut pairs, mut calls) = (0, 0, 0);
    while let Some(seed) = budget.next_seed() {
        let kind = Kind::of(seed);
        let histories = histories(seed, kind, HISTORIES);
        let (checked, next) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    while let Some(history) = histories.get(next.fetch_add(1, Ordering::Relaxed)) {
                        explain(kind, history);
                        checked.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(checked.into_inner(), histories.len());
        for history in &histories {
            let overlaps = overlaps(history);
            overlapping += usize::from(overlaps > 0);
            pairs += overlaps;
            calls += history.len();
        }
        budget.count(histories.len() as u64);
    }
    let total = usize::try_from(budget.total()).unwrap();
    println!("{overlapping} of {total} histories overlap, {pairs} pairs of {calls} calls");
    assert!(overlapping > total / 10, "threads have to meet");
}
