//! `StorageBackend`: redb's access to the store's file.

use std::error::Error;
use std::{fmt, io};

use super::failed_reads::FailedReads;
use crate::disk::DiskFile;
use crate::sync::{Arc, Ordering, UnseenBool, UnseenMutex, UnseenRwLock};

/// What a database says of every operation after the one that failed.
pub(super) const STOPPED: &str = "an earlier I/O error stopped the store";

/// What is known of the file for good, however often it is opened.
#[derive(Debug, Default)]
pub(super) struct FileFaults {
    sync_failed: UnseenBool,
    failed_reads: FailedReads,
    /// Leaf lock.
    header: UnseenMutex<Header>,
    /// Shared by the changes of the file that have begun. `header` and `write_failed` are taken
    /// under it.
    changes: UnseenRwLock<()>,
}

/// The start of the file, which says what is committed.
#[derive(Debug, Default)]
struct Header {
    /// `None` if it is not known.
    durable: Option<Vec<u8>>,
    /// Written after the last sync.
    written: Option<Written>,
}

#[derive(Debug)]
enum Written {
    Bytes(Vec<u8>),
    /// The write failed.
    Unknown,
}

impl FileFaults {
    /// What is on disk is unknown from then on.
    pub(super) fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    pub(super) fn failed_reads(&self) -> &FailedReads {
        &self.failed_reads
    }

    /// Waits for the changes that have begun. A database that has stopped begins no others, so its
    /// pages reach the file before those of the next one.
    pub(super) fn await_changes(&self) {
        drop(self.changes.write());
    }

    /// Whether a thread waits until no change is under way.
    #[cfg(test)]
    pub(super) fn are_changes_awaited(&self) -> bool {
        self.changes.try_read().is_none()
    }

    /// The header that a power cut would leave, if the file has another one by now.
    pub(super) fn durable_header(&self) -> Option<Vec<u8>> {
        let header = self.header.lock();
        header.written.as_ref().and(header.durable.clone())
    }

    /// Syncs the file, unless an earlier sync failed.
    pub(super) fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        if self.sync_failed() {
            return Err(io::Error::other(Refused));
        }
        file.sync().inspect_err(|_| self.sync_failed.store(true, Ordering::Release))?;
        self.synced(|| Ok(()))
    }

    /// Notes a sync, in one step with `check`.
    fn synced(&self, check: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut header = self.header.lock();
        match header.written.take() {
            Some(Written::Bytes(bytes)) => header.durable = Some(bytes),
            Some(Written::Unknown) => header.durable = None,
            None => {}
        }
        check()
    }
}

/// Inside an error of this file: no answer of the disk, but that of an earlier operation.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STOPPED)
    }
}

impl Error for Refused {}

/// Whether the operation was not tried, because an earlier one had failed.
pub(super) fn is_refused(error: &io::Error) -> bool {
    matches!(error.get_ref(), Some(inner) if inner.is::<Refused>())
}

/// The failed operations of one opened database, even if redb, or its caller, does not report
/// them.
///
/// A slow read can fail when the file has long been opened again. It says nothing of the next
/// database.
#[derive(Debug, Default)]
pub(super) struct Faults {
    file: Arc<FileFaults>,
    /// The file could not be shortened. redb does that after a commit is durable, and then calls
    /// the commit failed.
    stayed_long: UnseenBool,
    /// Any error: redb refuses all operations until it is opened again.
    has_stopped: UnseenBool,
    /// A failed write: redb takes no more writes until it is opened again. Leaf lock.
    write_failed: UnseenMutex<Option<io::ErrorKind>>,
    /// The file was synced since the last commit began: its pages are durable.
    has_synced: UnseenBool,
    /// A write of the header was tried after that, so a commit may be in the file. Otherwise it is
    /// not, because only the second header of a commit leads to its pages.
    may_have_committed: UnseenBool,
    /// It is a view's, whose writes stay in memory.
    is_view: bool,
}

impl Faults {
    /// The faults of a database that is about to be opened.
    pub(super) fn of(file: &Arc<FileFaults>) -> Arc<Self> {
        Arc::new(Self { file: Arc::clone(file), ..Self::default() })
    }

    /// The faults of a view that is about to be opened.
    pub(super) fn of_view(file: &Arc<FileFaults>) -> Arc<Self> {
        Arc::new(Self { file: Arc::clone(file), is_view: true, ..Self::default() })
    }

    /// A commit is about to be made.
    pub(super) fn before_commit(&self) {
        self.has_synced.store(false, Ordering::Release);
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
        self.file.sync_failed()
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

    /// Refuses to write once an operation failed.
    ///
    /// redb does so itself, but a moment later. In that moment a reader may open a view, and a
    /// commit that still succeeded would be missing in it.
    fn check(&self) -> io::Result<()> {
        if self.has_stopped() { Err(io::Error::other(Refused)) } else { Ok(()) }
    }

    /// Begins a change of the file, unless the database has stopped. redb also writes as it reads,
    /// to make space in its cache. A view changes nothing, and no opening waits for it.
    fn begin_change(&self) -> io::Result<impl Sized + use<'_>> {
        // Not behind a thread that waits for others' changes.
        self.check()?;
        let begun = (!self.is_view).then(|| self.file.changes.read());
        self.check()?;
        Ok(begun)
    }

