//! `verify` and `doctor`: sound, damaged, inconclusive.

use std::fs;

use crate::helpers::{closed, contents, damage_body, fine, flip, killed, log_of, on};
use serde_json::Value;

#[test]
fn a_sound_file_is_said_to_be_sound_with_counts() {
    for (_folder, file) in [closed(), killed()] {
        let said: Value = serde_json::from_str(&fine(&file, "verify", &["--format", "json"])).unwrap();
        let keys = ["done", "interrupted"].map(|state| said[state].as_u64().unwrap());
        let late = u64::from(said["log_frames"].as_u64().unwrap() > 0);
        assert_eq!((said["verdict"].as_str(), keys), (Some("sound"), [22 + late, 2 + late]), "{said}");
        let text = fine(&file, "doctor", &[]);
        assert!(
            text.starts_with("sound\n") && text.contains("2 keys are interrupted") == (late == 0),
            "{text}"
        );
    }
}

#[test]
fn a_damaged_record_is_found_and_the_doctor_says_what_can_be_saved() {
    let (_folder, file) = closed();
    damage_body(&file, "charged 7");
    let ran = on(&file, "verify", &[]);
    assert!(ran.code == 3 && ran.out.starts_with("damaged"), "{ran:?}");
    let json: Value = serde_json::from_str(&on(&file, "verify", &["--format", "json"]).out).unwrap();
    assert_eq!(json["verdict"], "damaged");
    let ran = on(&file, "doctor", &[]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.out.contains("keys of it, and some are missing"), "{ran:?}");
    for part in ["What it means:", "What can be saved:", "What to do:", "Tried:"] {
        assert!(ran.out.contains(part), "{ran:?}");
    }
}

#[test]
fn a_cut_log_and_a_missing_one_are_damage() {
    let (_folder, file) = killed();
    let log = log_of(&file);
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(on(&file, "verify", &[]).code, 3);
    fs::remove_file(&log).unwrap();
    let ran = on(&file, "verify", &[]);
    assert!(ran.code == 3 && ran.out.contains("is missing"), "{ran:?}");
    let ran = on(&file, "doctor", &[]);
    assert!(ran.out.contains("Put it beside the file"), "{ran:?}");
}

#[test]
fn a_file_that_is_gone_is_said_to_be_gone_while_its_log_is_there() {
    let (_folder, file) = killed();
    fs::remove_file(&file).unwrap();
    for subcommand in ["stats", "verify", "list", "export"] {
        let ran = on(&file, subcommand, &[]);
        let said = ran.out + &ran.err;
        assert!(ran.code == 3 && said.contains("put the file back"), "{subcommand}: {said}");
    }
    let ran = on(&file, "doctor", &[]);
    assert!(ran.code == 3 && ran.out.contains("the file is gone"), "{ran:?}");
    // Without the log, nobody can know.
    fs::remove_file(log_of(&file)).unwrap();
    let ran = on(&file, "doctor", &[]);
    assert!(ran.code == 1 && ran.out.contains("neither such a file"), "{ran:?}");
    assert!(!ran.out.contains("nothing is lost"), "{ran:?}");
}

/// A frame is written over zeros, in sectors: a kill of the machine leaves any of them.
#[test]
fn of_a_torn_frame_at_the_end_of_the_log_it_cannot_tell() {
    let (_folder, file) = killed();
    let log = log_of(&file);
    let mut bytes = fs::read(&log).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(512);
    bytes[end..end + 4].copy_from_slice(b"idmF");
    fs::write(&log, &bytes).unwrap();
    let ran = on(&file, "verify", &[]);
    assert!(ran.code == 4 && ran.out.starts_with("inconclusive"), "{ran:?}");
    assert!(ran.out.contains(&format!("at offset {end} of the log")), "{ran:?}");
    let ran = on(&file, "doctor", &[]);
    assert!(ran.code == 4 && ran.out.contains("goes on behind the last whole frame"), "{ran:?}");
}

/// Every subcommand that is given a damaged file says so, with the exit code for it, and leaves it
/// and all others as they are.
#[test]
fn on_a_damaged_file_every_subcommand_says_so_and_changes_nothing() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 3] = [
        ("a record", |file| damage_body(file, "charged 7")),
        ("the first page", |file| flip(file, 0)),
        ("the log", |file| {
            let bytes = fs::read(log_of(file)).unwrap();
            fs::write(log_of(file), &bytes[..bytes.len() / 2]).unwrap();
        }),
    ];
    let calls: [(&str, &[&str]); 10] = [
        ("stats", &[]),
        ("list", &[]),
        ("get", &["order 07", "--scope", "charges"]),
        ("verify", &[]),
        ("doctor", &[]),
        ("export", &[]),
        ("resolve", &["lost", "--scope", "refunds", "--as", "did-not-happen", "--yes"]),
        ("forget", &["order 07", "--scope", "charges", "--yes"]),
        ("compact", &["--yes"]),
        ("backup", &["TARGET", "--yes"]),
    ];
    for (what, damage) in damages {
        let (folder, file) = killed();
        damage(&file);
        let (before, names) = (contents(&file), || fs::read_dir(folder.path()).unwrap().count());
        let there = names();
        let target = folder.path().join("backup.idem");
        for (subcommand, arguments) in calls {
            let arguments: Vec<_> = arguments
                .iter()
                .map(|it| if *it == "TARGET" { target.to_str().unwrap() } else { it })
                .collect();
            let ran = on(&file, subcommand, &arguments);
            assert_eq!(ran.code, 3, "{subcommand} with {what} damaged: {ran:?}");
            assert!(!ran.err.is_empty() || ran.out.contains("damaged"), "{subcommand}: {ran:?}");
        }
        let ran = on(&file, "restore", &[target.to_str().unwrap(), "--yes"]);
        assert!(ran.code == 3 && ran.err.contains("the backup can't be used"), "{what}: {ran:?}");
        assert_eq!((contents(&file), names()), (before, there), "{what}");
    }
}

#[test]
fn an_export_that_was_cut_or_altered_is_refused_and_no_file_is_made() {
    let (folder, file) = closed();
    let whole = fine(&file, "export", &[]);
    let (damaged, target) = (folder.path().join("export.jsonl"), folder.path().join("new.idem"));
    for export in [&whole[..whole.len() - 20], &whole.replacen("\"scope\"", "\"scop", 1), "", "not json\n"] {
        fs::write(&damaged, export).unwrap();
        let ran = on(&damaged, "import", &[target.to_str().unwrap()]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(!target.exists() && ran.err.contains("idemkv: "), "{ran:?}");
    }
}
