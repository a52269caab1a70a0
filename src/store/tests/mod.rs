//! The store: damaged rows, commits, and readers while the database is opened again.

mod commits;
mod compaction;
mod loading;
mod readers;
mod rows;

use super::directory::BlockInfo;
use super::layout::{BLOCKS, CLAIMS, FORGOTTEN, INDEX, META, SCOPES};
use super::opening::read_meta;
use super::transaction::begin_durable;
use super::*;
use crate::clock::Deadline;
use crate::codec::Text;
use crate::disk::sim::{DiskFault, SimDisk};
use crate::error::{Damage, OpenError, ReadError};
use crate::key::Secret;
use crate::record::{Record, RecordLocation, RecordParts, Relocation};
use crate::state::Lifetime;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use std::cell::Cell;
use std::sync::mpsc;
use std::time::Duration;
use std::{io, iter, thread};

const NOW: Timestamp = Timestamp::from_millis(1_000);

const EXPIRED: Timestamp = Timestamp::from_millis(2_000);

const FORGETTABLE: Timestamp = Timestamp::from_millis(9_000);

/// The record at `place`; `None` where its block is gone.
fn read(store: &Store, place: RecordLocation, digest: Digest) -> Result<Option<Record>, ReadError> {
    match store.read(place, digest, || NOW)? {
        StoredRecord::Found(record) => Ok(Some(record)),
        StoredRecord::Gone(_) => Ok(None),
    }
}

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
        keys: 0,
        tallies: Tallies::default(),
        compacted_live: None,
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
    store.apply(
        None,
        batch,
        &|| now,
        |_| (),
        |_, _| if may_go { Relocation::Moved } else { Relocation::Stays },
    )
}

/// Stores a record; returns it with its location.
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

/// Lets a read find the database stopped.
fn stop(store: &Store) {
    let is_first = Cell::new(true);
    store.access.read(|_| if is_first.replace(false) { Err(broken()) } else { Ok(()) }).unwrap();
    assert!(!store.access.is_current());
}

fn broken() -> BackendError {
    BackendError::from(redb::Error::Io(io::Error::other("the disk reports an error")))
}
