//! Files and logs that were altered in any way, alone or together with those of another engine:
//! they are refused, or say what they have said before.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod lost_rows;
mod specimen;

use common::budget::Budget;
use specimen::{Found, Specimen};
use std::collections::BTreeMap;

/// Splitmix64.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Up to three kinds of damage, most of the time one.
fn draw(seed: u64) -> Vec<u8> {
    let mut random = seed;
    let len = [8, 8, 8, 10, 20, 30][usize::try_from(next(&mut random) % 6).unwrap()];
    (0..len).map(|_| next(&mut random).to_le_bytes()[0]).collect()
}

/// redb panics on some altered pages; that is caught, and reported as damage.
fn hide_panics_of_redb() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|at| !at.file().contains("redb-")) {
            loud(panic);
        }
    }));
}

/// The flags of another file in front of a file whose opening was killed have redb take the commit
/// before it, the closing one. Without its log nothing tells that there was a later time.
#[test]
fn a_file_of_an_earlier_time_without_its_log_says_what_it_said_then() {
    let specimens = Specimen::all();
    let flags_of_another = [46, 0, 0, 4, 2, 1];
    let killed = |log: u8| [&[3, log], flags_of_another.as_slice()].concat();
    assert_eq!(damage::examine(&specimens, &killed(0)), Found::Torn);
    assert_eq!(damage::examine(&specimens, &killed(4)), Found::Refused, "its log is newer");
    assert_eq!(damage::examine(&specimens, &[3, 0]), Found::Refused, "it was not closed");
}

#[test]
fn altered_files_are_refused_or_say_what_they_said_before() {
    hide_panics_of_redb();
    let specimens = Specimen::all();
    assert_eq!(damage::examine(&specimens, &[1, 4]), Found::Whole);
    let mut budget = Budget::new(
        "damage::altered_files_are_refused_or_say_what_they_said_before",
        "damaged openings",
        1_500,
    );
    let mut met = BTreeMap::new();
    while let Some(seed) = budget.next_seed() {
        let found = damage::examine(&specimens, &draw(seed));
        *met.entry(format!("{found:?}")).or_insert(0) += 1;
        budget.count(1);
    }
    println!("{met:?}");
    assert_eq!(met.len(), 3, "only {met:?} was met");
}
