//! Small worlds, whole: every history of up to three operations on two keys, a crash at every
//! operation of the disk, and every subset of what was not synced.
//!
//! A history is looked at during its last operation only, for what comes before is a history of
//! its own.

use idemkv::Outcome;
use idemkv::sim::{CrashKind, ManualClock, SimDisk};

use crate::budget::Budget;
use crate::moments::Watch;
use crate::oracle::Oracle;
use crate::script::Op;
use crate::setting::{START_MS, TTL, options, policy_of, scope_of};
use crate::world::World;

/// So many pieces that were not synced survive in every combination; those before them all
/// together.
const NEWEST_MAX: u64 = 12;
/// In `cargo test`.
const NEWEST_MAX_SHORT: u64 = 3;
/// The first two.
const KEYS: u64 = 2;

fn alphabet() -> Vec<Op> {
    let of_key = |key| {
        [
            Op::Begin { key },
            Op::Finish { key, outcome: Outcome::Success, seed: key },
            Op::Finish { key, outcome: Outcome::Failure, seed: key },
            Op::Release { key },
            Op::DropClaim { key },
            Op::Forget { key },
            Op::Note { key, seed: 7 },
        ]
    };
    let past_ttl = Op::Advance { seconds: TTL.as_secs() + 1 };
    (0..KEYS).flat_map(of_key).chain([Op::Checkpoint, Op::Step, past_ttl, Op::Reopen]).collect()
}

/// All histories of this length in which claims are only used that somebody may have.
fn histories(len: usize) -> Vec<Vec<Op>> {
    (0..len).fold(vec![Vec::new()], |shorter, _| {
        let longer = |history: &Vec<Op>| {
            let possible = alphabet().into_iter().filter(|op| is_possible(history, *op));
            possible.map(|op| [&history[..], &[op]].concat()).collect::<Vec<_>>()
        };
        shorter.iter().flat_map(longer).collect()
    })
}

fn is_possible(history: &[Op], next: Op) -> bool {
    let (Op::Finish { key, .. } | Op::Release { key } | Op::DropClaim { key } | Op::Note { key, .. }) = next
    else {
        return true;
    };
    history.iter().fold(false, |has_claim, op| match *op {
        Op::Begin { key: other } if other == key => true,
        Op::Finish { key: other, .. } | Op::Release { key: other } | Op::DropClaim { key: other } => {
            has_claim && other != key
        }
        Op::Reopen => false,
        _ => has_claim,
    })
}

/// A file that was made, and closed again. A begin of the first key is refused where it is
/// interrupted, the second one may run again.
fn new_file(clock: &ManualClock) -> SimDisk {
    let disk = SimDisk::new();
    let engine = options(&disk, clock).open("x.idem").unwrap();
    let rerun = scope_of(1);
    drop(engine.set_policy(rerun, policy_of(&engine, rerun, 0)).unwrap());
    engine.close().unwrap();
    disk
}

/// There are 824 histories and some eleven million images, an hour and a half for one core. `cargo
/// test` looks at the histories of up to two and a few of three, with fewer subsets. The long form
/// goes round: `IDEMKV_SEED=0` and time for all of it is the whole.
#[test]
fn every_small_history_survives_a_crash_at_every_operation_with_every_subset_of_sectors() {
    let rig = "sim::exhaustive::every_small_history_survives_a_crash_at_every_operation_with_every_subset_of_sectors";
    let all: Vec<_> = (1..=3).flat_map(histories).collect();
    let shorter = histories(1).len() + histories(2).len();
    let mut budget = Budget::new(rig, "crash images", shorter as u64);
    let newest_max = if budget.is_long() { NEWEST_MAX } else { NEWEST_MAX_SHORT };
    let clock = ManualClock::at_millis(START_MS);
    let disk = new_file(&clock);
    while let Some(seed) = budget.next_seed() {
        let number = usize::try_from(seed % all.len() as u64).unwrap();
        let at = format!("history {number} of {}: {:?}", all.len(), all[number]);
        let image = disk.image(CrashKind::KeepAll);
        let mut world = World::of_crash(image, clock.fork(), Oracle::default(), Watch::nothing(), KEYS, at);
        world.run_history(&all[number], Watch::subsets(newest_max));
        budget.count(world.watch.images);
    }
}
