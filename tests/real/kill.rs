//! Kills at random moments.

use idemkv::{Begin, Engine, Status};

use crate::budget::Budget;
use crate::life::{Directory, File, Moment, torment_files};
use crate::oracle::{Oracle, Verdict};
use crate::{Random, request_of};

/// Kills of each file.
const KILLS: u64 = 15;

fn torment(_place: &Directory, file: &mut File, random: &mut Random, oracle: &mut Oracle) -> Verdict {
    for _ in 0..KILLS {
        file.kill(Moment::draw(random), random, oracle)?;
    }
    file.walk(oracle)
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_granted_twice_over_kills_at_random() {
    let rig = "real::kill::nothing_acknowledged_is_lost_and_nothing_granted_twice_over_kills_at_random";
    let totals = torment_files(Budget::new(rig, "real kills", 6), Directory::make, torment);
    // A rig that saw none of these saw nothing.
    for (what, seen) in [
        ("grants", totals.granted),
        ("completions", totals.done),
        ("interrupted claims", totals.interrupted),
        ("claims that nobody heard of", totals.unheard),
        ("releases", totals.released),
        ("forgets", totals.forgotten),
        ("replays", totals.replayed),
        ("checkpoints", totals.checkpoints),
        ("logs that grew", totals.grown),
        ("kills before the file was open", totals.before_opened),
    ] {
        assert!(seen > 0, "no {what} were seen: {totals:?}");
    }
}

/// A file gets its name by a link, after which the temporary name goes. A kill between the two
/// leaves both.
#[test]
fn a_temporary_name_left_by_a_kill_does_not_endanger_the_file_that_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    let moved = directory.path().join("moved.idem");
    let engine = Engine::open(&path).unwrap();
    let Begin::Fresh(claim) = engine.default_scope().begin("key", request_of(1)).unwrap() else {
        panic!("not fresh")
    };
    claim.complete("reply").unwrap();
    engine.close().unwrap();
    std::fs::hard_link(&path, directory.path().join("x.idem-unfinished")).unwrap();
    // The file moves to another name, and a new one is made under the old name.
    std::fs::rename(&path, &moved).unwrap();
    std::fs::rename(directory.path().join("x.idem-wal"), directory.path().join("moved.idem-wal")).unwrap();
    let made = Engine::open(&path).unwrap();
    assert!(matches!(made.default_scope().get("key").unwrap(), Status::Vacant));
    let engine = Engine::open(&moved).unwrap();
    assert!(
        matches!(engine.default_scope().get("key").unwrap(), Status::Done(record) if record.body() == b"reply")
    );
}
