//! Compaction, and closing.

use super::*;

#[test]
fn compaction_waits_for_whoever_reads_tables_and_for_a_database_that_takes_writes() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let (record, place) = stored(&store, 7);
    let operations = disk.operations();
    assert!(!store.read_tables(false, |_| store.compact().unwrap()).unwrap());
    assert_eq!(disk.operations(), operations);
    stop(&store);
    let operations = disk.operations();
    assert!(!store.compact().unwrap());
    assert_eq!(disk.operations(), operations, "a view is not compacted");
    store.reopen().unwrap();
    assert!(store.compact().unwrap());
    assert!(disk.operations() > operations);
    assert!(read(&store, place, record.digest()).unwrap().is_some());
}

#[test]
fn a_compaction_that_fails_loses_nothing() {
    let mut failed = 0;
    for operation in 0.. {
        let disk = SimDisk::new();
        let store = new_store(&disk);
        let records: Vec<_> = (1..20).map(|n| stored(&store, n)).collect();
        let half = Batch { reclaim_max: store.directory.read().file_bytes() / 2, ..Batch::default() };
        assert_eq!(apply(&store, &half, EXPIRED, true).unwrap().reclaimed, 10);
        let first = disk.operations();
        disk.fault_at(first + operation, DiskFault::Error);
        let compacted = store.compact();
        if disk.operations() <= first + operation {
            break;
        }
        failed += usize::from(compacted.is_err());
        for (record, place) in &records[10..] {
            assert!(read(&store, *place, record.digest()).unwrap().is_some(), "after operation {operation}");
        }
        drop(store.close());
        drop(store);
        let store = open(&disk);
        for (record, place) in &records[10..] {
            assert!(read(&store, *place, record.digest()).unwrap().is_some(), "after operation {operation}");
        }
    }
    assert!(failed > 0);
}

/// Of keys whose claims were interrupted, and of those that were forgotten.
#[test]
fn rows_without_a_block_are_live_too() {
    const ROWS: u64 = 20_000;
    let scattered =
        |n: u64| Digest::from_u128(u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    let digests = || (1..=ROWS).map(scattered);
    let claims = Batch { claims: digests().map(|it| (it, vec![b'x'; 120])).collect(), ..Batch::default() };
    let forgotten = Batch { forgotten: digests().map(|it| (it, FORGETTABLE)).collect(), ..Batch::default() };
    for batch in [claims, forgotten] {
        let store = new_store(&SimDisk::new());
        let before = store.live_bytes().unwrap();
        apply(&store, &batch, NOW, true).unwrap();
        assert!(store.compact().unwrap());
        let (live, file) = (store.live_bytes().unwrap() - before, store.file_bytes());
        println!("{live} of {file}");
        assert!(live > file / 2 && live < file * 5 / 4, "{live} of {file} bytes are live");
    }
}

#[test]
fn what_is_live_is_not_known_of_a_file_with_tables_of_others() {
    const THEIRS: TableDefinition<'_, u64, u64> = TableDefinition::new("theirs");
    for others in [false, true] {
        let disk = SimDisk::new();
        let store = new_store(&disk);
        if others {
            alter(&store, |transaction| drop(transaction.open_table(THEIRS).unwrap()));
        }
        store.close().unwrap();
        let store = open(&disk);
        assert_eq!(store.live_bytes(), (!others).then_some(0));
    }
}

#[test]
fn a_closed_store_refuses_everything_and_lets_its_file_be() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let (record, place) = stored(&store, 7);
    store.close().unwrap();
    let other = open(&disk);
    let operations = disk.operations();
    assert!(matches!(read(&store, place, record.digest()), Err(ReadError::Closed)));
    assert!(matches!(store.read_tables(false, |_| ()), Err(ReadError::Closed)));
    assert!(matches!(store.reopen(), Err(StoreError::Failed(_))));
    assert!(matches!(store.begin().map(|_| ()), Err(StoreError::Failed(_))));
    assert!(matches!(apply(&store, &Batch::default(), NOW, true), Err(StoreError::Failed(_))));
    store.compact().unwrap();
    store.close().unwrap();
    assert_eq!(disk.operations(), operations);
    assert!(read(&other, place, record.digest()).unwrap().is_some());
}

/// An opening may fail late, and its callers get its error. A caller that comes to a compaction is
/// none of them.
#[test]
fn a_compaction_that_finds_no_database_leaves_no_old_error_to_readers() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    stop(&store);
    (0..99).for_each(|n| disk.fail_read(disk.reads() + n));
    assert!(store.access.read(|_| Err::<(), _>(broken())).is_err());
    assert!(store.access.has_an_error_to_tell());
    disk.mend();
    assert!(!store.compact().unwrap());
    assert!(!store.access.has_an_error_to_tell());
}
