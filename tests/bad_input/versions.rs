//! Files of other versions.

use std::fs;

use crate::helpers::{assert_done, assert_says, bytes_of, log_of, make_file, make_unclean, refused, small};
use idemkv::OpenError;

#[test]
fn a_file_of_another_version_is_refused_with_both_versions() {
    const META: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("idemkv.meta");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    let set_version = |version: u32| {
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(META).unwrap();
        let mut row = redb::ReadableTable::get(&table, "meta").unwrap().unwrap().value().to_vec();
        row[..4].copy_from_slice(&version.to_le_bytes());
        table.insert("meta", row.as_slice()).unwrap();
        drop(table);
        transaction.commit().unwrap();
    };
    set_version(77);
    let before = bytes_of(&path)[1].clone();
    let error = refused(small().open(&path));
    assert!(matches!(&error, OpenError::NewerVersion { found: 77, supported: 5, .. }), "{error}");
    assert_says(&error, &["format version 77", "reads up to 5", "use a newer idemkv"]);
    set_version(4);
    assert!(matches!(refused(small().open(&path)), OpenError::OlderVersion { found: 4, supported: 5, .. }));
    set_version(1);
    let error = refused(small().open(&path));
    assert!(matches!(&error, OpenError::OlderVersion { found: 1, supported: 5, .. }), "{error}");
    assert_says(&error, &["format version 1", "reads from 5 on", "the idemkv that wrote it"]);
    assert!(bytes_of(&path)[1] == before);
    set_version(5);
    drop(small().open(&path).unwrap());
}

#[test]
fn a_log_of_another_version_is_refused_with_both_versions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_unclean(&path);
    let mut log = fs::read(log_of(&path)).unwrap();
    assert_eq!(log[8..12], 5_u32.to_le_bytes());
    let mut refused_with = |version| {
        log[8] = version;
        fs::write(log_of(&path), &log).unwrap();
        small().open(&path)
    };
    let error = refused(refused_with(6));
    assert!(matches!(&error, OpenError::NewerVersion { found: 6, supported: 5, .. }), "{error}");
    let error = refused(refused_with(1));
    assert!(matches!(&error, OpenError::OlderVersion { found: 1, supported: 5, .. }), "{error}");
    assert_done(&refused_with(5).unwrap(), "logged", b"reply");
}
