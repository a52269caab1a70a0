//! `StorageBackend`: redb's access to the store's file.

use std::io;

use super::failed_reads::FailedReads;
use crate::disk::DiskFile;
use crate::sync::{Arc, Ordering, UnseenBool, UnseenMutex};

/// The failed operations on the file, even if redb, or its caller, does not report them.
#[derive(Debug, Default)]
pub(super) struct Faults {
    sync_failed: UnseenBool,
    /// The file could not be shortened. redb does that after a commit is durable, and then calls
    /// the commit failed.
    stayed_long: UnseenBool,
    /// Any error: redb refuses all operations until it is opened again.
    has_stopped: UnseenBool,
    /// A failed write: redb takes no more writes until it is opened again. Leaf lock.
    write_failed: UnseenMutex<Option<io::ErrorKind>>,
    /// A write of the header was tried, so a commit may be in the file. Otherwise it is not,
    /// because only the header leads to its pages.
    may_have_committed: UnseenBool,
    failed_reads: Arc<FailedReads>,
}

impl Faults {
    /// The faults of a view: only its failed reads matter to others.
    pub(super) fn of_view(&self) -> Arc<Self> {
        Arc::new(Self { failed_reads: Arc::clone(&self.failed_reads), ..Self::default() })
    }

    pub(super) fn failed_reads(&self) -> &FailedReads {
        &self.failed_reads
    }

    /// A commit is about to be made.
    pub(super) fn before_commit(&self) {
        self.may_have_committed.store(false, Ordering::Release);
    }

    /// Whether the last commit, which redb called failed, may be in the file.
    pub(super) fn may_have_committed(&self) -> bool {
        self.may_have_committed.load(Ordering::Acquire)
    }

    /// Whether an operation other than a read failed.
    pub(super) fn has_written_badly(&self) -> bool {
        self.sync_failed() || self.stayed_long() || self.write_failed().is_some()
    }

    pub(super) fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    pub(super) fn stayed_long(&self) -> bool {
        self.stayed_long.load(Ordering::Acquire)
    }

    pub(super) fn write_failed(&self) -> Option<io::ErrorKind> {
        *self.write_failed.lock()
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.has_stopped.load(Ordering::Acquire)
    }

    /// The file is opened again. A failed sync stays recorded, because its outcome is unknown.
    pub(super) fn forget(&self) {
        *self.write_failed.lock() = None;
        self.stayed_long.store(false, Ordering::Release);
        self.has_stopped.store(false, Ordering::Release);
    }

    fn read_failed(&self, error: &io::Error) {
        self.failed_reads.note(error);
        self.stop();
    }

    fn stop(&self) {
        self.has_stopped.store(true, Ordering::Release);
    }

    fn note(&self, error: &io::Error) {
        *self.write_failed.lock() = Some(error.kind());
        self.stop();
    }
}

/// Hands redb's reads and writes to a [`DiskFile`]. The file's lock is held by the handle itself,
/// so redb's own lock methods stay at their default.
#[derive(Debug)]
pub(super) struct Backend {
    file: Arc<dyn DiskFile>,
    faults: Arc<Faults>,
}

impl Backend {
    pub(super) fn new(file: &Arc<dyn DiskFile>, faults: &Arc<Faults>) -> Self {
        Self { file: Arc::clone(file), faults: Arc::clone(faults) }
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len().inspect_err(|error| self.faults.read_failed(error))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out).inspect_err(|error| self.faults.read_failed(error))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let shrinks = self.len()? > len;
        self.file.set_len(len).inspect_err(|error| {
            self.faults.note(error);
            self.faults.stayed_long.fetch_or(shrinks, Ordering::AcqRel);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync().inspect_err(|_| self.faults.sync_failed.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0 {
            self.faults.may_have_committed.store(true, Ordering::Release);
        }
        self.file.write_at(offset, data).inspect_err(|error| self.faults.note(error))
    }
}
