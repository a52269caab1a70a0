//! An application's own tables, in the engine's file.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{
    Key, MultimapTable, MultimapTableDefinition, ReadTransaction, ReadableTable, Table, TableDefinition,
    TableHandle, Value, WriteTransaction,
};

use super::backend_error::said;
use crate::foreign::discard;

/// The start of the names of the engine's tables.
pub(super) const RESERVED: &str = "idemkv.";

/// The application's own tables, to write in, inside
/// [`Claim::complete_in`](crate::Claim::complete_in).
pub struct Tables<'t>(pub(super) &'t WriteTransaction);

impl<'t> Tables<'t> {
    /// Opens a table, or makes it.
    ///
    /// # Errors
    ///
    /// When its name starts with `idemkv.`, or when redb refuses: another type, a table that is
    /// already open, an I/O error, a damaged page. The returned table is redb's own: reading a
    /// damaged page through it can panic. Such a panic counts as one of the closure.
    pub fn open_table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<Table<'t, K, V>, TableError> {
        check(definition.name())?;
        opened(|| self.0.open_table(definition))
    }

    /// Opens a table with several values a key, or makes it.
    ///
    /// # Errors
    ///
    /// As for [`open_table`](Self::open_table).
    pub fn open_multimap_table<K: Key + 'static, V: Key + 'static>(
        &self,
        definition: MultimapTableDefinition<'_, K, V>,
    ) -> Result<MultimapTable<'t, K, V>, TableError> {
        check(redb::MultimapTableHandle::name(&definition))?;
        opened(|| self.0.open_multimap_table(definition))
    }

    /// Deletes a table. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// As for [`open_table`](Self::open_table).
    pub fn delete_table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<bool, TableError> {
        check(definition.name())?;
        opened(|| self.0.delete_table(definition))
    }
}

impl fmt::Debug for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

/// The application's own tables as they were at one moment, to read, inside
/// [`Engine::read_tables`](crate::Engine::read_tables).
pub struct ReadTables<'t>(pub(super) &'t ReadTransaction);

impl<'t> ReadTables<'t> {
    /// Opens a table.
    ///
    /// # Errors
    ///
    /// When its name starts with `idemkv.`, or when redb refuses: no such table, another type, an
    /// I/O error.
    pub fn open_table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<impl ReadableTable<K, V> + use<'t, K, V>, TableError> {
        check(definition.name())?;
        opened(|| self.0.open_table(definition))
    }

    /// Opens a table with several values a key.
    ///
    /// # Errors
    ///
    /// As for [`open_table`](Self::open_table).
    pub fn open_multimap_table<K: Key + 'static, V: Key + 'static>(
        &self,
        definition: MultimapTableDefinition<'_, K, V>,
    ) -> Result<impl redb::ReadableMultimapTable<K, V> + use<'t, K, V>, TableError> {
        check(redb::MultimapTableHandle::name(&definition))?;
        opened(|| self.0.open_multimap_table(definition))
    }
}

impl fmt::Debug for ReadTables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadTables").finish_non_exhaustive()
    }
}

fn check(name: &str) -> Result<(), TableError> {
    if name.starts_with(RESERVED) {
        return Err(TableError::Reserved(name.to_owned()));
    }
    Ok(())
}

/// Opens a table. Turns a panic inside redb, which damaged pages can cause, into an error.
pub(super) fn opened<T>(open: impl FnOnce() -> Result<T, redb::TableError>) -> Result<T, TableError> {
    let opened = catch_unwind(AssertUnwindSafe(open));
    let damaged = |panic: Box<dyn Any + Send>| {
        let what = said(&*panic).to_owned();
        discard(panic);
        redb::TableError::Storage(redb::StorageError::Corrupted(what))
    };
    opened.unwrap_or_else(|panic| Err(damaged(panic))).map_err(TableError::Redb)
}

/// Why a table could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum TableError {
    /// The name starts with `idemkv.`, like those of the engine's tables.
    Reserved(String),
    /// redb refused.
    Redb(redb::TableError),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved(name) => {
                write!(
                    f,
                    "the table `{name}` is the engine's own; choose a name that does not start with `{RESERVED}`"
                )
            }
            Self::Redb(error) => error.fmt(f),
        }
    }
}

impl Error for TableError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Reserved(_) => None,
            Self::Redb(error) => Some(error),
        }
    }
}

impl From<redb::TableError> for TableError {
    fn from(error: redb::TableError) -> Self {
        Self::Redb(error)
    }
}