    fn read_failed(&self, error: &io::Error) {
        // A view that is left behind may read beyond the end of a file that was shortened since.
        if !(self.is_view && error.kind() == io::ErrorKind::UnexpectedEof) {
            self.file.failed_reads.note(error);
        }
        self.stop();
    }

    /// Refuses all writes, so that the next writer opens the file again. From now on not even the
    /// close of this database writes.
    pub(super) fn stop(&self) {
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
        let _begun = self.faults.begin_change()?;
        let shrinks = self.len()? > len;
        self.file.set_len(len).inspect_err(|error| {
            self.faults.note(error);
            self.faults.stayed_long.fetch_or(shrinks, Ordering::AcqRel);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let _begun = self.faults.begin_change()?;
        if self.faults.is_view {
            return self.file.sync();
        }
        self.file.sync().inspect_err(|_| {
            self.faults.file.sync_failed.store(true, Ordering::Release);
            self.faults.stop();
        })?;
        self.faults.has_synced.store(true, Ordering::Release);
        // Checked once more: a view that was opened meanwhile lacks this commit, so the commit must
        // not succeed beside it.
        self.faults.file.synced(|| self.faults.check())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let _begun = self.faults.begin_change()?;
        if offset == 0 && !self.faults.is_view {
            if self.faults.has_synced.load(Ordering::Acquire) {
                self.faults.may_have_committed.store(true, Ordering::Release);
            }
            // Before it is in the file: a view must not take it for durable.
            self.faults.file.header.lock().written = Some(Written::Bytes(data.to_vec()));
        }
        self.file.write_at(offset, data).inspect_err(|error| {
            if offset == 0 && !self.faults.is_view {
                self.faults.file.header.lock().written = Some(Written::Unknown);
            }
            self.faults.note(error);
        })
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::path::Path;

    use redb::StorageBackend;

    use super::super::backend_error::BackendError;
    use super::*;
    use crate::disk::Disk;
    use crate::disk::sim::SimDisk;

    #[test]
    fn nothing_is_written_after_a_failed_read() {
        let disk = SimDisk::new();
        disk.put(Path::new("f"), &[0; 100]).unwrap();
        let (file, faults) = (disk.open(Path::new("f")).unwrap(), Faults::of(&Arc::default()));
        let backend = Backend::new(&file, &faults);
        backend.write(0, &[1]).unwrap();
        backend.sync_data().unwrap();
        disk.fail_read(disk.reads());
        assert!(backend.read(0, &mut [0]).is_err());
        let operations = disk.operations();
        let refused = [backend.write(0, &[2]), backend.set_len(200), backend.sync_data()];
        assert!(refused.iter().all(Result::is_err), "{refused:?}");
        assert_eq!(disk.operations(), operations);
        assert!(!faults.has_written_badly(), "that is no failed write");
        for refused in refused {
            let trouble = BackendError::from(redb::Error::Io(refused.unwrap_err()));
            assert!(trouble.is_io() && !trouble.is_answer_of_disk(), "the disk was not asked");
        }
    }

    /// A sync that failed is not tried again, also where a commit in question is looked for.
    #[test]
    fn a_file_whose_sync_failed_is_not_synced_again() {
        let (disk, shared) = (SimDisk::new(), Arc::<FileFaults>::default());
        disk.put(Path::new("f"), &[0; 100]).unwrap();
        let file = disk.open(Path::new("f")).unwrap();
        shared.sync(&*file).unwrap();
        disk.fail_syncs(Some("f"));
        assert!(shared.sync(&*file).is_err() && shared.sync_failed());
        disk.fail_syncs(None);
        let operations = disk.operations();
        assert!(shared.sync(&*file).is_err());
        assert_eq!(disk.operations(), operations, "the disk was not asked");
    }

    #[test]
    fn a_database_that_stops_says_nothing_of_the_next_but_a_failed_sync_does() {
        let (disk, shared) = (SimDisk::new(), Arc::default());
        disk.put(Path::new("f"), &[0; 100]).unwrap();
        let file = disk.open(Path::new("f")).unwrap();
        let [old, new] = [Faults::of(&shared), Faults::of(&shared)];
        disk.fail_read(disk.reads());
        assert!(Backend::new(&file, &old).read(0, &mut [0]).is_err());
        assert!(old.has_stopped() && !new.has_stopped());
        assert_eq!(shared.failed_reads().count(), 1);
        disk.fail_syncs(Some("f"));
        assert!(Backend::new(&file, &new).sync_data().is_err());
        assert!(new.has_stopped());
        assert!(old.sync_failed() && Faults::of(&shared).sync_failed());
    }
}
