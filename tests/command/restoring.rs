//! `backup` and `restore`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::helpers::{claim, closed, contents, damage_body, fine, log_of, on, run};
use idemkv::{Engine, Status};

fn restore(backup: &Path, file: &Path, more: &[&str]) -> crate::helpers::Ran {
    on(backup, "restore", &[&[file.to_str().unwrap()], more].concat())
}

/// A file, its backup, and a key that was done since.
fn backed_up() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let (folder, file) = closed();
    let backup = folder.path().join("backup.idem");
    let said = fine(&file, "backup", &[backup.to_str().unwrap()]);
    assert!(said.contains("sound"), "{said}");
    let engine = Engine::open(&file).unwrap();
    claim(&engine, "charges", "since").complete("charged").unwrap();
    engine.scope("refunds").resolve("lost").unwrap().complete("refunded").unwrap();
    engine.close().unwrap();
    (folder, file, backup)
}

fn set_aside(folder: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut aside: Vec<_> =
        names.filter(|path| path.to_string_lossy().contains(".before-restore-")).collect();
    aside.sort();
    aside
}

#[test]
fn a_dry_run_says_how_many_keys_the_backup_does_not_know_and_does_nothing() {
    let (folder, file, backup) = backed_up();
    let before = contents(&file);
    for more in [&["--dry-run"][..], &[]] {
        let ran = restore(&backup, &file, more);
        assert_eq!(ran.code, i32::from(more.is_empty()), "{ran:?}");
        assert!(ran.err.contains("forgets 2 keys that the file knows"), "{ran:?}");
    }
    assert!(contents(&file) == before && set_aside(folder.path()).is_empty());
}

/// Both would fill one copy, and either could put in place what the other is writing.
#[test]
fn a_second_restore_leaves_the_copy_of_the_first_alone() {
    let (folder, file, backup) = backed_up();
    let name = format!("{}.restoring", file.file_name().unwrap().to_str().unwrap());
    let (before, copy) = (contents(&file), folder.path().join(name));
    fs::write(&copy, "half").unwrap();
    let ran = restore(&backup, &file, &["--yes"]);
    assert!(ran.code == 1 && ran.err.contains("if a restore was killed, remove it"), "{ran:?}");
    assert!(contents(&file) == before && fs::read(&copy).unwrap() == b"half");
    fs::remove_file(&copy).unwrap();
    assert_eq!(restore(&backup, &file, &["--yes"]).code, 0);
}

#[test]
fn a_restored_file_is_the_backup_and_the_one_before_still_opens() {
    let (folder, file, backup) = backed_up();
    let ran = restore(&backup, &file, &["--yes"]);
    assert!(ran.code == 0 && ran.out.contains("sound"), "{ran:?}");
    assert!(fs::read(&file).unwrap() == fs::read(&backup).unwrap() && !log_of(&file).exists());
    let status = |file: &Path, key: &str| Engine::open(file).unwrap().scope("charges").get(key).unwrap();
    assert!(matches!(status(&file, "since"), Status::Vacant));
    assert!(matches!(status(&file, "order 01"), Status::Done(_)));
    let aside = set_aside(folder.path());
    assert_eq!(aside.len(), 2, "{aside:?}");
    assert!(matches!(status(&aside[0], "since"), Status::Done(_)));
}

#[test]
fn a_file_that_was_lost_is_restored_and_nothing_else_is_left() {
    let (folder, file, backup) = backed_up();
    fs::remove_file(&file).unwrap();
    fs::write(log_of(&file), "of the lost file").unwrap();
    let ran = restore(&backup, &file, &["--dry-run"]);
    assert!(ran.err.contains("a log that lies here without its file"), "{ran:?}");
    let ran = restore(&backup, &file, &["--yes"]);
    assert!(ran.code == 0 && ran.err.contains("there is no file") && ran.out.contains("sound"), "{ran:?}");
    assert!(fs::read(&file).unwrap() == fs::read(&backup).unwrap());
    let aside = set_aside(folder.path());
    assert!(aside.len() == 1 && aside[0].to_str().unwrap().ends_with("-wal"), "{aside:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn a_damaged_file_is_restored_and_a_damaged_backup_refused() {
    let (folder, file, backup) = backed_up();
    damage_body(&file, "charged 7");
    assert_eq!(restore(&backup, &file, &["--yes"]).code, 0);
    assert_eq!(on(&file, "verify", &[]).code, 0);
    let before = contents(&file);
    damage_body(&backup, "charged 7");
    let ran = restore(&backup, &file, &["--yes"]);
    assert!(ran.code == 3 && ran.err.contains("the backup can't be used"), "{ran:?}");
    assert!(contents(&file) == before && set_aside(folder.path()).len() == 2);
}

#[test]
fn a_file_in_use_is_not_replaced() {
    let (_folder, file, backup) = backed_up();
    let engine = Engine::open(&file).unwrap();
    assert_eq!(restore(&backup, &file, &["--yes"]).code, 5);
    assert!(matches!(engine.scope("charges").get("since").unwrap(), Status::Done(_)));
}

#[test]
fn a_backup_takes_no_name_that_is_taken() {
    let (_folder, file, backup) = backed_up();
    let before = fs::read(&backup).unwrap();
    assert_eq!(on(&file, "backup", &[backup.to_str().unwrap()]).code, 1);
    assert!(fs::read(&backup).unwrap() == before);
    assert_eq!(run(["backup", "only-one-argument"]).code, 2);
}
