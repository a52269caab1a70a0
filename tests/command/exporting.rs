//! `export` and `import`: what was known is known again.

use std::fs;
use std::path::Path;

use crate::helpers::{HOSTILE, claim, closed, damage_body, fine, killed, on, run};
use idemkv::{Completion, Engine, Outcome, Recovery, Status};
use serde_json::Value;
use std::time::Duration;

/// Lines by scope and key, without what an import can't bring back.
fn lasting(export: &str) -> Vec<String> {
    let mut lines: Vec<String> = export
        .lines()
        .skip(1)
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let fields = line.as_object_mut().unwrap();
            fields.retain(|name, _| {
                !matches!(name.as_str(), "fence" | "attempt" | "hash") && !name.ends_with("_ms")
                    || name == "ttl_ms"
            });
            line.to_string()
        })
        .collect();
    lines.sort_unstable();
    lines
}

fn import(export: &str, folder: &Path) -> (std::path::PathBuf, crate::helpers::Ran) {
    let (lines, file) = (folder.join("saved.jsonl"), folder.join("new.idem"));
    fs::write(&lines, export).unwrap();
    let ran = run([Path::new("import"), &lines, &file]);
    (file, ran)
}

#[test]
fn an_import_brings_back_every_key_with_its_result_and_every_policy() {
    for (folder, file) in [closed(), killed()] {
        let ran = on(&file, "export", &[]);
        assert!(ran.code == 0 && ran.err.contains("Step keys"), "{ran:?}");
        let (new, imported) = import(&ran.out, folder.path());
        assert!(imported.code == 0 && imported.out.contains("step keys"), "{imported:?}");
        assert_eq!(lasting(&fine(&new, "export", &[])), lasting(&ran.out));
        let engine = Engine::open(&new).unwrap();
        assert_eq!(engine.scope("reports").policy().get_recovery(), Recovery::Rerun);
        let Status::Done(record) = engine.default_scope().get(HOSTILE).unwrap() else { panic!() };
        assert_eq!((record.outcome(), record.body()), (Outcome::Success, &b"\x1b]0;title\x07\xff"[..]));
        let left = record.expires().saturating_since(engine.now());
        assert!(left > Duration::from_secs(86_000) && left <= Duration::from_secs(86_400), "{left:?}");
        let Status::Interrupted(lost) = engine.scope("refunds").get("lost").unwrap() else { panic!() };
        assert_eq!(&**lost.last_progress().unwrap(), b"step 2");
    }
}

#[test]
fn a_tombstone_and_a_body_that_was_not_kept_come_back_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.idem");
    let engine = Engine::open(&file).unwrap();
    let over = Completion::new().ttl(Duration::from_millis(1)).tombstone_ttl(Duration::from_secs(3_600));
    claim(&engine, "", "over").complete_with("reply", over).unwrap();
    claim(&engine, "", "secret").complete_with("reply", Completion::new().discard_body()).unwrap();
    engine.close().unwrap();
    let (new, ran) = import(&fine(&file, "export", &[]), folder.path());
    assert_eq!(ran.code, 0, "{ran:?}");
    let engine = Engine::open(&new).unwrap();
    assert!(matches!(engine.default_scope().get("over").unwrap(), Status::Expired(_)));
    let Status::Done(record) = engine.default_scope().get("secret").unwrap() else { panic!() };
    assert!(!record.is_body_kept() && record.body().is_empty());
}

#[test]
fn an_import_that_fails_leaves_nothing_behind() {
    let (folder, file) = closed();
    let export = fine(&file, "export", &[]);
    for bad in [
        format!("{export}{{\"scope\":\"x\"}}\n"),
        format!("{export}not JSON\n"),
        format!("{export}{}\n", export.lines().last().unwrap()),
        export.lines().skip(1).collect::<Vec<_>>().join("\n"),
        String::new(),
    ] {
        let (new, ran) = import(&bad, folder.path());
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(!new.exists(), "{ran:?}");
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    let (new, _) = import(&export, folder.path());
    let before = fs::read(&new).unwrap();
    assert_eq!(import(&export, folder.path()).1.code, 1);
    assert!(fs::read(&new).unwrap() == before);
}

#[test]
fn what_a_damaged_file_still_gives_is_exported_and_is_right() {
    let (folder, file) = closed();
    let whole = fine(&file, "export", &[]);
    damage_body(&file, "charged 7");
    assert_eq!(on(&file, "export", &[]).code, 3);
    let ran = on(&file, "export", &["--unverified"]);
    let whole: Vec<_> = whole.lines().skip(1).collect();
    let mut read: Vec<_> = ran.out.lines().skip(1).collect();
    let end: Value = serde_json::from_str(read.pop().unwrap()).unwrap();
    assert!(end["keys"].as_u64().unwrap() >= 1 && end["unread"].as_u64().unwrap() >= 1, "{end}");
    assert!(read.iter().all(|line| whole.contains(line)), "{ran:?}");
    assert_eq!(ran.code, 3, "{ran:?}");
    // A key that is missing runs again: nobody takes this file for a whole one unasked.
    let (new, refused) = import(&ran.out, folder.path());
    assert!(refused.code == 1 && !new.exists(), "{refused:?}");
    assert!(refused.err.contains("could not be read") && refused.err.contains("--incomplete"), "{refused:?}");
    let lines = folder.path().join("saved.jsonl");
    let taken = run([Path::new("import"), Path::new("--incomplete"), &lines, &new]);
    assert_eq!(taken.code, 0, "{taken:?}");
}

/// A process that is killed writes whole lines only: what it leaves looks like an export of fewer
/// keys.
#[test]
fn an_export_that_was_cut_at_the_end_of_a_line_is_not_taken_for_a_whole_one() {
    let (folder, file) = closed();
    let whole = fine(&file, "export", &[]);
    let lines: Vec<_> = whole.lines().collect();
    for kept in 1..lines.len() {
        let (new, ran) = import(&(lines[..kept].join("\n") + "\n"), folder.path());
        assert!(ran.code == 1 && !new.exists() && ran.err.contains("cut off"), "{kept}: {ran:?}");
    }
    // A line in the middle is missing.
    let end = lines.len() - 1;
    let (new, ran) = import(&[&lines[..end - 1], &lines[end..]].concat().join("\n"), folder.path());
    assert!(ran.code == 1 && !new.exists() && ran.err.contains("was written with"), "{ran:?}");
    // Without the last line, on purpose.
    fs::write(folder.path().join("saved.jsonl"), lines[..end].join("\n")).unwrap();
    let taken =
        run([Path::new("import"), Path::new("--incomplete"), &folder.path().join("saved.jsonl"), &new]);
    assert_eq!(taken.code, 0, "{taken:?}");
    assert_eq!(lasting(&fine(&new, "export", &[])), lasting(&whole));
}
