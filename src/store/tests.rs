//! Rows that are not what was written, and readers while the database is opened again.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::mpsc;
use std::{iter, thread};

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::directory::BlockInfo;
use super::layout::{BLOCKS, CLAIMS, FORGOTTEN, INDEX, META, SCOPES};
use super::opening::read_meta;
use super::transaction::begin_durable;
use super::*;
use crate::codec::Text;
use crate::disk::sim::{DiskFault, SimDisk};
use crate::error::OpenError;
use crate::key::Secret;
use crate::record::{RecordParts, Relocation};
use crate::state::Lifetime;

const NOW: Timestamp = Timestamp::from_millis(1_000);
const EXPIRED: Timestamp = Timestamp::from_millis(2_000);
const FORGETTABLE: Timestamp = Timestamp::from_millis(9_000);

fn path() -> &'static Path {
    Path::new("x.idem")
}

fn meta() -> Meta {
    Meta {
        file_id: [1; 16],
        secret: [2; 32],
        checkpointed_seq: 0,
        salt: 1,
        log_empty: true,
        opened_as: Text("f".to_owned()),
        log_buffered: false,
        log_bytes: 0,
        fence_next: 1,
        block_next: 1,
        blocks: 0,
        keys: 0,
        claims: 0,
        high_water_ms: 0,
        wall_max_ms: 0,
        boot_id: None,
        boot_ms: 0,
    }
}

fn new_store(disk: &SimDisk) -> Store {
    assert!(Store::create(disk, path(), Found::Nothing, &meta()).unwrap());
    open(disk)
}

fn open(disk: &SimDisk) -> Store {
    let store = Store::open(disk, path(), |_| 64 << 10, |_| false).unwrap();
    store.load(vec![|_: &[Stored]| ()], |_| (), |_, _| ()).unwrap();
    store
}

/// A record with a tombstone, that lives until [`EXPIRED`].
fn record(n: u64) -> Record {
    record_with(n, b"body")
}

fn record_with(n: u64, body: &[u8]) -> Record {
    let parts = RecordParts {
        body,
        digest: Digest::from_u128(n.into()),
        lifetime: Lifetime { expires: EXPIRED, remembered_until: FORGETTABLE },
        ..RecordParts::example(n)
    };
    Record::new(&parts, None)
}

fn apply(store: &Store, batch: &Batch, now: Timestamp, may_go: bool) -> Result<Applied, StoreError> {
    store.apply(None, batch, now, |_| (), |_, _| if may_go { Relocation::Moved } else { Relocation::Stays })
}

/// Stores a record; gives it with its place.
fn stored(store: &Store, n: u64) -> (Record, RecordLocation) {
    stored_with(store, n, b"body")
}

fn stored_with(store: &Store, n: u64, body: &[u8]) -> (Record, RecordLocation) {
    let record = record_with(n, body);
    apply(store, &Batch { records: vec![record.clone()], ..Batch::default() }, NOW, true).unwrap();
    let place = record.location().unwrap();
    (record, place)
}

fn reclaim(store: &Store, now: Timestamp, may_go: bool) -> usize {
    apply(store, &Batch { reclaim_max: 9 << 20, ..Batch::default() }, now, may_go).unwrap().reclaimed
}

/// Writes behind the store's back.
fn alter(store: &Store, change: impl FnOnce(&WriteTransaction)) {
    let database = store.access.writable(|_| Ok(())).unwrap();
    let transaction = begin_durable(&database).ok().unwrap();
    change(&transaction);
    transaction.into_inner().commit().unwrap();
    database.renew();
}

fn remove_blocks(transaction: &WriteTransaction) {
    transaction.open_table(BLOCKS).unwrap().retain(|_, _| false).unwrap();
}

