//! Calls that only an engine on a file has: checkpoint, compaction, backup, tables of the
//! application. On a shared store each is an error, `NoFile`.

use std::path::Path;

use super::claim::{Claim, ClaimInner};
use super::engine::Engine;
use super::handle::Handle;
use crate::Timestamp;
use crate::engine::common::untold::CallingProcess;
#[cfg(feature = "sim")]
use crate::engine::core::stepped::Stepped;
#[cfg(feature = "postgres")]
use crate::error::EndError;
use crate::error::{BackupError, Busy, CommitError, CompleteInError, Failure, ReadError};
use crate::record::Record;
use crate::store::{ReadTables, Tables};

/// A backup that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The engine's time of the moment that the backup shows.
    pub time: Timestamp,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Engine {
    /// Makes a checkpoint: moves the log's content to the file now, instead of when the log is
    /// full. No promise depends on it; it shortens the next opening. It does nothing within
    /// [`read_tables`](Self::read_tables), in a waker that an engine calls, and in an
    /// [`Observer`](crate::Observer) on a thread of an engine.
    ///
    /// # Errors
    ///
    /// When an earlier commit or checkpoint failed, or this one does. On a closed engine, when the
    /// checkpoint of its close failed.
    pub fn checkpoint(&self) -> Result<(), Failure> {
        let checkpointed = match &self.handle {
            Handle::File(file) => file.core().checkpoint_on_request(),
            #[cfg(feature = "postgres")]
            Handle::Shared(_) => return Err(Failure::NoFile),
        };
        checkpointed.map_err(|error| match error {
            CommitError::Busy(Busy::DiskFull(failure)) => Failure::Io(failure),
            CommitError::Busy(Busy::FileNotReady(failure)) => Failure::FileNotReady(failure),
            CommitError::Failed(failure) => failure,
            CommitError::Busy(_)
            | CommitError::Closed
            | CommitError::InsideCallback
            | CommitError::InsideTransaction => {
                unreachable!("a checkpoint waits for nobody, and a closed engine had one")
            }
            #[cfg(feature = "postgres")]
            CommitError::Shared(_) => unreachable!("the engine is on a file"),
        })
    }

    /// Drops what has expired and gives free room in the file back to the disk now, instead of
    /// when the engine is idle. For tools, and for files with tables of an application.
    ///
    /// Calls that need the file wait meanwhile: it moves all live data. `false` if it did nothing:
    /// a [`read_tables`](Self::read_tables) runs, one has leaked a table, or the caller is a waker
    /// that the engine calls, or an [`Observer`](crate::Observer) on a thread of an engine.
    ///
    /// # Errors
    ///
    /// When the engine has failed or is closed, the disk is full, or a read of the file has failed
    /// since it was opened. An error loses nothing that was acknowledged.
    ///
    /// ```
    /// # use idemkv::Engine;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// assert!(engine.compact()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compact(&self) -> Result<bool, CommitError> {
        match &self.handle {
            Handle::File(file) => file.core().compact_on_request(),
            #[cfg(feature = "postgres")]
            Handle::Shared(_) => Err(CommitError::Failed(Failure::NoFile)),
        }
    }

    /// Writes a backup of the file to `path`, while the engine works. The backup is one file that
    /// opens like any other, without a log.
    ///
    /// The backup shows one moment during this call. It has everything that was acknowledged
    /// before the call began, and application tables as well. Keys that are in flight at that
    /// moment are interrupted in it, except those whose claims only memory knows
    /// ([`Durability::Completions`](crate::Durability) and `Relaxed`): they are vacant. The
    /// backup is durable when this returns. `path` must not exist yet; after an error nothing is
    /// left there.
    ///
    /// It blocks until the file is copied, and the copy verified and synced: call it on a
    /// separate thread. Other calls continue meanwhile. Only one backup can run at a time;
    /// closing the engine ends it with an error.
    ///
    /// To restore, close the engine, move its file and its log away, put the backup in the file's
    /// place, and open that. The backup does not know operations that completed after it: a retry
    /// runs them again.
    ///
    /// # Errors
    ///
    /// When `path` exists, there is no room for the copy, the engine has stopped or is closed, or
    /// another backup is being made.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Status};
    /// # let dir = tempfile::tempdir()?;
    /// # let (path, copy) = (dir.path().join("x.idem"), dir.path().join("copy.idem"));
    /// # let request = Fingerprint::of("request");
    /// let engine = Engine::open(&path)?;
    /// let Begin::Fresh(claim) = engine.default_scope().begin("key", request)? else { panic!() };
    /// claim.complete("reply")?;
    /// engine.backup(&copy)?;
    ///
    /// let restored = Engine::open(&copy)?;
    /// let status = restored.default_scope().get("key")?;
    /// assert!(matches!(status, Status::Done(record) if record.body() == b"reply"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<Backup, BackupError> {
        match &self.handle {
            Handle::File(file) => file.core().backup(path.as_ref()),
            #[cfg(feature = "postgres")]
            Handle::Shared(_) => Err(CommitError::Failed(Failure::NoFile).into()),
        }
    }

    /// Reads the application's own tables, as they are at this moment; see [`Claim::complete_in`].
    ///
    /// Keep it short: meanwhile the file can't be compacted or closed, and old pages are kept.
    /// Within `read`, `complete_in` is refused. After a full disk this waits up to 2 s for the
    /// file to be opened again.
    ///
    /// # Errors
    ///
    /// When `close` was called, or the file can't be read. An error of `read` is returned.
    pub fn read_tables<T>(&self, read: impl FnOnce(&ReadTables<'_>) -> T) -> Result<T, ReadError> {
        match &self.handle {
            Handle::File(file) => file.core().read_tables(read),
            #[cfg(feature = "postgres")]
            Handle::Shared(_) => Err(ReadError::NoFile),
        }
    }

    #[cfg(feature = "sim")]
    /// Does the background work that is due: checkpoints, log space, expiry. For engines opened
    /// with [`Options::stepped`](crate::Options::stepped).
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn step(&self) -> Stepped {
        match &self.handle {
            Handle::File(file) => file.core().step(),
            // Its thread does the work.
            #[cfg(feature = "postgres")]
            Handle::Shared(_) => Stepped::default(),
        }
    }
}

