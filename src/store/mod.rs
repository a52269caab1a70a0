//! The store: everything older than the log, in a redb file. The only module that names redb.
//!
//! Tables: `meta` (one row), `blocks` and `index` (keyed by when they are due and number, so that expiry drops a prefix),
//! `claims` (granted and not ended when the log moved on), `forgotten` (digests whose blocks before a number don't count),
//! `scopes` (those with a policy of their own).
//! Every commit is two-phase with quick repair: a failed sync then can't show what was not acknowledged, and opening
//! after a kill costs the same at any size.

use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase, TableHandle, WriteTransaction};

use crate::Timestamp;
use crate::codec::{self, Checksummer};
use crate::disk::{CopyOnWriteFile, Disk, DiskFile, Kind, unfinished};
use crate::error::{Damage, Failure, IoFailure, OpenError, ReadError};
use crate::fork::Origin;
use crate::key::{Digest, Secret};
use crate::record::{Record, RecordLocation, Relocation};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, RwLock};

mod access;
mod backend;
mod backend_error;
pub(crate) mod block;
mod copy;
mod directory;
mod forgotten;
mod layout;
mod load;
mod long_reads;
mod merge;
mod meta;
mod owned;
mod refusal;
mod relocate;
mod tables;
#[cfg(test)]
#[cfg(all(feature = "sim", not(any(idemkv_loom, idemkv_shuttle))))]
mod tests;

use access::{Access, open_database};
use backend::Backend;
use backend_error::{BackendError, catch_backend_panic};
pub(crate) use copy::{Copy, Meanwhile, Whole};
use directory::{BlockInfo, Directory};
use forgotten::{Forgotten, Row};
use layout::{BLOCKS, CLAIMS, FORGOTTEN, INDEX, META, SCOPES};
pub(crate) use load::Stored;
pub(crate) use meta::Meta;
use owned::Owned;
pub(crate) use refusal::StoreError;
pub use tables::{ReadTables, TableError, Tables};

const META_ROW: &str = "meta";
/// How a redb file starts.
const REDB_MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// What a creation finds under the name of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// An empty file, and beside it one that was being made: where there are no hard links, a kill can leave that.
    Reservation,
}

/// What one checkpoint writes, all or nothing.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Records to store.
    pub(crate) records: Vec<Record>,
    /// Claims that are out, or interrupted, as encoded intent rows.
    pub(crate) claims: Vec<(Digest, Vec<u8>)>,
    /// Keys whose claim rows, if any, are over.
    pub(crate) ended: Vec<Digest>,
    /// Keys whose stored records don't count any more, and until when they would have.
    pub(crate) forgotten: Vec<(Digest, Timestamp)>,
    /// Scopes that were given a policy, as encoded rows.
    pub(crate) scopes: Vec<(Box<[u8]>, Vec<u8>)>,
    /// Blocks that are due are dropped until they have so many bytes, or twice what is written where that is more.
    pub(crate) reclaim_max: u64,
    /// Small blocks are merged, where there are enough of them.
    pub(crate) merges: bool,
}

impl Batch {
    /// Adds a record that no log knows of, in place of whatever was to be written of its key.
    pub(crate) fn complete(&mut self, record: Record) {
        let digest = record.digest();
        self.records.retain(|other| other.digest() != digest);
        self.claims.retain(|(open, _)| *open != digest);
        self.ended.push(digest);
        self.records.push(record);
    }
}

/// What a checkpoint did.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Blocks that were dropped.
    pub(crate) reclaimed: usize,
    /// Records that nobody needs in memory any more: written without their bodies, or moved.
    pub(crate) cold: Vec<Record>,
}

/// A transaction that others write in. To be handed to [`Store::apply`] or [`Store::abort`].
#[must_use = "it keeps everybody else from writing"]
pub(crate) struct OpenTransaction(Owned<WriteTransaction>);

impl OpenTransaction {
    pub(crate) fn tables(&self) -> Tables<'_> {
        Tables(&self.0)
    }
}

#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    access: Access,
    /// The application has tables of its own in the file: how much of it they take is not known here.
    is_shared: AtomicBool,
    checksummer: Checksummer,
    /// Leaf lock.
    directory: RwLock<Directory>,
    /// Rows of the table `forgotten`. Leaf lock.
    forgotten: Mutex<Forgotten>,
    origin: Origin,
    /// The row as last committed. Only the worker that checkpoints changes it.
    meta: Mutex<Meta>,
}

