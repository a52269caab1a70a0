//! Creates a new file, first under a temporary name.

use std::io;
use std::path::Path;

use super::backend::Backend;
use super::backend_error::catch_backend_panic;
use super::layout::{BLOCKS, CLAIMS, FORGOTTEN, INDEX, META, SCOPES};
use super::meta::Meta;
use super::owned::Owned;
use super::transaction::durable;
pub(super) use super::{META_ROW, Store};
use crate::disk::{Disk, Kind, unfinished};
use crate::error::OpenError;
use crate::sync::Arc;

/// What a creation finds at the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// An empty file, and beside it an unfinished one: without hard links, a kill can leave that.
    Reservation,
}

impl Store {
    /// Makes a new file at `path`, if nothing is there, or only the reservation of a killed
    /// creation.
    ///
    /// The file is first made under a temporary name, so that a crash leaves no file or a
    /// complete one. `Ok(false)` if another process made it meanwhile.
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
            let transaction = durable(database.begin_write()?)?;
            transaction.open_table(META)?.insert(META_ROW, meta.encode().as_slice())?;
            transaction.open_table(BLOCKS)?;
            transaction.open_table(INDEX.definition)?;
            transaction.open_table(CLAIMS.definition)?;
            transaction.open_table(FORGOTTEN.definition)?;
            transaction.open_table(SCOPES.definition)?;
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
        // Dropping the handle would do, but for a child process that is being started at this
        // moment and has a copy of it.
        file.unlock().map_err(|error| OpenError::from_io(path, "unlocking", error))?;
        match published {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(OpenError::from_io(path, "naming", error)),
        }
    }
}

/// Whether a file is only the reservation of its name, by a creation that was killed or is
/// running.
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

/// Removes a reservation, if it still is one; returns whether it was.
fn is_freed(disk: &dyn Disk, path: &Path) -> Result<bool, OpenError> {
    let file = disk.open(path).map_err(|error| OpenError::from_io(path, "opening", error))?;
    let is_empty = file.len().map_err(|error| OpenError::from_io(path, "measuring", error))? == 0;
    if is_empty {
        disk.discard(path).map_err(|error| OpenError::from_io(path, "removing", error))?;
    }
    Ok(is_empty)
}

/// Removes the file of a failed creation, before its lock is released. If that fails too, the
/// next creation removes the file.
fn discard(disk: &dyn Disk, temporary: &Path) {
    drop(disk.discard(temporary));
}