#[track_caller]
fn is_damage<T>(result: Result<T, ReadError>, place: &str) {
    match result {
        Err(ReadError::Damaged(damage)) => assert!(damage.place().contains(place), "{damage}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("nobody noticed"),
    }
}

#[track_caller]
fn load(store: &Store) -> Damage {
    match store.load(vec![|_: &[Stored]| ()], |_| (), |_, _| ()) {
        Err(OpenError::Damaged(damage)) => damage,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_somebody_else_made_meanwhile_stays() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    assert!(!Store::create(&disk, path(), Found::Nothing, &Meta { salt: 99, ..meta() }).unwrap());
    drop(store);
    assert_eq!(open(&disk).meta(), meta());
}

#[test]
fn a_record_whose_block_is_missing_is_damaged_for_as_long_as_it_is_remembered() {
    let store = new_store(&SimDisk::new());
    let (record, place) = stored(&store, 7);
    assert_eq!(store.read(place, record.digest()).unwrap().unwrap().body(), b"body");
    alter(&store, remove_blocks);
    is_damage(store.read(place, record.digest()), "table `blocks`, row (2000, 1), offset 0");
    // There is nothing to make a tombstone of: that must not look as if the key were free.
    assert_eq!(reclaim(&store, EXPIRED, true), 0);
    is_damage(store.read(place, record.digest()), "table `blocks`");
    assert!(!store.has_due(EXPIRED) && store.has_due(FORGETTABLE));
    assert_eq!(reclaim(&store, FORGETTABLE, true), 1);
    assert!(store.read(place, record.digest()).unwrap().is_none());
}

#[test]
fn a_block_stays_while_one_of_its_keys_is_about_to_change() {
    let store = new_store(&SimDisk::new());
    let (record, place) = stored(&store, 7);
    assert_eq!(reclaim(&store, EXPIRED, false), 0);
    assert_eq!(store.read(place, record.digest()).unwrap().unwrap().body(), b"body");
    assert_eq!(reclaim(&store, EXPIRED, true), 1);
    assert!(store.read(place, record.digest()).unwrap().is_none(), "its tombstone is elsewhere");
    assert_eq!(store.meta().blocks, 1);
}

#[test]
fn rows_that_are_missing_or_belong_elsewhere_are_noticed_when_the_file_is_opened() {
    let checksummer = Checksummer::new(&Secret(meta().secret));
    let policy = codec::ScopeRow { name: b"mild", policy: crate::Policy::default().row() };
    let mut scope = Vec::new();
    codec::encode_into(&policy, &mut scope);
    let row = checksummer.seal(SCOPES.name(), &[], &scope);
    let digest = Digest::from_u128(0xabc);
    let store = || {
        let store = new_store(&SimDisk::new());
        stored(&store, 7);
        store
    };

    let changed = store();
    alter(&changed, |transaction| {
        transaction.open_table(INDEX).unwrap().retain(|_, _| false).unwrap();
    });
    // As it is found by an opening: what this one knows it has read before.
    *changed.directory.write() = Directory::default();
    assert!(load(&changed).to_string().contains("0 blocks and 0 claims are there, 1 and 0 were written"));

    // One of the two is enough.
    let changed = store();
    let ended = Batch { claims: vec![(digest, b"row".to_vec())], ..Batch::default() };
    apply(&changed, &ended, NOW, true).unwrap();
    alter(&changed, |transaction| {
        transaction.open_table(CLAIMS).unwrap().retain(|_, _| false).unwrap();
    });
    assert!(load(&changed).to_string().contains("1 blocks and 0 claims are there, 1 and 1 were written"));

    for table in [CLAIMS, FORGOTTEN] {
        let changed = store();
        alter(&changed, |transaction| {
            transaction.open_table(table).unwrap().insert(digest.as_u128(), &b"not sealed"[..]).unwrap();
        });
        let place = format!("table `{}`, row {:032x}", table.name(), digest.as_u128());
        assert_eq!(load(&changed).place(), place);
    }

    // Sealed, but for another key, whichever half of the digest differs.
    for other in [digest.as_u128() + 1, digest.as_u128() + (1 << 64)] {
        let changed = store();
        let forgets = Batch { forgotten: vec![(digest, FORGETTABLE)], ..Batch::default() };
        apply(&changed, &forgets, NOW, true).unwrap();
        alter(&changed, |transaction| {
            let mut table = transaction.open_table(FORGOTTEN).unwrap();
            let row = table.remove(digest.as_u128()).unwrap().unwrap().value().to_vec();
            table.insert(other, row.as_slice()).unwrap();
        });
        assert_eq!(load(&changed).place(), format!("table `{}`, row {other:032x}", FORGOTTEN.name()));
    }

    let changed = store();
    alter(&changed, |transaction| {
        transaction.open_table(SCOPES).unwrap().insert(&b"strict"[..], row.as_slice()).unwrap();
    });
    let damage = load(&changed);
    assert_eq!(damage.place(), "table `idemkv.scopes`, row \"strict\"");
    assert!(damage.to_string().contains("another scope"), "{damage}");
}

#[test]
fn what_is_no_longer_remembered_when_it_is_to_be_stored_is_left_out() {
    let store = new_store(&SimDisk::new());
    let batch = |n| Batch { records: vec![record(n)], ..Batch::default() };
    let just_before = Timestamp::from_millis(FORGETTABLE.as_millis() - 1);
    apply(&store, &batch(1), just_before, true).unwrap();
    assert_eq!((store.keys_hint(), store.meta().blocks), (1, 1));
    let next = store.meta().block_next;
    apply(&store, &batch(2), FORGETTABLE, true).unwrap();
    assert_eq!((store.keys_hint(), store.meta().blocks, store.meta().block_next), (1, 1, next));
    stored(&store, 3);
    assert_eq!((store.keys_hint(), store.meta().blocks), (2, 2));
}

/// What redb does to a block is measured by `benches/layout.rs`.
#[test]
fn a_block_takes_pages_of_a_power_of_two_and_its_part_of_the_index() {
    let bytes = |len, entries| {
        let contents = block::Contents { len, entries, remembered_until: EXPIRED };
        BlockInfo::new(EXPIRED, contents).file_bytes()
    };
    assert_eq!(bytes(1_000, 0), 1_024);
    assert_eq!(bytes(1_001, 0), 2_048);
    assert_eq!(bytes(8_168, 10), 8_192 + 260);
    assert_eq!(bytes(65_512, 10), 65_536 + 260);
}

#[test]
fn a_new_file_that_cannot_be_named_is_told_from_one_that_is_there_already() {
    let mut refused = 0;
    for operation in 0.. {
        let disk = SimDisk::new();
        disk.fault_at(operation, DiskFault::Error);
        match Store::create(&disk, path(), Found::Nothing, &meta()) {
            Err(OpenError::Io(_)) => refused += 1,
            made => {
                assert!(made.unwrap(), "nobody else made it");
                break;
            }
        }
    }
    assert!(refused > 3, "{refused}");
}

/// Block numbers would be given out twice.
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
        assert_eq!(store.read(place, record.digest()).unwrap().unwrap().body(), b"body");
        assert!(matches!(apply(&store, &Batch::default(), NOW, true), Err(StoreError::Failed(_))));
        assert!(store.read(place, record.digest()).unwrap().is_some());
        store.close().unwrap();
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
    assert!(matches!(store.read(place, record.digest()), Err(ReadError::Closed)));
    assert!(matches!(store.read_tables(|_| ()), Err(ReadError::Closed)));
    assert!(matches!(store.reopen(), Err(StoreError::Failed(_))));
    assert!(matches!(store.begin().map(|_| ()), Err(StoreError::Failed(_))));
    assert!(matches!(apply(&store, &Batch::default(), NOW, true), Err(StoreError::Failed(_))));
    store.compact().unwrap();
    store.close().unwrap();
    assert_eq!(disk.operations(), operations);
    assert!(other.read(place, record.digest()).unwrap().is_some());
}

#[test]
fn compaction_waits_for_whoever_reads_tables_and_for_a_database_that_takes_writes() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let (record, place) = stored(&store, 7);
    let operations = disk.operations();
    assert!(!store.read_tables(|_| store.compact().unwrap()).unwrap());
    assert_eq!(disk.operations(), operations);
    stop(&store);
    let operations = disk.operations();
    assert!(!store.compact().unwrap());
    assert_eq!(disk.operations(), operations, "a view is not compacted");
    store.reopen().unwrap();
    assert!(store.compact().unwrap());
    assert!(disk.operations() > operations);
    assert!(store.read(place, record.digest()).unwrap().is_some());
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
            assert!(store.read(*place, record.digest()).unwrap().is_some(), "after operation {operation}");
        }
        drop(store.close());
        drop(store);
        let store = open(&disk);
        for (record, place) in &records[10..] {
            assert!(store.read(*place, record.digest()).unwrap().is_some(), "after operation {operation}");
        }
    }
    assert!(failed > 0);
}