impl Store {
    /// Makes a new file at `path`, where there is nothing, or the reservation of a creation that was killed.
    ///
    /// It is made under another name first, so that a crash leaves either no file or a whole one. `Ok(false)` where
    /// somebody else made it meanwhile.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, found: Found, meta: &Meta) -> Result<bool, OpenError> {
        let temporary = unfinished(path);
        let file =
            disk.create(&temporary, None).map_err(|error| OpenError::from_io(path, "creating", error))?;
        // Only now: while the other file was locked, a creation could be on its way.
        if found == Found::Reservation && !is_freed(disk, path)? {
            discard(disk, &temporary);
            return Ok(false);
        }
        // The file is empty and ours, so any trouble here is the disk's.
        let written = catch_backend_panic(|| {
            let database = redb::Builder::new().create_with_backend(Backend::new(&file, &Arc::default()))?;
            let database = Owned::new(database);
            let transaction = begin_durable(&database)?;
            transaction.open_table(META)?.insert(META_ROW, meta.encode().as_slice())?;
            transaction.open_table(BLOCKS)?;
            transaction.open_table(INDEX)?;
            transaction.open_table(CLAIMS)?;
            transaction.open_table(FORGOTTEN)?;
            transaction.open_table(SCOPES)?;
            transaction.into_inner().commit()?;
            Ok(database.into_inner().close()?)
        });
        let published = written
            .map_err(|trouble| trouble.into_open_error(path))
            .map(|()| disk.publish(&temporary, path))
            .inspect_err(|_| discard(disk, &temporary))?;
        if published.is_err() {
            discard(disk, &temporary);
        }
        // Dropping the handle would do, but for a child process that is being started at this moment and has a copy of it.
        file.unlock().map_err(|error| OpenError::from_io(path, "unlocking", error))?;
        match published {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(OpenError::from_io(path, "naming", error)),
        }
    }

    /// Opens an existing file; nothing of its content is read but the meta row.
    ///
    /// By the file's length, `cache_bytes` says how large redb's cache of pages is, and `verify` whether to check every page.
    pub(crate) fn open(
        disk: &dyn Disk,
        path: &Path,
        cache_bytes: impl FnOnce(u64) -> usize,
        verify: impl FnOnce(u64) -> bool,
    ) -> Result<Self, OpenError> {
        let file = disk.open(path).map_err(|error| OpenError::from_io(path, "opening", error))?;
        check_magic(path, &*file)?;
        let len = file.len().map_err(|error| OpenError::from_io(path, "measuring", error))?;
        let (cache_bytes, verify) = (cache_bytes(len), verify(len));
        check_ours(path, &file, cache_bytes, verify)?;
        let access =
            Access::open(path, file, cache_bytes).map_err(|trouble| trouble.into_open_error(path))?;
        let database = access.database().map_err(|_lost| OpenError::Locked(path.to_owned()))?;
        let meta = read_meta(path, &database)?;
        drop(database);
        Ok(Self {
            path: path.to_owned(),
            access,
            is_shared: AtomicBool::new(false),
            checksummer: Checksummer::new(&Secret(meta.secret)),
            directory: RwLock::default(),
            forgotten: Mutex::default(),
            origin: Origin::here(),
            meta: Mutex::new(meta),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file's path certainly doesn't lead to this file any more.
    pub(crate) fn is_taken_away(&self) -> bool {
        self.access.file().is_gone_from(&self.path)
    }

    pub(crate) fn checksummer(&self) -> &Checksummer {
        &self.checksummer
    }

    pub(crate) fn meta(&self) -> Meta {
        self.meta.lock().clone()
    }

    /// Bytes of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.access.file().len().unwrap_or(0)
    }

    /// How many records there were at the last commit, to size tables by.
    pub(crate) fn keys_hint(&self) -> usize {
        usize::try_from(self.meta.lock().keys).unwrap_or(0)
    }

    /// The record at `place`; `None` where its block was dropped. Then it was no longer to be remembered, or its tombstone moved:
    /// the index, which learns of that before the block goes, tells which.
    pub(crate) fn read(&self, place: RecordLocation, digest: Digest) -> Result<Option<Record>, ReadError> {
        let Some(due) = self.due_of(place) else {
            return Ok(None);
        };
        let read = self.access.read(|database| {
            let blocks = database.blocks()?;
            let Some(block) = blocks.get((due.as_millis(), place.block()))? else { return Ok(None) };
            match block::read_record(block.value(), place, digest, &self.checksummer) {
                Ok(record) => Ok(Some(record)),
                Err(bad) => Err(BackendError::at(block_place(due, place), bad)),
            }
        });
        match read {
            Ok(None) if self.due_of(place).is_some() => Err(self.block_missing(due, place)),
            read => read,
        }
    }

    /// When the block of a record is due; `None` where it is gone.
    fn due_of(&self, place: RecordLocation) -> Option<Timestamp> {
        self.directory.read().get(place.block()).map(|block| block.due)
    }

    fn block_missing(&self, due: Timestamp, place: RecordLocation) -> ReadError {
        if !self.access.is_current() {
            // A checkpoint that failed in its last step may have dropped it, and only the next opening can tell.
            let unknown = io::Error::other("a failed checkpoint may have moved what it holds");
            return ReadError::Io(IoFailure::new(&self.path, "reading", unknown));
        }
        ReadError::Damaged(Damage::new(&self.path, block_place(due, place), "the block is missing"))
    }

    /// Writes a batch, drops blocks that are due and writes anew what is still to be remembered of them, in one durable
    /// transaction, and tells every record its place.
    ///
    /// `begun` is a transaction that others have written in, to be committed with it. `change` sets what else is new in the meta
    /// row. `pin_in_memory` is told, before a record's block goes, of the tombstone that takes
    /// its place, or of the record that moves, so that whoever looks finds that in memory; it says whether the record may go now. Only one thread may be in
    /// here.
    pub(crate) fn apply(
        &self,
        begun: Option<OpenTransaction>,
        batch: &Batch,
        now: Timestamp,
        change: impl FnOnce(&mut Meta),
        pin: impl Fn(RecordLocation, &Record) -> Relocation,
    ) -> Result<Applied, StoreError> {
        if self.origin.is_elsewhere_for_sure() {
            std::mem::forget(begun);
            return Err(StoreError::Failed(Failure::Forked));
        }
        let mut meta = self.meta();
        change(&mut meta);
        let database = match &begun {
            // It is of the database that is open, or of one that has stopped: then it fails.
            Some(_) => self
                .access
                .database()
                .map_err(|_closed| self.access.failed(BackendError::unexpected("the store is closed")))?,
            None => self.access.writable(|database| self.check_current(database))?,
        };
        let merged = self.merge(&database, batch, now, &pin)?;
        let mut live = merged.records();
        live.extend(batch.records.iter().filter(|record| record.remembered_until() > now).cloned());
        let first = meta.block_next;
        let mut blocks = block::pack(live, now, first, &self.checksummer);
        let written: u64 = blocks.iter().map(|block| BlockInfo::of(block).file_bytes()).sum();
        let mut due = self.due(now, batch.reclaim_max.max(2 * written));
        let carried =
            self.relocate(&database, &mut due, batch, now, &pin).inspect_err(|_| merged.put_back())?;
        let reclaimed = due.blocks.len();
        due.blocks.extend(merged.blocks());
        let next = first + blocks.len() as u64;
        blocks.extend(block::pack(carried.records(), now, next, &self.checksummer));
        meta.block_next += blocks.len() as u64;
        assert!(meta.block_next < RecordLocation::BLOCK_LIMIT, "block numbers last for exabytes");
        // First out of the directory, so that no reader looks for a block that is on its way out.
        let dropped = self.leave_out(&due);
        let begun = catch_backend_panic(|| {
            database.hold()?;
            begun.map_or_else(|| begin_durable(&database), |OpenTransaction(transaction)| Ok(transaction))
        });
        // redb can't abort a transaction while a panic goes through it, so the transaction lies outside.
        let written = begun.and_then(|transaction| {
            catch_backend_panic(|| {
                write_blocks(&transaction, &blocks)?;
                drop_blocks(&transaction, &due.blocks)?;
                meta.blocks = meta.blocks + blocks.len() as u64 - due.blocks.len() as u64;
                let added: usize = blocks.iter().map(|block| block.records.len()).sum();
                meta.keys = (meta.keys + added as u64).saturating_sub(due.keys());
                meta.claims = self.write_claims(&transaction, batch)?;
                self.write_forgotten(&transaction, batch, &due, first)?;
                self.write_scopes(&transaction, batch)?;
                transaction.open_table(META)?.insert(META_ROW, meta.encode().as_slice())?;
                Ok(())
            })?;
            catch_backend_panic(|| Ok(transaction.into_inner().commit()?))
        });
        if let Err(trouble) = written {
            let mut directory = self.directory.write();
            for (number, block) in dropped {
                directory.insert(number, block);
            }
            drop(directory);
            carried.put_back();
            merged.put_back();
            drop(database);
            return Err(self.access.failed(trouble));
        }
        // Before anybody learns of new blocks.
        database.renew();
        self.committed(&blocks, batch, &due, first);
        *self.meta.lock() = meta;
        let records = blocks.into_iter().flat_map(|block| block.records).map(|(record, _)| record);
        let cold = records.filter(|record| record.expires() <= now).chain(merged.records()).collect();
        Ok(Applied { reclaimed, cold })
    }

    /// Begins a transaction for others to write in.
    pub(crate) fn begin(&self) -> Result<OpenTransaction, StoreError> {
        let database = self.access.writable(|database| self.check_current(database))?;
        self.is_shared.store(true, Ordering::Relaxed);
        catch_backend_panic(|| begin_durable(&database))
            .map(OpenTransaction)
            .map_err(|trouble| self.access.failed(trouble))
    }

    /// Undoes what others have written. An error of theirs that came from the disk concerns us too: redb takes no more writes
    /// after it.
    pub(crate) fn abort(&self, begun: OpenTransaction) -> Result<(), StoreError> {
        let aborted = catch_backend_panic(|| Ok(begun.0.into_inner().abort()?));
        match (self.access.write_failed(), aborted) {
            (Some(kind), _) => Err(self.access.failed(BackendError::from(redb::Error::Io(kind.into())))),
            // After a failed read redb does not even abort. Nothing was written, and whoever writes next opens it again.
            (None, Err(trouble)) if trouble.is_io() => Ok(()),
            (None, Err(trouble)) => Err(self.access.failed(trouble)),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Lets others read, in a transaction of their own.
    pub(crate) fn read_tables<T>(&self, read: impl FnOnce(&ReadTables<'_>) -> T) -> Result<T, ReadError> {
        self.access.read_long(
            |database| {
                let transaction = Owned::new(database.begin_read()?);
                // A view may have stopped, and does not say so before something is read.
                drop(transaction.open_table(META)?.get(META_ROW)?);
                Ok(transaction)
            },
            |transaction| {
                let result = read(&ReadTables(&transaction));
                if self.origin.is_elsewhere() {
                    // Its end would touch what is the parent's.
                    std::mem::forget(transaction);
                }
                result
            },
        )
    }

    /// Whether a block's room can be had back by `now`.
    pub(crate) fn has_due(&self, now: Timestamp) -> bool {
        self.directory.read().has_due(now)
    }

    /// Whether blocks of so many bytes can be had back by `now`.
    pub(crate) fn has_due_bytes(&self, now: Timestamp, bytes: u64) -> bool {
        self.directory.read().has_due_bytes(now, bytes)
    }

    /// What can go by `now`: blocks in the order in which they were due, of at most `max` bytes, and rows of `forgotten`.
    fn due(&self, now: Timestamp, max: u64) -> Due {
        let blocks = self.directory.read().due(now, max);
        let forgotten = self.forgotten.lock().over(now);
        Due { blocks, forgotten }
    }

    /// Takes blocks out of the directory; gives what it said of them.
    fn leave_out(&self, due: &Due) -> Vec<(u64, BlockInfo)> {
        let mut directory = self.directory.write();
        due.blocks
            .iter()
            .filter_map(|(number, _)| directory.remove(*number).map(|block| (*number, block)))
            .collect()
    }

    /// Until when the rows of what a batch forgets are needed: no shorter than those that they replace.
    fn forgotten_until(&self, batch: &Batch) -> Vec<(Digest, Timestamp)> {
        let rows = self.forgotten.lock();
        let earlier = |digest: &Digest| rows.get(*digest).map(|row| row.until).unwrap_or_default();
        batch.forgotten.iter().map(|(digest, until)| (*digest, (*until).max(earlier(digest)))).collect()
    }

    fn write_claims(&self, transaction: &WriteTransaction, batch: &Batch) -> Result<u64, BackendError> {
        let mut table = transaction.open_table(CLAIMS)?;
        for digest in &batch.ended {
            table.remove(digest.as_u128())?;
        }
        for (digest, row) in &batch.claims {
            let sealed = self.checksummer.seal(CLAIMS.name(), &digest.halves(), row);
            table.insert(digest.as_u128(), sealed.as_slice())?;
        }
        Ok(redb::ReadableTableMetadata::len(&table)?)
    }

    fn write_forgotten(
        &self,
        transaction: &WriteTransaction,
        batch: &Batch,
        due: &Due,
        limit: u64,
    ) -> Result<(), BackendError> {
        let mut table = transaction.open_table(FORGOTTEN)?;
        for digest in &due.forgotten {
            table.remove(digest.as_u128())?;
        }
        // The limit lies below this batch's blocks: a key forgotten and completed again within one batch stays. Tombstones that move
        // now lie above it too, but none of a key that this batch forgets: `carry` leaves those out.
        for (digest, until) in &self.forgotten_until(batch) {
            let mut row = Vec::new();
            codec::encode_into(&(limit, until.as_millis()), &mut row);
            let sealed = self.checksummer.seal(FORGOTTEN.name(), &digest.halves(), &row);
            table.insert(digest.as_u128(), sealed.as_slice())?;
        }
        Ok(())
    }

    fn write_scopes(&self, transaction: &WriteTransaction, batch: &Batch) -> Result<(), BackendError> {
        let mut table = transaction.open_table(SCOPES)?;
        for (name, row) in &batch.scopes {
            table.insert(&**name, self.checksummer.seal(SCOPES.name(), &[], row).as_slice())?;
        }
        Ok(())
    }

    fn committed(&self, blocks: &[block::Block], batch: &Batch, due: &Due, limit: u64) {
        let mut directory = self.directory.write();
        for block in blocks {
            directory.insert(block.number, BlockInfo::of(block));
        }
        drop(directory);
        // After the directory, so that whoever sees a place finds its block.
        for (record, place) in blocks.iter().flat_map(|block| &block.records) {
            record.set_location(*place);
        }
        let rows = self.forgotten_until(batch);
        let mut forgotten = self.forgotten.lock();
        for digest in &due.forgotten {
            forgotten.remove(*digest);
        }
        for (digest, until) in rows {
            forgotten.insert(digest, Row { limit, until });
        }
    }

    /// Closes and opens the database: after an I/O error redb refuses all writes, and after a full disk or a failed read, which lose
    /// nothing, this makes it take them again.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        self.access.reopen(|database| self.check_current(database)).map(drop)
    }

    /// What did not fit must be gone, whole: block numbers are about to be given out again.
    fn check_current(&self, database: &Database) -> Result<(), BackendError> {
        let meta = read_meta(&self.path, database).map_err(BackendError::from_open_error)?;
        if meta != self.meta() {
            return Err(BackendError::unexpected("a commit that failed is there after all"));
        }
        Ok(())
    }

    /// Bytes of the file that are live; `None` where others have tables in it, which are not counted.
    pub(crate) fn live_bytes(&self) -> Option<u64> {
        let is_shared = self.is_shared.load(Ordering::Relaxed);
        (!is_shared).then(|| self.directory.read().file_bytes())
    }

    /// Gives free room in the file back to the disk, unless somebody reads tables; whether it did. Reads wait meanwhile. The next
    /// commit must follow at once.
    pub(crate) fn compact(&self) -> Result<bool, StoreError> {
        self.access.compact()
    }

    /// Lets no reader of tables in any more: the first step of closing.
    pub(crate) fn refuse_table_readers(&self) {
        self.access.refuse_long_reads();
    }

    /// Lets no reader of tables in any more, and waits for those that are in. Their closures decide how long that takes.
    pub(crate) fn await_table_readers(&self) {
        self.access.await_long_reads();
    }

    /// Closes the database. Reads are refused from now on.
    pub(crate) fn close(&self) -> Result<(), Failure> {
        self.access.close()
    }
}

/// What one transaction can drop.
struct Due {
    blocks: Vec<(u64, BlockInfo)>,
    forgotten: Vec<Digest>,
}

impl Due {
    /// Records in the blocks.
    fn keys(&self) -> u64 {
        self.blocks.iter().map(|(_, block)| u64::from(block.entries)).sum()
    }
}

fn write_blocks(transaction: &WriteTransaction, blocks: &[block::Block]) -> Result<(), BackendError> {
    let mut bodies = transaction.open_table(BLOCKS)?;
    let mut index = transaction.open_table(INDEX)?;
    for block in blocks {
        let key = (block.due.as_millis(), block.number);
        bodies.insert(key, block.bytes.as_slice())?;
        index.insert(key, block.index.as_slice())?;
    }
    Ok(())
}

fn drop_blocks(transaction: &WriteTransaction, due: &[(u64, BlockInfo)]) -> Result<(), BackendError> {
    let mut bodies = transaction.open_table(BLOCKS)?;
    let mut index = transaction.open_table(INDEX)?;
    for (number, block) in due {
        bodies.remove((block.due.as_millis(), *number))?;
        index.remove((block.due.as_millis(), *number))?;
    }
    Ok(())
}

/// Whether a file is nothing but the reservation of its name, by a creation that was killed or is on its way.
pub(crate) fn is_reservation(disk: &dyn Disk, path: &Path) -> Result<bool, OpenError> {
    let failed = |error| OpenError::from_io(path, "looking at", error);
    if disk.kind(&unfinished(path)).map_err(failed)? != Kind::File {
        return Ok(false);
    }
    match disk.open(path) {
        Ok(file) => Ok(file.len().map_err(failed)? == 0),
        // The opening tells why.
        Err(_locked) => Ok(false),
    }
}

/// Removes a reservation, if it is one still; whether it was.
fn is_freed(disk: &dyn Disk, path: &Path) -> Result<bool, OpenError> {
    let file = disk.open(path).map_err(|error| OpenError::from_io(path, "opening", error))?;
    let is_empty = file.len().map_err(|error| OpenError::from_io(path, "measuring", error))? == 0;
    if is_empty {
        disk.discard(path).map_err(|error| OpenError::from_io(path, "removing", error))?;
    }
    Ok(is_empty)
}

/// Removes what a failed creation made, before its lock is gone. Where that fails, too, the next creation starts with it.
fn discard(disk: &dyn Disk, temporary: &Path) {
    drop(disk.discard(temporary));
}

fn begin_durable(database: &Database) -> Result<Owned<WriteTransaction>, BackendError> {
    let mut transaction = Owned::new(database.begin_write()?);
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// A file that doesn't start as redb files do is not ours. An empty one isn't either, though redb would take it.
fn check_magic(path: &Path, file: &dyn DiskFile) -> Result<(), OpenError> {
    let mut start = [0; REDB_MAGIC.len()];
    match file.read_at(0, &mut start) {
        Ok(()) if start == *REDB_MAGIC => Ok(()),
        Ok(()) => Err(OpenError::NotIdemkv(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(OpenError::NotIdemkv(path.to_owned()))
        }
        Err(error) => Err(OpenError::from_io(path, "reading", error)),
    }
}

/// A database of another program's isn't ours, nor is one of a newer version. Looked at from a distance: redb writes to
/// whatever it opens.
/// This is also where every page is verified, before anything relies on one.
fn check_ours(
    path: &Path,
    file: &Arc<dyn DiskFile>,
    cache_bytes: usize,
    verify: bool,
) -> Result<(), OpenError> {
    let untouched = CopyOnWriteFile::new(Arc::clone(file))
        .map_err(|error| OpenError::from_io(path, "measuring", error))?;
    let untouched: Arc<dyn DiskFile> = Arc::new(untouched);
    let database = open_database(&untouched, &Arc::default(), cache_bytes, verify)
        .map_err(|trouble| trouble.into_open_error(path))?;
    let meta = read_meta(path, &database);
    // Closing looks at pages as well: a panic there is damage, too.
    catch_backend_panic(|| {
        drop(database.into_database().into_inner());
        Ok(())
    })
    .map_err(|trouble| trouble.into_open_error(path))?;
    meta.map(drop)
}

fn read_meta(path: &Path, database: &Database) -> Result<Meta, OpenError> {
    let row = catch_backend_panic(|| {
        let transaction = Owned::new(database.begin_read()?);
        let table = match transaction.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        Ok(table.get(META_ROW)?.map(|row| row.value().to_vec()))
    });
    match row.map_err(|trouble| trouble.into_open_error(path))? {
        Some(row) => Meta::decode(path, &row),
        None => Err(OpenError::NotIdemkv(path.to_owned())),
    }
}

fn block_place(due: Timestamp, place: RecordLocation) -> String {
    format!("table `blocks`, row ({}, {}), offset {}", due.as_millis(), place.block(), place.offset())
}

fn open_row<'a, T: bincode::BorrowDecode<'a, ()>>(
    checksummer: &Checksummer,
    table: &impl TableHandle,
    digest: Digest,
    row: &'a [u8],
) -> Result<T, BackendError> {
    checksummer
        .open(table.name(), &digest.halves(), row)
        .and_then(codec::decode)
        .map_err(|bad| BackendError::row(table, digest, bad))
}
