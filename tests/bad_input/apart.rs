//! Files and logs that do not belong together, and those that were cut off.

use std::fs;

use crate::helpers::{
    assert_done, assert_says, bytes_of, claim, log_of, make_file, make_unclean, quietly, refused,
    refused_and_unchanged, small,
};
use idemkv::{OpenError, Status};

#[test]
fn an_unclean_file_without_its_log_is_refused_until_the_log_is_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_unclean(&path);
    let away = directory.path().join("away");
    fs::rename(log_of(&path), &away).unwrap();
    for _ in 0..2 {
        let error = refused(small().open(&path));
        assert!(matches!(&error, OpenError::LogMissing { log, .. } if *log == log_of(&path)), "{error}");
        assert_says(&error, &["is missing", "not closed cleanly", "put it back"]);
        assert!(!log_of(&path).exists());
    }
    fs::rename(&away, log_of(&path)).unwrap();
    let engine = small().open(&path).unwrap();
    assert_done(&engine, "key", b"reply");
    assert_done(&engine, "logged", b"reply");
    assert!(matches!(engine.default_scope().get("out").unwrap(), Status::Interrupted(_)));
}

#[test]
fn a_clean_file_without_its_log_opens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    fs::remove_file(log_of(&path)).unwrap();
    let engine = small().open(&path).unwrap();
    assert_done(&engine, "key", b"reply");
    claim(&engine, "later").complete("reply").unwrap();
}

#[test]
fn a_log_without_its_file_is_refused_and_no_file_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    fs::remove_file(&path).unwrap();
    let error = refused_and_unchanged(&path, small());
    assert!(matches!(&error, OpenError::LogWithoutFile(found) if *found == log_of(&path)), "{error}");
    assert_says(&error, &["not the file it belongs to", "put the file back", "move the log away"]);
    // Whatever it is opened for.
    for options in [small().read_only(), small().existing()] {
        let error = refused_and_unchanged(&path, options);
        assert!(matches!(&error, OpenError::LogWithoutFile(found) if *found == log_of(&path)), "{error}");
    }
    assert!(!path.exists());
}

#[test]
fn logs_that_were_swapped_are_refused_and_work_once_swapped_back() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (directory.path().join("1.idem"), directory.path().join("2.idem"));
    let away = directory.path().join("away");
    let swap = || {
        fs::rename(log_of(&one), &away).unwrap();
        fs::rename(log_of(&other), log_of(&one)).unwrap();
        fs::rename(&away, log_of(&other)).unwrap();
    };
    make_unclean(&one);
    make_unclean(&other);
    swap();
    for path in [&one, &other] {
        let log = fs::read(log_of(path)).unwrap();
        let error = refused(small().open(path));
        assert!(matches!(&error, OpenError::LogOfAnotherFile(found) if *found == log_of(path)), "{error}");
        assert_says(&error, &["belongs to another file", "put the right one back"]);
        assert!(fs::read(log_of(path)).unwrap() == log);
    }
    swap();
    for path in [&one, &other] {
        assert_done(&small().open(path).unwrap(), "logged", b"reply");
    }
}

/// What the log acknowledged since would be gone without a word.
#[test]
fn a_file_that_is_older_than_its_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    let backup = directory.path().join("backup");
    make_file(&path);
    fs::copy(&path, &backup).unwrap();
    let engine = small().open(&path).unwrap();
    claim(&engine, "later").complete("reply").unwrap();
    engine.close().unwrap();
    fs::copy(&backup, &path).unwrap();
    let error = refused(small().open(&path));
    assert!(matches!(&error, OpenError::Damaged(damage) if damage.file() == log_of(&path)), "{error:?}");
    assert_says(&error, &["is damaged at", "restore both from a backup"]);
}

/// Frames of earlier openings are history: nothing acknowledged is in them alone.
#[test]
fn an_earlier_frame_whose_length_is_damaged_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    small().open(&path).unwrap().close().unwrap();
    let mut log = fs::read(log_of(&path)).unwrap();
    assert_eq!(&log[4_096..4_100], b"idmF");
    log[4_096 + 7] = 0xff;
    fs::write(log_of(&path), &log).unwrap();
    for _ in 0..2 {
        assert_done(&small().open(&path).unwrap(), "key", b"reply");
    }
}

#[test]
fn a_file_that_was_cut_off_is_refused_at_every_length() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_unclean(&path);
    let [file, log] = bytes_of(&path).map(Option::unwrap);
    let lengths = [0, 1, 8, 9, 10, 63, 64, 320, 4_095, 4_096, 8_192, 65_536, file.len() / 2, file.len() - 1];
    for len in lengths {
        fs::write(&path, &file[..len]).unwrap();
        let error = quietly(|| refused(small().open(&path))).unwrap();
        let known = match &error {
            OpenError::NotIdemkv(_) => len < 9,
            OpenError::Damaged(damage) => damage.file() == path,
            _ => false,
        };
        assert!(known, "{len} of {} bytes: {error:?}", file.len());
        assert!(fs::metadata(&path).unwrap().len() <= file.len() as u64);
        assert!(fs::read(log_of(&path)).unwrap() == log, "{len}: the log was changed");
    }
}

#[test]
fn an_unclean_log_that_was_cut_off_is_refused_at_every_length() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_unclean(&path);
    let [file, log] = bytes_of(&path).map(Option::unwrap);
    for len in [0, 1, 47, 48, 4_095, 4_096, 4_608, 8_192, 65_536, 69_632, log.len() - 512, log.len() - 1] {
        fs::write(&path, &file).unwrap();
        fs::write(log_of(&path), &log[..len]).unwrap();
        let error = refused(small().open(&path));
        assert!(matches!(&error, OpenError::Damaged(damage) if damage.file() == log_of(&path)), "{error:?}");
        assert_says(&error, &["is damaged at", "restore both from a backup"]);
        assert!(fs::read(log_of(&path)).unwrap() == log[..len], "the log was changed");
    }
    fs::write(&path, &file).unwrap();
    fs::write(log_of(&path), &log).unwrap();
    assert_done(&small().open(&path).unwrap(), "logged", b"reply");
}
