//! The store: everything older than the log, in a redb file. The only module that names redb.
//!
//! Tables: `meta` (one row), `blocks` and `index` (keyed by due time and number, so that expiry
//! drops a prefix), `claims` (in flight or interrupted at the last checkpoint), `forgotten`
//! (digests whose blocks below a number don't count), `scopes` (those with their own policy).
//! Every durable commit is two-phase with quick repair. So a failed sync can't show unacknowledged
//! data, and an opening after a kill costs the same at any size.

mod access;
mod application_tables;
mod apply;
mod backend;
mod backend_error;
mod batch;
pub(crate) mod block;
mod create;
mod directory;
mod due;
mod failed_reads;
mod forgotten;
mod layout;
mod live_copy;
mod load;
mod long_reads;
mod merge;
mod meta;
mod opened;
mod opening;
mod owned;
mod reading;
mod refusal;
mod relocate;
mod tally;
mod transaction;
mod unread;
mod unreadable;
mod users;

pub use application_tables::{ReadTables, TableError, Tables};
pub(crate) use batch::{Applied, Batch};
pub(crate) use create::{Found, is_reservation};
pub(crate) use directory::Gone;
pub(crate) use live_copy::{Copy, Meanwhile, Whole};
pub(crate) use load::Stored;
pub(crate) use meta::Meta;
pub(crate) use reading::StoredRecord;
pub(crate) use refusal::StoreError;
pub(crate) use tally::Tallies;
pub(crate) use transaction::OpenTransaction;

use std::path::{Path, PathBuf};

use crate::codec::Checksummer;
use crate::error::{Failure, IoFailure};
use crate::fork::Origin;
use crate::key::Digest;
use crate::sync::{AtomicBool, Mutex, Ordering, RwLock};
use crate::{Timestamp, codec};
use access::Access;
use backend_error::BackendError;
use directory::Directory;
use due::Due;
use forgotten::Forgotten;
use tally::{TalliedTable, Tally};
use unread::Unread;
use unreadable::Unreadable;

const META_ROW: &str = "meta";

#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    access: Access,
    /// The application has its own tables in the file, of unknown size.
    is_shared: AtomicBool,
    checksummer: Checksummer,
    /// Leaf lock.
    directory: RwLock<Directory>,
    unread: Unread,
    /// Leaf lock.
    unreadable: Mutex<Unreadable>,
    /// Rows of the table `forgotten`. Leaf lock.
    forgotten: Mutex<Forgotten>,
    origin: Origin,
    /// The row as last committed. Only the worker that checkpoints changes it.
    meta: Mutex<Meta>,
}

impl Store {
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

    /// The number of failed reads of the file, of all callers.
    pub(crate) fn failed_reads(&self) -> u64 {
        self.access.failed_reads().count()
    }

    /// The last read that failed, once.
    pub(crate) fn take_failed_read(&self) -> Option<IoFailure> {
        self.access.failed_reads().take_news(&self.path)
    }

    /// Bytes of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.access.file().len().unwrap_or(0)
    }

    /// How many records there were at the last commit, to size tables by: no more than the file
    /// has room for, even if the meta row says more.
    pub(crate) fn keys_hint(&self) -> usize {
        let keys = self.meta.lock().keys.min(self.file_bytes() / block::INDEX_ENTRY as u64);
        usize::try_from(keys).unwrap_or(0)
    }

    /// Whether a block's space can be freed by `now`.
    pub(crate) fn has_due(&self, now: Timestamp) -> bool {
        self.directory.read().has_due(now)
    }

    /// Whether blocks of so many bytes can be freed by `now`.
    pub(crate) fn has_due_bytes(&self, now: Timestamp, bytes: u64) -> bool {
        self.directory.read().has_due_bytes(now, bytes)
    }

    /// The rows to drop by `now`: blocks in the order in which they were due, of at most `max`
    /// bytes, and rows of `forgotten`.
    fn due(&self, now: Timestamp, max: u64) -> Due {
        let blocks = self.directory.read().due(now, max);
        let forgotten = self.forgotten.lock().over(now);
        Due { blocks, forgotten }
    }

    /// Until when the rows for a batch's forgotten keys are needed: no shorter than the rows that
    /// they replace.
    fn forgotten_until(&self, batch: &Batch) -> Vec<(Digest, Timestamp)> {
        let rows = self.forgotten.lock();
        let earlier = |digest: &Digest| rows.get(*digest).map(|row| row.until).unwrap_or_default();
        batch.forgotten.iter().map(|(digest, until)| (*digest, (*until).max(earlier(digest)))).collect()
    }

    /// Closes and opens the database. After an I/O error redb refuses all writes. After a full
    /// disk or a failed read, which lose nothing, this makes it take them again.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        self.access.reopen(|database| self.check_current(database)).map(drop)
    }

    /// Live bytes of the file; `None` if an application has tables in it, which are not counted.
    pub(crate) fn live_bytes(&self) -> Option<u64> {
        let is_shared = self.is_shared.load(Ordering::Relaxed);
        (!is_shared).then(|| {
            let Tallies { index: _, claims, forgotten, scopes } = self.meta().tallies;
            let rows = [claims, forgotten, scopes].iter().map(Tally::file_bytes).sum::<u64>();
            self.directory.read().file_bytes().saturating_add(rows)
        })
    }

    /// Gives free space in the file back to the disk, unless a caller reads tables; returns
    /// whether it did. Reads wait meanwhile. The next commit must follow at once.
    pub(crate) fn compact(&self) -> Result<bool, StoreError> {
        self.access.compact()
    }

    /// Lets no reader of tables in any more: the first step of closing.
    pub(crate) fn refuse_table_readers(&self) {
        self.access.refuse_long_reads();
    }

    /// Lets no reader of tables in any more, and waits for the running ones. Their closures
    /// decide how long that takes.
    pub(crate) fn await_table_readers(&self) {
        self.access.await_long_reads();
    }

    /// Closes the database. Reads are refused from now on.
    pub(crate) fn close(&self) -> Result<(), Failure> {
        self.access.close()
    }
}

fn open_row<'a, T: bincode::BorrowDecode<'a, ()>>(
    checksummer: &Checksummer,
    table: &TalliedTable<u128>,
    digest: Digest,
    row: &'a [u8],
) -> Result<T, BackendError> {
    checksummer
        .open(table.name(), &digest.halves(), row)
        .and_then(codec::decode)
        .map_err(|bad| BackendError::row(table.name(), digest, bad))
}

#[cfg(test)]
#[cfg(all(feature = "sim", not(any(idemkv_loom, idemkv_shuttle))))]
mod tests;
