//! `Opened`: the open database, with a transaction that reads blocks.

use std::ops::Deref;

use redb::{Database, ReadOnlyTable, ReadableDatabase};

use super::backend::Faults;
use super::backend_error::{BackendError, catch_backend_panic};
use super::layout::BLOCKS;
use super::owned::Owned;
use crate::sync::{Arc, Mutex};

pub(super) type Blocks = Owned<ReadOnlyTable<(u64, u64), &'static [u8]>>;

/// An open database, with a transaction that reads its blocks as the last commit left them.
///
/// The transaction is there for speed: a replay need not begin its own, and redb defers freeing a
/// commit's unneeded pages to the next commit. Without a reader, redb frees them at once, in a
/// separate commit that stays in memory. Until that is written, each read of an uncached page
/// searches all parts of redb's cache for something to write (2 of 8 µs).
#[derive(Debug)]
pub(super) struct Opened {
    /// Changed only by commits, so that it is never older than the directory of blocks. Leaf
    /// lock, held only to look.
    pub(super) blocks: Mutex<Option<Arc<Blocks>>>,
    /// After the blocks, so dropped after them.
    pub(super) database: Owned<Database>,
    pub(super) faults: Arc<Faults>,
}

impl Deref for Opened {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl Opened {
    pub(super) fn new(database: Owned<Database>, faults: Arc<Faults>) -> Self {
        Self { blocks: Mutex::default(), database, faults }
    }

    /// The blocks as the last commit left them, or as they are now.
    pub(super) fn blocks(&self) -> Result<Arc<Blocks>, BackendError> {
        let blocks = self.blocks.lock().clone();
        blocks.map_or_else(|| self.blocks_now(), Ok)
    }

    /// Makes sure that there is a reader while a commit is made.
    pub(super) fn hold(&self) -> Result<(), BackendError> {
        let is_held = self.blocks.lock().is_some();
        if !is_held {
            let blocks = self.blocks_now()?;
            self.put(Some(blocks));
        }
        Ok(())
    }

    /// Renews the transaction, so that it reads the last commit. If that fails, the next reader
    /// gets the error.
    pub(super) fn renew(&self) {
        self.put(catch_backend_panic(|| self.blocks_now()).ok());
    }

    fn put(&self, blocks: Option<Arc<Blocks>>) {
        let before = std::mem::replace(&mut *self.blocks.lock(), blocks);
        // Without the lock: redb may write now.
        drop(before);
    }

    fn blocks_now(&self) -> Result<Arc<Blocks>, BackendError> {
        let transaction = Owned::new(self.database.begin_read()?);
        Ok(Arc::new(Owned::new(transaction.open_table(BLOCKS)?)))
    }

    /// Whether an operation failed: redb refuses all others until it is opened again.
    pub(super) fn has_stopped(&self) -> bool {
        self.faults.has_stopped()
    }

    /// The database without the reading transaction, which must not exist when the database is
    /// compacted or closed.
    pub(super) fn into_database(self) -> (Owned<Database>, Arc<Faults>) {
        drop(self.blocks);
        (self.database, self.faults)
    }
}
