//! The database: for its readers, for its writer, and for a thread that needs it alone.
//!
//! After any disk error, even one failed read, redb stops for good. Durable records are still
//! replayed: a reader that finds the database stopped opens it again, in a view that writes
//! nothing to the file. The next writer opens it for writing, if that is safe.

use std::io;
use std::path::{Path, PathBuf};

use redb::Database;

use super::backend::{Backend, Faults, FileFaults};
use super::backend_error::{BackendError, catch_backend_panic};
use super::failed_reads::FailedReads;
use super::long_reads::LongReads;
use super::opened::Opened;
use super::owned::Owned;
use super::refusal::StoreError;
use super::users::{InUse, Users};
use crate::disk::{CopyOnWriteFile, DiskFile, Tracked, Tracking};
use crate::error::{IoFailure, ReadError};
use crate::fork;
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering};

mod closing;
mod compacting;

/// How often a read is tried if the disk fails it.
pub(super) const READ_TRIES: u32 = 3;
/// How often a read is tried if it finds the database stopped by others.
const STOPPED_TRIES: u32 = 50;

/// Where redb gets its bytes from.
#[derive(Debug)]
pub(super) struct Access {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// The same, for a copy that is made while it is in use.
    tracked: Arc<Tracked>,
    pub(super) faults: Arc<FileFaults>,
    cache_bytes: usize,
    /// Leaf lock, held only to look.
    state: Mutex<State>,
    /// The database is back.
    returned: Condvar,
    pub(super) users: Users,
    /// Readers of tables, and the thread that is alone with the database. Before all other locks
    /// of the store.
    long_reads: LongReads,
    /// The last commit is not durable yet: closing the database makes it so.
    is_unsynced: AtomicBool,
    /// No view is opened for readers any more.
    is_closing: AtomicBool,
    /// Readers that wait until the database is back.
    #[cfg(test)]
    pub(super) waiting: crate::sync::UnseenU64,
}

#[derive(Debug)]
enum State {
    /// Open for all. It may have stopped.
    Open(Arc<Opened>),
    /// A view for readers: it keeps writes in memory.
    View(Arc<Opened>),
    /// One thread needs it alone; it comes back.
    Away,
    /// It could not be opened again. The next caller tries once more. The callers that waited while
    /// a view was opened get its error.
    Lost(Option<ReadError>),
    Closed,
}

impl Access {
    pub(super) fn open(
        path: &Path,
        file: Arc<dyn DiskFile>,
        cache_bytes: usize,
    ) -> Result<Self, BackendError> {
        let faults = Arc::<FileFaults>::default();
        let tracked = Arc::new(Tracked::new(file));
        let file: Arc<dyn DiskFile> = Arc::<Tracked>::clone(&tracked);
        let database = open_database(&file, &Faults::of(&faults), cache_bytes, false)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            tracked,
            faults,
            cache_bytes,
            state: Mutex::new(State::Open(Arc::new(database))),
            returned: Condvar::new(),
            users: Users::default(),
            long_reads: LongReads::default(),
            is_unsynced: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            #[cfg(test)]
            waiting: crate::sync::UnseenU64::default(),
        })
    }

    pub(super) fn file(&self) -> &dyn DiskFile {
        &*self.file
    }

    /// Marks writes from now on, for a copy; `None` if a copy is already being made.
    pub(super) fn track(&self) -> Option<Tracking> {
        self.tracked.track()
    }

    /// The meaning of an error for the writer of a database.
    pub(super) fn failed(&self, trouble: BackendError, faults: &Faults) -> StoreError {
        StoreError::of(trouble, faults, &self.path)
    }

    /// The store's own decision.
    fn refused(&self, why: &'static str) -> StoreError {
        StoreError::Failed(BackendError::last_word(why).into_failure(&self.path))
    }

    /// Failed reads of all callers.
    pub(super) fn failed_reads(&self) -> &FailedReads {
        self.faults.failed_reads()
    }
}

// Reading.
impl Access {
    /// Reads. If the database has stopped, reads again in a view.
    pub(super) fn read<T>(&self, read: impl Fn(&Opened) -> Result<T, BackendError>) -> Result<T, ReadError> {
        self.try_read(READ_TRIES, read)?.map_err(|trouble| trouble.into_read_error(&self.path))
    }

