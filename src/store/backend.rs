//! redb's view of one of our files.

use std::io;

use crate::disk::DiskFile;
use crate::sync::{Arc, AtomicBool, Ordering};

/// Hands redb's reads and writes to a [`DiskFile`]. The file's lock is held by the handle itself, so redb's own
/// lock methods stay at their default.
#[derive(Debug)]
pub(super) struct Backend {
    file: Arc<dyn DiskFile>,
    sync_failed: Arc<AtomicBool>,
}

impl Backend {
    pub(super) fn new(file: &Arc<dyn DiskFile>, sync_failed: &Arc<AtomicBool>) -> Self {
        Self { file: Arc::clone(file), sync_failed: Arc::clone(sync_failed) }
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync().inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }
}
