//! Commits: what they write, drop and move, and the state after one fails.

use super::*;

#[test]
fn a_block_stays_while_one_of_its_keys_is_about_to_change() {
    let store = new_store(&SimDisk::new());
    let (record, place) = stored(&store, 7);
    assert_eq!(reclaim(&store, EXPIRED, false), 0);
    assert_eq!(read(&store, place, record.digest()).unwrap().unwrap().body(), b"body");
    assert_eq!(reclaim(&store, EXPIRED, true), 1);
    assert!(read(&store, place, record.digest()).unwrap().is_none(), "its tombstone is elsewhere");
    assert_eq!(store.meta().tallies.index.rows, 1);
}

#[test]
fn what_is_no_longer_remembered_when_it_is_to_be_stored_is_left_out() {
    let store = new_store(&SimDisk::new());
    let batch = |n| Batch { records: vec![record(n)], ..Batch::default() };
    let just_before = Timestamp::from_millis(FORGETTABLE.as_millis() - 1);
    apply(&store, &batch(1), just_before, true).unwrap();
    assert_eq!((store.keys_hint(), store.meta().tallies.index.rows), (1, 1));
    let next = store.meta().block_next;
    apply(&store, &batch(2), FORGETTABLE, true).unwrap();
    assert_eq!((store.keys_hint(), store.meta().tallies.index.rows, store.meta().block_next), (1, 1, next));
    stored(&store, 3);
    assert_eq!((store.keys_hint(), store.meta().tallies.index.rows), (2, 2));
}

/// Otherwise block numbers would be used twice.
#[test]
fn a_commit_that_failed_and_is_there_after_all_stops_writes_but_not_reads() {
    for lost in [false, true] {
        let store = new_store(&SimDisk::new());
        let (record, place) = stored(&store, 7);
        alter(&store, |transaction| {
            let mut table = transaction.open_table(META).unwrap();
            if lost {
                table.remove(META_ROW).unwrap();
            } else {
                let row = Meta { block_next: 99, ..store.meta() }.encode();
                table.insert(META_ROW, row.as_slice()).unwrap();
            }
        });
        assert!(matches!(store.reopen(), Err(StoreError::Failed(_))));
        assert_eq!(read(&store, place, record.digest()).unwrap().unwrap().body(), b"body");
        assert!(matches!(apply(&store, &Batch::default(), NOW, true), Err(StoreError::Failed(_))));
        assert!(read(&store, place, record.digest()).unwrap().is_some());
        store.close().unwrap();
    }
}

#[test]
fn what_is_dropped_is_counted_no_longer() {
    let store = new_store(&SimDisk::new());
    (1..4).for_each(|n| drop(stored(&store, n)));
    assert_eq!((store.keys_hint(), store.meta().tallies.index.rows), (3, 3));
    assert_eq!(reclaim(&store, FORGETTABLE, true), 3);
    assert_eq!((store.keys_hint(), store.meta().tallies.index.rows), (0, 0));
}

/// A key whose remembered time ends at this moment need not move.
#[test]
fn what_moves_on_is_what_is_still_to_be_remembered() {
    let store = new_store(&SimDisk::new());
    let until = |n: u64, until: u64| {
        let lifetime = Lifetime { expires: EXPIRED, remembered_until: Timestamp::from_millis(until) };
        let digest = Digest::from_u128(n.into());
        Record::new(&RecordParts { digest, lifetime, ..RecordParts::example(n) }, None)
    };
    let records = vec![until(1, 3_000), until(2, 3_001)];
    apply(&store, &Batch { records, ..Batch::default() }, NOW, true).unwrap();
    assert_eq!((store.keys_hint(), store.meta().tallies.index.rows), (2, 1));
    assert_eq!(reclaim(&store, Timestamp::from_millis(3_000), true), 1);
    assert_eq!((store.keys_hint(), store.meta().tallies.index.rows), (1, 1));
}

/// Forgetting a key hides earlier blocks, but not the block of a record in the same batch.
#[test]
fn a_record_that_came_with_a_forgetting_of_its_key_moves_on() {
    for with in [true, false] {
        let store = new_store(&SimDisk::new());
        let forgotten = vec![(Digest::from_u128(7), FORGETTABLE)];
        let batch = |records| Batch { records, forgotten: forgotten.clone(), ..Batch::default() };
        if with {
            apply(&store, &batch(vec![record(7)]), NOW, true).unwrap();
        } else {
            stored(&store, 7);
            apply(&store, &batch(Vec::new()), NOW, true).unwrap();
        }
        assert_eq!(reclaim(&store, EXPIRED, true), 1);
        assert_eq!(store.keys_hint(), usize::from(with));
    }
}

