//! Unsettled commits: redb called one failed, and it may be in the file all the same.
//!
//! redb also reads after a commit, and another caller's failed read stops redb at any point.
//! Before the header is written, nothing of a commit counts. After that, only the file can tell:
//! it is opened again, which syncs what it finds, and its meta row decides.

use redb::Database;

use super::Store;
use super::apply::{Plan, TRIES};
use super::backend_error::BackendError;
use super::batch::Applied;
use super::opened::Opened;
use super::opening::read_meta_row;
use super::refusal::StoreError;
use crate::error::Failure;
use crate::sync::Arc;

impl Store {
    /// The database, for a writer. An unsettled commit is settled first.
    pub(super) fn writable(&self) -> Result<Arc<Opened>, StoreError> {
        if self.unsettled.lock().is_some() {
            return self.settle().map(|(database, _)| database);
        }
        self.access.writable(|database| self.is_there(database).map(drop))
    }

    /// Closes and opens the database. After an I/O error redb refuses all writes. After a full
    /// disk or a failed read, which lose nothing, this makes it take them again.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        self.settle().map(drop)
    }

    /// What became of a plan whose commit returned this error.
    ///
    /// While nobody knows, nothing is put back and nothing written: the file may have the old
    /// blocks or the new ones. Readers find all records that move in memory.
    pub(super) fn find_out(
        &self,
        error: StoreError,
        plan: Plan,
        has_others: bool,
    ) -> Result<Applied, StoreError> {
        if matches!(error, StoreError::Failed(_)) || !self.access.may_have_committed() {
            self.put_back(&plan);
            return Err(error);
        }
        *self.unsettled.lock() = Some(plan);
        let mut tries = 1;
        loop {
            match self.settle() {
                Ok((_, Some(applied))) => return Ok(applied),
                Ok((_, None)) => return Err(error),
                Err(StoreError::Failed(failure)) => return Err(StoreError::Failed(failure)),
                Err(_unknown) if tries < TRIES => tries += 1,
                // Others must be told whether their writes are there.
                Err(StoreError::Full(failure) | StoreError::Later(failure)) if has_others => {
                    return Err(StoreError::Failed(Failure::Io(failure)));
                }
                // The next writer asks again.
                Err(_unknown) => return Err(error),
            }
        }
    }

    /// Opens the database again, and asks it for the unsettled commit. Returns what that did, if
    /// there was one and it is there.
    fn settle(&self) -> Result<(Arc<Opened>, Option<Applied>), StoreError> {
        let mut is_there = false;
        let database = self.access.reopen(|database| {
            is_there = self.is_there(database)?;
            Ok(())
        })?;
        let unsettled = self.unsettled.lock().take();
        let applied = match unsettled {
            Some(plan) if is_there => Some(self.committed(&database, plan)),
            Some(plan) => {
                self.put_back(&plan);
                None
            }
            None => None,
        };
        Ok((database, applied))
    }

    /// Whether the file has the unsettled commit. It has to be as that, or the commit before it,
    /// left it: block numbers are used again.
    fn is_there(&self, database: &Database) -> Result<bool, BackendError> {
        let row = read_meta_row(database)?;
        let unsettled = self.unsettled.lock().as_ref().map(|plan| plan.meta.encode());
        if unsettled.is_some() && row == unsettled {
            return Ok(true);
        }
        if row == Some(self.meta().encode()) {
            return Ok(false);
        }
        Err(BackendError::last_word("a commit that failed is there after all"))
    }
}
