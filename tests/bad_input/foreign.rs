//! Places where there is something that isn't ours, or nothing.

use std::fs;
use std::io::{self};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::helpers::{assert_done, assert_says, log_of, make_file, refused, refused_and_unchanged, small};
use idemkv::OpenError;
use redb::ReadableDatabase;

#[test]
fn a_missing_parent_directory_is_an_error_that_names_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing").join("x.idem");
    let error = refused(small().open(&path));
    assert!(matches!(&error, OpenError::Io(failure) if failure.kind() == io::ErrorKind::NotFound), "{error}");
    assert_says(&error, &["looking for", "missing", "failed", "No such file or directory"]);
    assert!(!directory.path().join("missing").exists());
}

#[test]
fn a_directory_is_refused_in_place_of_the_file_and_of_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let error = refused(small().open(directory.path()));
    assert!(matches!(&error, OpenError::NotAFile(path) if path == directory.path()), "{error}");
    assert_says(&error, &["not a regular file", "give the path of a file"]);

    let path = directory.path().join("x.idem");
    make_file(&path);
    fs::remove_file(log_of(&path)).unwrap();
    fs::create_dir(log_of(&path)).unwrap();
    let error = refused_and_unchanged(&path, small());
    assert!(matches!(&error, OpenError::NotAFile(found) if *found == log_of(&path)), "{error}");
}

#[test]
fn a_file_that_is_not_ours_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    let redb_magic = b"redb\x1a\x0a\xa9\x0d\x0a";
    for content in [
        Vec::new(),
        b"x".to_vec(),
        b"Dear diary, ".repeat(1_000),
        vec![0; 100_000],
        redb_magic[..8].to_vec(),
        log_content(directory.path()),
    ] {
        fs::write(&path, &content).unwrap();
        let error = refused_and_unchanged(&path, small());
        assert!(matches!(&error, OpenError::NotIdemkv(found) if *found == path), "{error}");
        assert_says(&error, &["was left alone", "left alone", "restore a damaged file"]);
        assert!(!log_of(&path).exists());
    }
}

fn log_content(directory: &Path) -> Vec<u8> {
    let path = directory.join("other.idem");
    make_file(&path);
    fs::read(log_of(&path)).unwrap()
}

const THEIRS: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("theirs");

fn make_redb(path: &Path) {
    let database = redb::Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(THEIRS).unwrap().insert("n", 7).unwrap();
    transaction.commit().unwrap();
}

#[test]
fn a_database_of_another_program_is_refused_and_still_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_redb(&path);
    let error = refused(small().open(&path));
    assert!(matches!(&error, OpenError::NotIdemkv(found) if *found == path), "{error}");
    assert_says(&error, &["was left alone", "restore a damaged file"]);
    assert!(!log_of(&path).exists());
    let database = redb::Database::open(&path).unwrap();
    let table = database.begin_read().unwrap().open_table(THEIRS).unwrap();
    assert_eq!(redb::ReadableTable::get(&table, "n").unwrap().unwrap().value(), 7);
}

#[test]
fn a_database_of_another_program_keeps_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_redb(&path);
    assert!(matches!(refused_and_unchanged(&path, small()), OpenError::NotIdemkv(_)));
}

#[test]
fn a_file_or_log_without_write_permission_is_refused_by_anybody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    for read_only in [path.clone(), log_of(&path)] {
        fs::set_permissions(&read_only, fs::Permissions::from_mode(0o444)).unwrap();
        let error = refused_and_unchanged(&path, small());
        assert!(matches!(&error, OpenError::ReadOnly(found) if *found == read_only), "{error}");
        assert_says(&error, &["is not writable", "change its permissions"]);
        fs::set_permissions(&read_only, fs::Permissions::from_mode(0o644)).unwrap();
    }
    assert_done(&small().open(&path).unwrap(), "key", b"reply");
}

#[test]
fn a_path_through_a_file_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "diary").unwrap();
    let error = refused(small().open(file.join("x.idem")));
    assert!(matches!(&error, OpenError::Io(failure) if failure.file() == file.join("x.idem")), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"diary");
}