#[test]
fn what_is_dropped_is_counted_no_longer() {
    let store = new_store(&SimDisk::new());
    (1..4).for_each(|n| drop(stored(&store, n)));
    assert_eq!((store.keys_hint(), store.meta().blocks), (3, 3));
    assert_eq!(reclaim(&store, FORGETTABLE, true), 3);
    assert_eq!((store.keys_hint(), store.meta().blocks), (0, 0));
}

/// A key that is remembered until this very moment need not move on.
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
    assert_eq!((store.keys_hint(), store.meta().blocks), (2, 1));
    assert_eq!(reclaim(&store, Timestamp::from_millis(3_000), true), 1);
    assert_eq!((store.keys_hint(), store.meta().blocks), (1, 1));
}

/// What forgets a key hides the blocks before, not that of the record that came with it.
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
fn a_meta_row_in_a_log_shows_no_secret() {
    let shown = format!("{:?}", Meta { blocks: 7, secret: [123; 32], ..meta() });
    assert!(shown.contains("blocks: 7") && !shown.contains("123"), "{shown}");
}

#[test]
fn a_file_whose_start_can_not_be_read_may_be_ours_all_the_same() {
    let disk = SimDisk::new();
    new_store(&disk).close().unwrap();
    disk.fail_read(disk.reads());
    let refused = Store::open(&disk, path(), |_| 64 << 10, |_| false).map(drop);
    assert!(matches!(refused, Err(OpenError::Io(_))), "{refused:?}");
    open(&disk);
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

/// What a failed sync left behind only the next opening may find out.
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
    assert!(store.read(place, record.digest()).unwrap().is_some());
}

