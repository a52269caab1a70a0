//! A compaction has the database alone.

use std::time::Duration;

use redb::CompactionError;

use super::{Access, State};
use crate::clock::Deadline;
use crate::store::backend_error::{BackendError, catch_backend_panic};
use crate::store::opened::Opened;
use crate::store::refusal::StoreError;
use crate::sync::Arc;

/// How long a compaction waits for the reads that are under way. Others wait behind it, and it is
/// not urgent.
const READS_END: Duration = Duration::from_millis(50);

impl Access {
    /// Gives free space in the file back to the disk, unless a caller reads tables, or a read takes
    /// longer than [`READS_END`]; returns whether it did. Reads wait meanwhile.
    pub(in crate::store) fn compact(&self) -> Result<bool, StoreError> {
        let Some(_alone) = self.long_reads.try_alone() else { return Ok(false) };
        let (mut database, faults) = match self.take(State::Away) {
            State::Open(database) if !database.has_stopped() => {
                match self.users.alone_by(database, Deadline::after(READS_END)) {
                    Ok(alone) => alone.into_database(),
                    Err(in_use) => {
                        self.put(State::Open(in_use));
                        return Ok(false);
                    }
                }
            }
            State::Closed => return Ok(false),
            // One that has stopped takes no writes.
            other @ (State::Open(_) | State::View(_) | State::Lost(_) | State::Away) => {
                // Readers that waited for this moment get no error from before it.
                self.put(if matches!(other, State::Lost(_)) { State::Lost(None) } else { other });
                return Ok(false);
            }
        };
        let compacted = catch_backend_panic(|| match database.compact() {
            // Nobody reads or writes, so an application has leaked a table. The next writer opens
            // the file again, and leaves that table behind.
            Err(CompactionError::TransactionInProgress) => {
                faults.stop();
                Ok(false)
            }
            compacted => compacted.map(|_moved| true).map_err(BackendError::from),
        });
        match compacted {
            Ok(is_compacted) => {
                self.put(State::Open(Arc::new(Opened::new(database, faults))));
                Ok(is_compacted)
            }
            Err(trouble) => {
                drop(database);
                Err(self.lose(trouble, &faults))
            }
        }
    }
}