/// redb takes no more writes after it.
#[test]
fn an_error_of_what_others_wrote_is_told_when_they_give_up() {
    const THEIRS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("theirs");
    let disk = SimDisk::new();
    let store = new_store(&disk);
    // More than redb keeps in memory, so it goes to the disk before the commit.
    let write_much = |begun: &OpenTransaction| -> Result<(), redb::Error> {
        let tables = begun.tables();
        let mut table = tables.open_table(THEIRS).unwrap();
        (0..100).try_for_each(|n| {
            table.insert(n, vec![7; 40_000].as_slice()).map(drop).map_err(redb::Error::from)
        })
    };
    let begun = store.begin().unwrap();
    write_much(&begun).unwrap();
    store.abort(begun).unwrap();
    let begun = store.begin().unwrap();
    disk.fault_at(disk.operations(), DiskFault::Error);
    assert!(write_much(&begun).is_err());
    assert!(store.abort(begun).is_err());
}

/// Only the next opening may find out what a failed sync left behind.
#[test]
fn after_a_failed_sync_nothing_is_written_until_the_file_is_opened_again() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let (record, place) = stored(&store, 7);
    disk.fail_syncs(Some(".idem"));
    assert!(apply(&store, &Batch::default(), NOW, true).is_err());
    disk.fail_syncs(None);
    let operations = disk.operations();
    for _ in 0..2 {
        assert!(matches!(apply(&store, &Batch::default(), NOW, true), Err(StoreError::Failed(_))));
        assert!(matches!(store.begin().map(|_| ()), Err(StoreError::Failed(_))));
    }
    assert_eq!(disk.operations(), operations);
    assert!(read(&store, place, record.digest()).unwrap().is_some());
}

#[test]
fn tombstones_whose_blocks_can_not_all_be_read_lie_where_their_records_lie() {
    let (mut failed, mut again) = (0, 0);
    for (read, fails_once) in (0..).flat_map(|read| [(read, true), (read, false)]) {
        let disk = SimDisk::new();
        let store = new_store(&disk);
        let places: Vec<_> = (1..5).map(|n| stored_with(&store, n, &b"body".repeat(3_000)).1).collect();
        store.close().unwrap();
        drop(store);
        let store = open(&disk);
        // Reads no block from memory.
        store.reopen().unwrap();
        let first = disk.reads();
        (0..if fails_once { 1 } else { 1_000 }).for_each(|n| disk.fail_read(first + read + n));
        let pinned = Cell::new(Vec::new());
        let pin = |from, tombstone: &Record| {
            let mut all = pinned.take();
            all.push((from, tombstone.clone()));
            pinned.set(all);
            Relocation::Moved
        };
        let batch = Batch { reclaim_max: 9 << 20, ..Batch::default() };
        let applied = store.apply(None, &batch, &|| EXPIRED, |_| (), pin);
        if disk.reads() <= first + read {
            assert!(applied.is_ok());
            break;
        }
        disk.mend();
        let pinned = pinned.take();
        if fails_once {
            // It was tried again, and told of each record anew.
            again += usize::from(pinned.len() > places.len());
            let last = |place| pinned.iter().rfind(|(from, _)| from == place);
            let moved = places.iter().filter_map(last).filter(|(from, now)| now.location() != Some(*from));
            assert_eq!(moved.count(), applied.unwrap().reclaimed);
        } else {
            // The last reads follow the commit, and nothing depends on them.
            let Err(error) = applied else { continue };
            assert!(matches!(error, StoreError::Later(_)), "{error:?}");
            failed += pinned.len();
            assert!(pinned.iter().all(|(from, tombstone)| tombstone.location() == Some(*from)));
            for (place, n) in places.iter().zip(1..) {
                is_known(&store, *place, n);
            }
        }
    }
    assert!(failed > 0 && again > 0, "no read failed after the first block");
}

/// The record at a location after a failed checkpoint that would have dropped its block, and
/// whether that is known.
#[track_caller]
fn is_known(store: &Store, place: RecordLocation, n: u64) -> bool {
    match read(store, place, Digest::from_u128(n.into())) {
        Ok(Some(found)) => {
            assert_eq!(found.body(), b"body".repeat(found.body().len().max(4) / 4));
            true
        }
        Err(ReadError::Io(failure)) => {
            assert!(failure.to_string().contains("a failed checkpoint may have moved"), "{failure}");
            false
        }
        other => panic!("{other:?}"),
    }
}