#[test]
fn tombstones_whose_blocks_can_not_all_be_read_lie_where_their_records_lie() {
    let mut failed = 0;
    for read in 0.. {
        let disk = SimDisk::new();
        let store = new_store(&disk);
        let places: Vec<_> = (1..5).map(|n| stored_with(&store, n, &b"body".repeat(3_000)).1).collect();
        store.close().unwrap();
        drop(store);
        let store = open(&disk);
        // Reads no block from memory.
        store.reopen().unwrap();
        let first = disk.reads();
        disk.fail_read(first + read);
        let pinned = Cell::new(Vec::new());
        let pin = |from, tombstone: &Record| {
            let mut all = pinned.take();
            all.push((from, tombstone.clone()));
            pinned.set(all);
            Relocation::Moved
        };
        let batch = Batch { reclaim_max: 9 << 20, ..Batch::default() };
        let applied = store.apply(None, &batch, EXPIRED, |_| (), pin);
        if disk.reads() <= first + read {
            assert!(applied.is_ok());
            break;
        }
        let pinned = pinned.take();
        if applied.is_err() {
            failed += pinned.len();
            assert!(pinned.iter().all(|(from, tombstone)| tombstone.location() == Some(*from)));
            for (place, n) in places.iter().zip(1..) {
                is_known(&store, *place, n);
            }
        } else {
            assert_eq!(pinned.len(), places.len());
        }
    }
    assert!(failed > 0, "no read failed after the first block");
}

fn broken() -> BackendError {
    BackendError::unexpected("the disk reports an error")
}

/// Lets a read find the database stopped.
fn stop(store: &Store) {
    let is_first = Cell::new(true);
    store.access.read(|_| if is_first.replace(false) { Err(broken()) } else { Ok(()) }).unwrap();
    assert!(!store.access.is_current());
}