    /// The same, up to so often if the disk fails it, with the trouble of the read itself. The
    /// outer error: no view could be opened.
    pub(super) fn try_read<T>(
        &self,
        tries_max: u32,
        read: impl Fn(&Opened) -> Result<T, BackendError>,
    ) -> Result<Result<T, BackendError>, ReadError> {
        let (mut failed, mut stopped) = (0, 0);
        loop {
            let database = self.database()?;
            let trouble = match catch_backend_panic(|| read(&database)) {
                Err(trouble) => trouble,
                done => return Ok(done),
            };
            if trouble.is_io() {
                self.leave(&database);
            } else if self.is_in_use(&database) {
                return Ok(Err(trouble));
            }
            // The next one may have written where this one has its pages. Nor must it be the last
            // to know this one.
            drop(database);
            // Others may stop a view, too: their trouble is not this read's own.
            let (tries, tries_max) = if trouble.is_answer_of_disk() {
                (&mut failed, tries_max)
            } else {
                (&mut stopped, STOPPED_TRIES)
            };
            *tries += 1;
            if *tries == tries_max {
                return Ok(Err(trouble));
            }
        }
    }

    /// Reads for as long as `read` takes. `is_asker` says that the thread may have asked to have
    /// the database alone. Refused after [`refuse_long_reads`](Self::refuse_long_reads).
    pub(super) fn read_long<T, R>(
        &self,
        is_asker: bool,
        begin: impl Fn(&Opened) -> Result<T, BackendError>,
        read: impl FnOnce(T) -> R,
    ) -> Result<R, ReadError> {
        let generation = fork::generation();
        let long = self.long_reads.enter(is_asker).ok_or(ReadError::Closed)?;
        let begin = |database: &Opened| {
            // It does not always say so itself: what it has in memory it gives all the same, and
            // stops at the first page it has not.
            if database.has_stopped() {
                return Err(BackendError::stopped());
            }
            begin(database)
        };
        let result = self.read(begin).map(read);
        if generation != fork::generation() {
            std::mem::forget(long);
        }
        result
    }

    /// Whether later calls get this database, too.
    fn is_in_use(&self, database: &Arc<Opened>) -> bool {
        match &*self.state.lock() {
            State::Open(current) | State::View(current) => Arc::ptr_eq(current, database),
            State::Away | State::Lost(_) | State::Closed => false,
        }
    }

    /// Whether the database has the expected state. A view may be newer, if a commit failed in
    /// its last step and the next opening has synced it.
    pub(super) fn is_current(&self) -> bool {
        matches!(&*self.state.lock(), State::Open(database) if !database.has_stopped())
    }

    /// The database, or a view.
    pub(super) fn database(&self) -> Result<InUse<'_>, ReadError> {
        let mut has_waited = false;
        let mut state = self.state.lock();
        loop {
            match &*state {
                State::Open(database) | State::View(database) => {
                    return Ok(self.users.enter(Arc::clone(database)));
                }
                State::Closed => return Err(ReadError::Closed),
                State::Away => {
                    #[cfg(test)]
                    self.waiting.fetch_add(1, Ordering::SeqCst);
                    self.returned.wait(&mut state);
                    has_waited = true;
                }
                // An opening may take minutes to fail. Had each caller its own, one after the
                // other, the last would wait for hours, and a close behind them.
                State::Lost(Some(error)) if has_waited => return Err(error.clone()),
                State::Lost(_) if self.is_closing.load(Ordering::Relaxed) => return Err(ReadError::Closed),
                State::Lost(_) => break,
            }
        }
        *state = State::Away;
        drop(state);
        self.open_view()
    }

    /// Gives up a stopped database, unless that was done meanwhile.
    fn leave(&self, stopped: &Arc<Opened>) {
        let mut state = self.state.lock();
        if let State::Open(current) | State::View(current) = &*state
            && Arc::ptr_eq(current, stopped)
        {
            current.faults.stop();
            *state = State::Away;
            drop(state);
            // Where that fails, too, the next caller that needs it is told.
            drop(self.open_view());
        }
    }

    /// Opens a view, for a caller that has taken the database out and is its first user.
    fn open_view(&self) -> Result<InUse<'_>, ReadError> {
        let view = self.view().map(|view| self.users.enter(Arc::new(view)));
        let view = view.map_err(|trouble| trouble.into_read_error(&self.path));
        self.put(match &view {
            Ok(view) => State::View(Arc::clone(view)),
            Err(error) => State::Lost(Some(error.clone())),
        });
        view
    }

    /// A view of what is durable: a commit that is in its last sync, or whose last sync failed, is
    /// not in it.
    fn view(&self) -> Result<Opened, BackendError> {
        catch_backend_panic(|| {
            let view = CopyOnWriteFile::new(Arc::clone(&self.file))?;
            if let Some(header) = self.faults.durable_header() {
                view.write_at(0, &header)?;
            }
            let untouched: Arc<dyn DiskFile> = Arc::new(view);
            open_database(&untouched, &Faults::of_view(&self.faults), self.cache_bytes, false)
        })
    }
}

#[cfg(test)]
impl Access {
    /// Whether callers that waited would get the error of the last opening.
    pub(super) fn has_an_error_to_tell(&self) -> bool {
        matches!(&*self.state.lock(), State::Lost(Some(_)))
    }
}