/// A view shows what was durable before the commit, whatever became of that. A false report of
/// damage would make people restore backups.
#[test]
fn a_block_that_a_failed_commit_may_have_dropped_is_read() {
    let mut found = 0;
    for (fault, is_stopped) in [(Some(DiskFault::Late), false), (Some(DiskFault::Late), true), (None, false)]
    {
        for number in 0.. {
            let disk = SimDisk::new();
            let store = new_store(&disk);
            let (_, place) = stored(&store, 7);
            store.reopen().unwrap();
            let (operations, reads) = (disk.operations() + number, disk.reads() + number);
            match fault {
                Some(fault) => disk.fault_at(operations, fault),
                None => disk.fail_read(reads),
            }
            let applied = apply(&store, &Batch { reclaim_max: 9 << 20, ..Batch::default() }, EXPIRED, true);
            let is_over =
                if fault.is_some() { disk.operations() <= operations } else { disk.reads() <= reads };
            if is_over {
                break;
            }
            if applied.is_err() {
                if is_stopped {
                    stop(&store);
                }
                assert!(is_known(&store, place, 7), "{fault:?} at {number}");
                found += 1;
            }
        }
    }
    assert!(found > 5, "{found}");
}

/// A store of so many records, of which redb has nothing in memory.
fn store_with(disk: &SimDisk, records: u64) -> Store {
    assert!(Store::create(disk, path(), Found::Nothing, &meta()).unwrap());
    let store = Store::open(disk, path(), |_| 0, |_| false).unwrap();
    (1..=records).for_each(|n| drop(stored(&store, n)));
    store
}

/// Checks that the store knows as much as the file says.
#[track_caller]
fn assert_as_in_the_file(disk: &SimDisk, store: &Store, context: &str) {
    store.reopen().unwrap();
    let known = |store: &Store| (store.directory.read().file_bytes(), store.meta());
    let before = known(store);
    store.close().unwrap();
    assert_eq!(known(&open(disk)), before, "{context}");
}

/// The other reads are among those that find out what became of the commit. Grants ended there
/// until the next opening, if the commit was in the file.
#[test]
fn a_commit_of_which_reads_say_nothing_is_asked_for_again() {
    let mut later = 0;
    for gap in [1, 5] {
        for read in 30.. {
            let disk = SimDisk::new();
            let store = store_with(&disk, 19);
            let first = disk.reads() + read;
            disk.fail_read(first);
            (0..4).for_each(|n| disk.fail_read(first + gap + n));
            let half = Batch { records: vec![record(20)], reclaim_max: 60_000, ..Batch::default() };
            let applied = apply(&store, &half, EXPIRED, true);
            disk.mend();
            let context = format!("reads {read} and {}", read + gap);
            if let Err(error) = &applied {
                assert!(matches!(error, StoreError::Later(_)), "{context}: {error:?}");
                later += 1;
                apply(&store, &half, EXPIRED, true).unwrap();
            }
            let is_over = disk.reads() <= first;
            assert_as_in_the_file(&disk, &store, &context);
            if is_over {
                break;
            }
        }
    }
    assert!(later > 0, "no read failed");
}

/// redb also reads after a commit. If that read fails, redb calls the commit failed, although it
/// is in the file.
#[test]
fn a_commit_counts_once_whichever_of_its_reads_fails() {
    for read in 0.. {
        let disk = SimDisk::new();
        // redb reads what it wrote just before.
        let store = store_with(&disk, 19);
        let first = disk.reads();
        disk.fail_read(first + read);
        let half = Batch {
            records: vec![record(20)],
            reclaim_max: store.directory.read().file_bytes() / 2,
            ..Batch::default()
        };
        let applied = apply(&store, &half, EXPIRED, true).unwrap();
        // Where a block could not be read, the others are for the next checkpoint.
        let reclaimed = if applied.leaves_due { 0..=0 } else { 9..=10 };
        assert!(reclaimed.contains(&applied.reclaimed), "{read}: {}", applied.reclaimed);
        if disk.reads() <= first + read {
            assert!(read > 30, "{read}");
            break;
        }
        disk.mend();
        assert_as_in_the_file(&disk, &store, &read.to_string());
    }
}

/// The close of the store makes the last commit durable, and a stopped database takes none.
#[test]
fn a_close_after_a_read_that_failed_behind_the_last_commit_says_so() {
    for closes in [true, false] {
        let store = new_store(&SimDisk::new());
        let last = Batch { records: vec![record(7)], closes, ..Batch::default() };
        apply(&store, &last, NOW, true).unwrap();
        let stopped: Result<(), _> = store.access.read(|_| Err(broken()));
        assert!(stopped.is_err());
        assert_eq!(store.close().is_err(), closes);
    }
}
