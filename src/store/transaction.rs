//! Transactions of applications on their own tables.

use redb::{Durability, ReadableDatabase, TransactionError, WriteTransaction};

use super::Store;
use super::application_tables::{ReadTables, Tables};
use super::backend_error::{BackendError, catch_backend_panic};
use super::opened::Opened;
use super::owned::Owned;
use super::refusal::StoreError;
use crate::error::ReadError;
use crate::sync::{Arc, Ordering};

/// An application's write transaction. Pass it to [`Store::apply`] or [`Store::abort`].
#[must_use = "it keeps everybody else from writing"]
pub(crate) struct OpenTransaction {
    pub(super) transaction: Owned<WriteTransaction>,
    /// The database that it is of. A reader may put a view in its place meanwhile.
    pub(super) database: Arc<Opened>,
}

impl OpenTransaction {
    pub(crate) fn tables(&self) -> Tables<'_> {
        Tables(&self.transaction)
    }
}

impl Store {
    /// Begins an application's write transaction.
    pub(crate) fn begin(&self) -> Result<OpenTransaction, StoreError> {
        let begin = || {
            let database = self.access.writable(|database| self.check_current(database))?;
            self.is_shared.store(true, Ordering::Relaxed);
            match catch_backend_panic(|| begin_durable(&database)) {
                Ok(transaction) => Ok(OpenTransaction { transaction, database }),
                Err(trouble) => Err(self.access.failed(trouble, &database.faults)),
            }
        };
        match begin() {
            // It has stopped, and is opened again.
            Err(StoreError::Later(_)) => begin(),
            answer => answer,
        }
    }

    /// Undoes the application's writes. A disk error that the application got matters to the
    /// engine too, because redb takes no more writes after it.
    pub(crate) fn abort(&self, begun: OpenTransaction) -> Result<(), StoreError> {
        let OpenTransaction { transaction, database } = begun;
        let aborted = catch_backend_panic(|| Ok(transaction.into_inner().abort()?));
        let trouble = match (database.faults.write_failed(), aborted) {
            (Some(kind), _) => BackendError::from(redb::Error::Io(kind.into())),
            // After a failed read redb does not even abort. Nothing was written, and the next
            // writer opens it again.
            (None, Err(trouble)) if trouble.is_io() => return Ok(()),
            (None, Err(trouble)) => trouble,
            (None, Ok(())) => return Ok(()),
        };
        Err(self.access.failed(trouble, &database.faults))
    }

    /// Runs an application's read transaction. `is_asker` says that the thread has the maintenance
    /// lock, and so may have asked to have the database alone.
    pub(crate) fn read_tables<T>(
        &self,
        is_asker: bool,
        read: impl FnOnce(&ReadTables<'_>) -> T,
    ) -> Result<T, ReadError> {
        self.access.read_long(
            is_asker,
            |database| Ok(Owned::new(database.begin_read()?)),
            |transaction| {
                let result = read(&ReadTables(&transaction));
                if self.origin.is_elsewhere() {
                    // Its end would touch what is the parent's.
                    std::mem::forget(transaction);
                }
                result
            },
        )
    }
}

/// Begins a write transaction, and never waits for another one.
///
/// There is only one writer, so redb can only be waiting for a transaction of which an application
/// has leaked a table or an iterator. It would wait for ever. The next try opens the file again.
fn begin(database: &Opened) -> Result<WriteTransaction, BackendError> {
    let begun = database.try_begin_write();
    if let Err(TransactionError::WouldBlock) = begun {
        database.faults.stop();
        return Err(BackendError::stopped());
    }
    Ok(begun?)
}

/// A transaction whose commit the close of the database makes durable.
pub(super) fn begin_last(database: &Opened) -> Result<Owned<WriteTransaction>, BackendError> {
    let mut transaction = Owned::new(begin(database)?);
    transaction.set_durability(Durability::None)?;
    Ok(transaction)
}

/// A transaction whose commit is durable.
pub(super) fn begin_durable(database: &Opened) -> Result<Owned<WriteTransaction>, BackendError> {
    durable(begin(database)?)
}

/// Makes a transaction's commit durable.
pub(super) fn durable(begun: WriteTransaction) -> Result<Owned<WriteTransaction>, BackendError> {
    let mut transaction = Owned::new(begun);
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Ok(transaction)
}