// Writing, and having it alone: for one thread at a time.
impl Access {
    /// The database, for writing; one that a failed read has stopped is opened again.
    pub(super) fn writable(
        &self,
        check: impl FnOnce(&Database) -> Result<(), BackendError>,
    ) -> Result<Arc<Opened>, StoreError> {
        // Taken while looking: a view, which a reader may put in its place at any moment, must
        // never be written to.
        if let State::Open(database) = &*self.state.lock()
            && !database.has_stopped()
        {
            return Ok(Arc::clone(database));
        }
        self.reopen(check)
    }

    /// Opens the file again, so that it takes writes after a full disk or a failed read, which lose
    /// nothing.
    pub(super) fn reopen(
        &self,
        check: impl FnOnce(&Database) -> Result<(), BackendError>,
    ) -> Result<Arc<Opened>, StoreError> {
        if self.faults.sync_failed() {
            // What is on disk is unknown, and only the next opening of the engine may find out.
            return Err(self.refused("an earlier sync failed"));
        }
        let Some(_alone) = self.long_reads.ask_alone() else {
            // Not while somebody reads. There will be another try, and readers that come meanwhile
            // wait for it.
            let busy = io::Error::new(
                io::ErrorKind::ResourceBusy,
                "the file can't be opened again while tables are read",
            );
            return Err(StoreError::Later(IoFailure::new(&self.path, "opening", busy)));
        };
        // A reader may be in the middle of a write to this database or to one before, and its page
        // could replace a newer one. Other readers go on meanwhile.
        if let State::Open(database) = &*self.state.lock() {
            database.faults.stop();
        }
        self.faults.await_changes();
        self.leave_behind()?;
        let faults = Faults::of(&self.faults);
        let opened = open_database(&self.file, &faults, self.cache_bytes, false)
            .and_then(|database| catch_backend_panic(|| check(&database)).map(|()| database));
        match opened {
            Ok(database) => {
                let database = Arc::new(database);
                self.put(State::Open(Arc::clone(&database)));
                Ok(database)
            }
            Err(trouble) => Err(self.lose(trouble, &faults)),
        }
    }

    /// Makes what the file has durable, and opens it in a view, for a caller that asks what became
    /// of its commit. Readers of tables may go on.
    pub(super) fn look_again(
        &self,
        check: impl FnOnce(&Database) -> Result<(), BackendError>,
    ) -> Result<Arc<Opened>, StoreError> {
        self.leave_behind()?;
        let faults = Faults::of_view(&self.faults);
        let looked = catch_backend_panic(|| {
            self.faults.sync(self.file())?;
            let view = self.view()?;
            check(&view)?;
            Ok(view)
        });
        match looked {
            Ok(view) => {
                let view = Arc::new(view);
                self.put(State::View(Arc::clone(&view)));
                Ok(view)
            }
            Err(trouble) => Err(self.lose(trouble, &faults)),
        }
    }

    /// Takes the database out for good. Its readers may go on, however slow the disk is, because it
    /// writes nothing any more, not even as the last of them closes it.
    fn leave_behind(&self) -> Result<(), StoreError> {
        match self.take(State::Away) {
            State::Open(before) | State::View(before) => before.faults.stop(),
            State::Lost(_) | State::Away => {}
            State::Closed => return Err(self.refused("the store is closed")),
        }
        Ok(())
    }

    /// Nothing is open; the next caller tries again.
    fn lose(&self, trouble: BackendError, faults: &Faults) -> StoreError {
        self.put(State::Lost(None));
        self.failed(trouble, faults)
    }

    /// Takes the database out. Once closed it stays closed.
    fn take(&self, meanwhile: State) -> State {
        let mut state = self.state.lock();
        while matches!(&*state, State::Away) {
            self.returned.wait(&mut state);
        }
        if matches!(&*state, State::Closed) {
            return State::Closed;
        }
        let taken = std::mem::replace(&mut *state, meanwhile);
        drop(state);
        taken
    }

    fn put(&self, back: State) {
        let before = std::mem::replace(&mut *self.state.lock(), back);
        self.returned.notify_all();
        // Without the lock: it may be the last to know a database.
        drop(before);
    }
}

pub(super) fn open_database(
    file: &Arc<dyn DiskFile>,
    faults: &Arc<Faults>,
    cache_bytes: usize,
    verify: bool,
) -> Result<Opened, BackendError> {
    catch_backend_panic(|| {
        let mut builder = redb::Builder::new();
        builder.set_cache_size(cache_bytes).set_check_integrity_on_open(verify);
        let database = Owned::new(builder.create_with_backend(Backend::new(file, faults))?);
        Ok(Opened::new(database, Arc::clone(faults)))
    })
}
