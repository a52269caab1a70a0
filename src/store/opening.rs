//! Opens a file: checks that it is an idemkv file, and reads only the meta row.

use std::io;
use std::path::Path;

use redb::{Database, ReadableDatabase};

use super::access::{Access, open_database};
use super::backend_error::{BackendError, catch_backend_panic};
use super::layout::META;
use super::meta::Meta;
use super::owned::Owned;
use super::unread::Unread;
pub(super) use super::{META_ROW, Store};
use crate::codec::Checksummer;
use crate::disk::{CopyOnWriteFile, Disk, DiskFile};
use crate::error::OpenError;
use crate::fork::Origin;
use crate::key::Secret;
use crate::sync::{Arc, AtomicBool, Mutex, RwLock};

/// How a redb file starts.
const REDB_MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";

impl Store {
    /// Opens an existing file; nothing of its content is read but the meta row.
    ///
    /// From the file's length, `cache_bytes` gives the size of redb's page cache, and `verify`
    /// decides whether to check every page.
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
            unread: Unread::default(),
            unreadable: Mutex::default(),
            forgotten: Mutex::default(),
            origin: Origin::here(),
            meta: Mutex::new(meta),
        })
    }

    /// A row that did not fit must be gone completely, because block numbers are used again.
    pub(super) fn check_current(&self, database: &Database) -> Result<(), BackendError> {
        let is_current = read_meta_row(database)?.is_some_and(|row| row == self.meta().encode());
        if is_current {
            Ok(())
        } else {
            Err(BackendError::last_word("a commit that failed is there after all"))
        }
    }
}

/// Refuses a file that doesn't start like a redb file, and an empty file, which redb would
/// accept.
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

/// Refuses a database of another program, or of a newer version. Uses a copy-on-write view,
/// because redb writes to every file that it opens. Also verifies every page here, before any
/// code relies on one.
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
        drop(database.into_database().0.into_inner());
        Ok(())
    })
    .map_err(|trouble| trouble.into_open_error(path))?;
    meta.map(drop)
}

pub(super) fn read_meta(path: &Path, database: &Database) -> Result<Meta, OpenError> {
    match read_meta_row(database).map_err(|trouble| trouble.into_open_error(path))? {
        Some(row) => Meta::decode(path, &row),
        None => Err(OpenError::NotIdemkv(path.to_owned())),
    }
}

pub(super) fn read_meta_row(database: &Database) -> Result<Option<Vec<u8>>, BackendError> {
    catch_backend_panic(|| {
        let transaction = Owned::new(database.begin_read()?);
        let table = match transaction.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        Ok(table.get(META_ROW)?.map(|row| row.value().to_vec()))
    })
}