#[test]
fn whoever_finds_the_database_stopped_takes_the_view_that_another_has_opened_meanwhile() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let tries = Cell::new(0);
    let reads = Cell::new(0);
    let read = store.access.read(|database| {
        tries.set(tries.get() + 1);
        if tries.get() == 1 {
            stop(&store);
            reads.set(disk.reads());
            return Err(broken());
        }
        assert_eq!(disk.reads(), reads.get(), "the view is not opened twice");
        read_meta(path(), database).map_err(BackendError::from_open_error)
    });
    assert_eq!((read.unwrap(), tries.get()), (meta(), 2));
}

#[test]
fn a_read_is_not_tried_for_ever() {
    let store = new_store(&SimDisk::new());
    let tries = Cell::new(0);
    let read: Result<(), _> = store.access.read(|_| {
        tries.set(tries.get() + 1);
        Err(broken())
    });
    assert!(matches!(read, Err(ReadError::Io(_))));
    assert_eq!(tries.get(), 3);
    assert!(store.access.read(|_| Ok(())).is_ok(), "the next one finds what there is");
}

#[test]
fn a_record_is_found_as_soon_as_it_has_a_place() {
    let store = new_store(&SimDisk::new());
    let (sender, receiver) = mpsc::sync_channel::<Record>(1);
    thread::scope(|threads| {
        threads.spawn(|| {
            for record in receiver {
                let place = iter::repeat_with(|| record.location()).flatten().next().unwrap();
                assert!(store.read(place, record.digest()).unwrap().is_some());
            }
        });
        for _ in 0..20 {
            // So many that all are told their places in a time in which somebody reads the first.
            let records: Vec<_> = (0..5_000).map(record).collect();
            sender.send(records[0].clone()).unwrap();
            apply(&store, &Batch { records, ..Batch::default() }, NOW, true).unwrap();
        }
        drop(sender);
    });
}

/// Ends the readers of a test, however it ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn readers_and_a_writer_that_open_the_database_again_do_not_disturb_each_other() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let (record, place) = stored(&store, 7);
    let is_over = AtomicBool::new(false);
    let read = || match store.read(place, record.digest()) {
        Ok(found) => assert_eq!(found.unwrap().body(), b"body"),
        // Others may have stopped all that it was given.
        Err(error) => assert!(matches!(error, ReadError::Io(_)), "{error}"),
    };
    thread::scope(|threads| {
        let over = Over(&is_over);
        for _ in 0..3 {
            threads.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    disk.fail_read(disk.reads());
                    read();
                }
            });
        }
        for _ in 0..20 {
            // One that fails leaves it to the next.
            let opened = store.access.reopen(|_| {
                threads.spawn(read);
                (0..10).for_each(|_| thread::yield_now());
                Ok(())
            });
            drop(opened);
            drop(store.compact());
        }
        drop(over);
    });
    disk.mend();
    store.reopen().unwrap();
    assert!(store.read(place, record.digest()).unwrap().is_some());
    store.close().unwrap();
    drop(store);
    let mut keys = 0;
    open(&disk).load(vec![|found: &[Stored]| keys += found.len()], |_| (), |_, _| ()).unwrap();
    assert_eq!(keys, 1);
}

#[test]
fn records_on_a_disk_that_went_away_come_back_with_it_and_not_from_a_file_that_was_cut_off() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let (record, place) = stored(&store, 7);
    disk.crash_at(disk.operations());
    assert!(apply(&store, &Batch::default(), NOW, true).is_err() && disk.crashed());
    let stopped: Result<(), _> = store.access.read(|_| Err(broken()));
    assert!(matches!(stopped, Err(ReadError::Io(_))));
    for _ in 0..2 {
        assert!(matches!(store.read(place, record.digest()), Err(ReadError::Io(_))));
    }
    disk.restart_process();
    assert_eq!(store.read(place, record.digest()).unwrap().unwrap().body(), b"body");

    assert!(disk.truncate(path(), 100));
    let stopped: Result<(), _> = store.access.read(|_| Err(broken()));
    assert!(matches!(stopped, Err(ReadError::Damaged(_))), "{stopped:?}");
    is_damage(store.read(place, record.digest()), "");
    assert!(!disk.truncate(Path::new("y.idem"), 0), "there is no such file");
    store.close().unwrap();
}

