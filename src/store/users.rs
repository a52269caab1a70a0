//! The callers that use the database at the moment, and the thread that needs it alone.

use std::ops::Deref;

use super::opened::Opened;
use crate::clock::Deadline;
use crate::sync::{Arc, Condvar, Mutex};

/// Tells the thread that needs the database alone when a caller no longer uses it.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// Whether a thread waits to be alone. Leaf lock, held only to look.
    is_awaited: Mutex<bool>,
    left: Condvar,
}

/// The database, while a caller uses it.
pub(super) struct InUse<'a> {
    of: &'a Users,
    /// `None` once it is dropped.
    database: Option<Arc<Opened>>,
}

impl Users {
    pub(super) fn enter(&self, database: Arc<Opened>) -> InUse<'_> {
        InUse { of: self, database: Some(database) }
    }

    /// Waits until no caller uses a database that was taken out. No new one comes, so the wait is
    /// as long as the slowest read of them.
    pub(super) fn alone(&self, database: Arc<Opened>) -> Opened {
        self.alone_by(database, Deadline::NEVER).unwrap_or_else(|_| unreachable!("it waits for ever"))
    }

    /// The same, no longer than until `deadline`: then the database comes back.
    pub(super) fn alone_by(
        &self,
        mut database: Arc<Opened>,
        deadline: Deadline,
    ) -> Result<Opened, Arc<Opened>> {
        let mut is_awaited = self.is_awaited.lock();
        loop {
            let in_use = match Arc::try_unwrap(database) {
                Ok(alone) => {
                    *is_awaited = false;
                    return Ok(alone);
                }
                Err(in_use) => in_use,
            };
            if deadline.has_passed() {
                *is_awaited = false;
                return Err(in_use);
            }
            database = in_use;
            *is_awaited = true;
            match deadline.instant() {
                Some(at) => drop(self.left.wait_until(&mut is_awaited, at)),
                None => self.left.wait(&mut is_awaited),
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_awaited(&self) -> bool {
        *self.is_awaited.lock()
    }
}

impl Deref for InUse<'_> {
    type Target = Arc<Opened>;

    fn deref(&self) -> &Arc<Opened> {
        self.database.as_ref().unwrap_or_else(|| unreachable!("it is in use until it is dropped"))
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        // Before the look: a thread that looked first waits by now.
        drop(self.database.take());
        if *self.of.is_awaited.lock() {
            self.of.left.notify_all();
        }
    }
}
