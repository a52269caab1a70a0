//! The end of the access: readers are refused, and the database is closed.

use redb::DatabaseError;

use super::{Access, State};
use crate::error::{Failure, IoFailure};
use crate::store::backend_error::{BackendError, catch_backend_panic};
use crate::sync::Ordering;

impl Access {
    /// Lets no reader of tables in any more.
    pub(in crate::store) fn refuse_long_reads(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.long_reads.close();
    }

    /// Lets no reader of tables in any more, and waits for the running ones.
    pub(in crate::store) fn await_long_reads(&self) {
        self.refuse_long_reads();
        self.long_reads.wait_for_all();
    }

    /// Notes that closing the database has to make the last commit durable.
    pub(in crate::store) fn set_unsynced(&self) {
        self.is_unsynced.store(true, Ordering::Relaxed);
    }

    /// Closes the database. Reads are refused from now on.
    pub(in crate::store) fn close(&self) -> Result<(), Failure> {
        self.await_long_reads();
        let database = self.take(State::Closed);
        let is_durable = !self.is_unsynced.swap(false, Ordering::Relaxed);
        // A read that failed since the last commit may have stopped the database, which then takes
        // no other.
        let is_closed = || if is_durable { Ok(()) } else { Err(BackendError::stopped()) };
        let closed = match database {
            State::Open(database) => {
                let (database, faults) = self.users.alone(database).into_database();
                // A failed read has stopped it: it takes no commit, and needs none.
                if is_durable && faults.has_stopped() {
                    drop(database);
                    return self.unlock();
                }
                catch_backend_panic(|| match database.into_inner().close() {
                    // An application has leaked a table.
                    Err(DatabaseError::TransactionInProgress) => is_closed(),
                    closed => Ok(closed?),
                })
            }
            State::View(view) => {
                drop(self.users.alone(view));
                is_closed()
            }
            State::Lost(_) | State::Away | State::Closed => is_closed(),
        };
        let closed = closed.map_err(|trouble| trouble.into_failure(&self.path));
        let unlocked = self.unlock();
        closed.and(unlocked)
    }

    /// Handles on a closed engine may live on; they must not keep others from opening the file. Nor
    /// may a reader that is left in a database that has stopped still write to it then.
    fn unlock(&self) -> Result<(), Failure> {
        self.faults.await_changes();
        self.file.unlock().map_err(|error| Failure::Io(IoFailure::new(&self.path, "unlocking", error)))
    }
}
