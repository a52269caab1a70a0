//! Kills at each numbered system call by which the engine changes its files: as a thread makes it
//! for the n-th time, before anything comes of it.

use crate::budget::Budget;
use crate::life::{Directory, File, Moment, torment_files};
use crate::oracle::{Oracle, Verdict};
use crate::{Random, can_inject};

/// By which files are made, written, resized, synced and named, and the n up to which each is
/// tried. A thread's calls are counted from the start of its process.
const CALLS: [(&str, u64); 9] = [
    ("pwrite64", 60),
    ("fdatasync", 30),
    ("ftruncate", 4),
    ("rename", 1),
    ("fsync", 3),
    ("openat", 24),
    ("linkat", 1),
    ("unlink", 1),
    ("flock", 3),
];

/// Kills of each file.
const KILLS: u64 = 12;

fn torment(_place: &Directory, file: &mut File, random: &mut Random, oracle: &mut Oracle) -> Verdict {
    for life in 0..KILLS {
        let kind = random.below(CALLS.len() as u64 + 6) as usize;
        // Half of them are writes and syncs.
        let (call, numbers) = CALLS.get(kind).copied().unwrap_or(CALLS[kind % 2]);
        // The first life makes the file, which takes few calls.
        let numbers = if life == 0 { numbers.min(12) } else { numbers };
        file.kill(Moment::Call(call, 1 + random.below(numbers)), random, oracle)?;
    }
    file.walk(oracle)
}

#[test]
fn a_kill_at_any_system_call_loses_nothing_acknowledged_and_grants_nothing_twice() {
    if !can_inject() {
        return;
    }
    let rig = "real::calls::a_kill_at_any_system_call_loses_nothing_acknowledged_and_grants_nothing_twice";
    let totals = torment_files(Budget::new(rig, "real kills", 5), Directory::make, torment);
    assert!(totals.kills > totals.outlived, "too few came to their call: {totals:?}");
}
