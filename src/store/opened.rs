//! The database while it is open, with a transaction that reads blocks.

use std::ops::Deref;

use redb::{Database, ReadOnlyTable, ReadableDatabase};

use super::backend_error::{BackendError, catch_backend_panic};
use super::layout::BLOCKS;
use super::owned::Owned;
use crate::sync::{Arc, Mutex};

pub(super) type Blocks = Owned<ReadOnlyTable<(u64, u64), &'static [u8]>>;

/// A database that is open, with a transaction that reads its blocks as the last commit left them.
///
/// That one is there for speed: a replay need not begin its own, and redb frees what a commit no
/// longer needs with the next one. Where nobody reads, it does so at once, in a commit of its own
/// that stays in memory; and until that is written, each read of a page which redb does not have
/// in memory asks all parts of its cache for something to write (2 of 8 µs).
#[derive(Debug)]
pub(super) struct Opened {
    /// Changed by commits alone, so that it is never older than the directory of blocks. Leaf
    /// lock, held to look only.
    pub(super) blocks: Mutex<Option<Arc<Blocks>>>,
    /// After the blocks, so dropped after them.
    pub(super) database: Owned<Database>,
}

impl Deref for Opened {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl From<Database> for Opened {
    fn from(database: Database) -> Self {
        Self { blocks: Mutex::default(), database: Owned::new(database) }
    }
}

impl Opened {
    /// The blocks as the last commit left them, or as they are now.
    pub(super) fn blocks(&self) -> Result<Arc<Blocks>, BackendError> {
        let blocks = self.blocks.lock().clone();
        blocks.map_or_else(|| self.blocks_now(), Ok)
    }

    /// Sees to it that somebody reads while a commit is made.
    pub(super) fn hold(&self) -> Result<(), BackendError> {
        let is_held = self.blocks.lock().is_some();
        if !is_held {
            let blocks = self.blocks_now()?;
            self.put(Some(blocks));
        }
        Ok(())
    }

    /// Reads what was committed just now from now on. Where that fails, the next reader finds out
    /// why.
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

    /// Without the transaction that reads, which must not be there when the database is compacted
    /// or closed.
    pub(super) fn into_database(self) -> Owned<Database> {
        drop(self.blocks);
        self.database
    }
}