/// What is found at a place after a checkpoint failed that would have dropped its block; whether that is known.
#[track_caller]
fn is_known(store: &Store, place: RecordLocation, n: u64) -> bool {
    match store.read(place, Digest::from_u128(n.into())) {
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

/// To be told of damage where there is none makes people restore backups.
#[test]
fn a_block_that_a_failed_commit_may_have_dropped_is_unknown_not_damaged() {
    let mut found = HashMap::new();
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
                *found.entry(is_known(&store, place, 7)).or_insert(0) += 1;
            }
        }
    }
    assert!(found[&true] > 3 && found[&false] > 1, "{found:?}");
}

#[test]
fn a_read_that_fails_in_one_of_the_threads_that_load_fails_the_opening() {
    const KEYS: u64 = 300;
    let disk = SimDisk::new();
    let store = new_store(&disk);
    for n in 1..=KEYS {
        // A block for each, so that there are many rows to be read.
        stored(&store, n);
    }
    store.close().unwrap();
    drop(store);
    let mut failed = 0;
    for number in 0.. {
        let store = Store::open(&disk, path(), |_| 64 << 10, |_| false).unwrap();
        disk.fail_read(disk.reads() + number);
        let mut keys = [0; 3];
        let takers = keys.iter_mut().map(|keys| |found: &[Stored]| *keys += found.len()).collect();
        let loaded = store.load(takers, |_| (), |_, _| ());
        disk.mend();
        match loaded {
            Err(OpenError::Io(_)) => failed += 1,
            Err(other) => panic!("read {number}: {other}"),
            Ok(()) => {
                assert_eq!(keys, [300; 3], "read {number} failed in one thread, and nobody was told");
                break;
            }
        }
    }
    assert!(failed > 5, "{failed} reads");
}

#[test]
fn a_damaged_index_row_is_found_by_each_thread_that_loads() {
    const ROWS: usize = 7;
    let store = new_store(&SimDisk::new());
    (1..=ROWS as u64).for_each(|n| drop(stored(&store, n)));
    // Of an offset, so that it decodes.
    let flip = |at: usize| {
        alter(&store, |transaction| {
            let mut table = transaction.open_table(INDEX).unwrap();
            let (key, mut row) = {
                let (key, row) = table.iter().unwrap().nth(at).unwrap().unwrap();
                (key.value(), row.value().to_vec())
            };
            *row.last_mut().unwrap() ^= 1;
            table.insert(key, row.as_slice()).unwrap();
        });
    };
    // With what each thread was given.
    let load = |threads| {
        let mut given = vec![0; threads];
        let takers = given.iter_mut().map(|given| |found: &[Stored]| *given += found.len()).collect();
        let loaded = store.load(takers, |_| (), |_, _| ());
        (loaded, given)
    };
    for (row, threads) in (0..ROWS).flat_map(|row| (1..=4).map(move |threads| (row, threads))) {
        flip(row);
        let (loaded, given) = load(threads);
        let is_it = |damage: &Damage| damage.place().starts_with("table `index`, row");
        assert!(matches!(&loaded, Err(OpenError::Damaged(damage)) if is_it(damage)), "{loaded:?}");
        assert_eq!(given, vec![0; threads], "row {row}: each of them looks itself");
        flip(row);
        let (loaded, given) = load(threads);
        loaded.unwrap();
        assert_eq!(given, vec![ROWS; threads]);
    }
}

#[test]
fn records_are_handed_over_some_hundred_at_a_time_and_all_of_them() {
    let store = new_store(&SimDisk::new());
    let records: Vec<_> = (1..=2_000).map(record).collect();
    apply(&store, &Batch { records, ..Batch::default() }, NOW, true).unwrap();
    let (mut keys, mut calls) = (Vec::new(), 0);
    let taker = |found: &[Stored]| {
        calls += 1;
        keys.extend(found.iter().map(|stored| stored.digest.as_u128()));
    };
    store.load(vec![taker], |_| (), |_, _| ()).unwrap();
    keys.sort_unstable();
    assert_eq!(keys, (1..=2_000).collect::<Vec<u128>>());
    assert!((3..10).contains(&calls), "{calls} calls");
}