impl Claim {
    /// Completes the claim with the body that `work` returns, in one transaction with what `work`
    /// writes to the application's own tables in the same file: both are durable when this
    /// returns, or neither ever is. So an effect in the file happens exactly once, over any
    /// crash.
    ///
    /// While `work` runs, nothing else writes to the file's tables, not even checkpoints: keep it
    /// short. Other begins and completions continue until the log is full. Use it when the effect
    /// lives in the same file. It is slower than [`complete`](Self::complete): it waits for a
    /// store commit with two syncs, which also writes everything that the log has collected,
    /// where `complete` costs one append and one shared sync.
    ///
    /// It blocks and has no async form: call it where your runtime allows blocking.
    ///
    /// # Errors
    ///
    /// If `work` returns an error, nothing is written, and the call returns that error with the
    /// claim. Otherwise as for [`complete`](Self::complete). Within `work`, a `complete_in` and a
    /// wait for another claim are refused, and so is a call for which only a checkpoint could free
    /// log space. A `checkpoint` within `work` does nothing, and a close waits until `work` is
    /// over. `work` must not wait for other threads either: they may wait for it. If `work` catches
    /// a panic of a table or leaks a table, nothing is written:
    /// [`ClaimError::TransactionPoisoned`](crate::ClaimError::TransactionPoisoned).
    ///
    /// # Panics
    ///
    /// If `work` panics: nothing is written, the claim is dropped, and the panic continues.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// use idemkv::tables::redb::{ReadableTable, TableDefinition};
    ///
    /// const BALANCES: TableDefinition<&str, u64> = TableDefinition::new("balances");
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let Begin::Fresh(claim) = engine.default_scope().begin("deposit-1", request)? else { panic!() };
    /// claim.complete_in(|tables| {
    ///     let mut balances = tables.open_table(BALANCES)?;
    ///     let balance = balances.get("alice")?.map_or(0, |balance| balance.value()) + 10;
    ///     balances.insert("alice", balance)?;
    ///     Ok::<_, Box<dyn std::error::Error>>(format!("balance={balance}"))
    /// })?;
    ///
    /// let Begin::Done(record) = engine.default_scope().begin("deposit-1", request)? else { panic!() };
    /// assert_eq!(record.body(), b"balance=10");
    /// let balance = engine.read_tables(|tables| {
    ///     let balances = tables.open_table(BALANCES)?;
    ///     let balance = balances.get("alice")?.map(|balance| balance.value());
    ///     Ok::<_, Box<dyn std::error::Error>>(balance)
    /// })??;
    /// assert_eq!(balance, Some(10));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn complete_in<B: AsRef<[u8]>, E>(
        self,
        work: impl FnOnce(&Tables<'_>) -> Result<B, E>,
    ) -> Result<Record, CompleteInError<E>> {
        let asked = CallingProcess::here();
        match self.inner {
            ClaimInner::File(claim) => {
                let completed = claim.complete_in(work)?;
                Ok(asked.tell_end(Ok(completed))?)
            }
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(_) => {
                let no_file = CommitError::Failed(Failure::NoFile).into();
                Err(EndError::new(no_file, Some(self)).into())
            }
        }
    }
}
