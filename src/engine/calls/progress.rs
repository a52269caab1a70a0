//! Progress of a claim, and the renewal of its lease.

use crate::Timestamp;
use crate::attempt::Attempt;
use crate::commit::Ticket;
use crate::engine::common::counters::Counters;
use crate::engine::core::Core;
use crate::engine::core::log_record::{LogRecord, NotedClaim};
use crate::engine::file::claim::FileClaim;
use crate::error::{ClaimError, CommitError};
use crate::index::Change;
use crate::state::{Event, decide};
use crate::sync::Arc;
use crate::task::caller::Caller;
use crate::wal::frame::entry_bytes_max;

impl FileClaim {
    /// Saves the progress of the operation, durably.
    pub(in crate::engine) async fn save_progress(
        &mut self,
        caller: Caller,
        note: &[u8],
    ) -> Result<(), ClaimError> {
        self.check_body(note.len())?;
        let handle = self.handle();
        let core = handle.core();
        core.health.check_process().map_err(CommitError::Failed)?;
        let progress = core.limits.keep_progress(note).map_err(|busy| {
            Counters::count(&core.counters.busy_progress_bytes);
            CommitError::Busy(busy)
        })?;
        let record = LogRecord::Progress(NotedClaim::Live(Arc::clone(&self.attempt)), progress.clone());
        // A claim granted after this moment inherits the progress, and its grant comes behind it
        // in the log.
        let mut ticket = self.note(caller, record, |attempt, _now| attempt.set_progress(progress)).await?;
        // The caller may stop waiting from here on: the progress is saved all the same.
        Counters::count(&core.counters.progress_saved);
        Ok(core.commit.settled(caller, &mut ticket).await?)
    }

    /// Queues a note on a good claim. `change` is made at once, under the lock of the key's
    /// shard, so it must not be visible to callers before the entry is durable. If this fails,
    /// nothing is changed.
    pub(super) async fn note(
        &mut self,
        caller: Caller,
        record: LogRecord,
        change: impl FnOnce(&Attempt, Timestamp),
    ) -> Result<Ticket, ClaimError> {
        let handle = self.handle();
        let core = handle.core();
        core.check_blocking(caller)?;
        // Where the log knows nothing of the claim that the entry is about.
        let intent = (!self.terms.logged).then(|| LogRecord::Granted(Arc::clone(&self.attempt)));
        let records: Vec<_> =
            intent.into_iter().chain([record]).map(|record| (record.encoded(), record)).collect();
        let costs = records.iter().map(|(entry, _)| entry_bytes_max(entry.len()) as u64).sum();
        let mut reservation = core.reserve_for_claim(caller, costs).await?;
        let mut unusable = None;
        let may = |_: &mut _| {
            let used = self.use_now(core, change);
            used.unwrap_or_else(|error| {
                unusable = Some(error);
                false
            })
        };
        let ticket = core.commit.append_if(caller, records, &mut reservation, may)?;
        // Others may have what is left of it while this call waits.
        drop(reservation);
        if let Some(error) = unusable {
            return Err(error.into());
        }
        let Some(ticket) = ticket else {
            return Err(core.superseded(caller, &self.attempt).await);
        };
        self.terms.logged = true;
        Ok(ticket)
    }

    /// Changes the claim if it is good, and returns whether it is. A closed or failed engine
    /// can't know: another process may have the file open and have granted the key.
    fn use_now(&self, core: &Core, change: impl FnOnce(&Attempt, Timestamp)) -> Result<bool, CommitError> {
        core.index.change(self.attempt.digest, |slot| {
            if let Err(unusable) = core.health.may_use() {
                return (Change::Keep, Err(unusable));
            }
            let now = core.clock.now();
            let event = Event::Use { fence: self.attempt.fence, now };
            let good = decide(slot.state(core.index.epoch()), event).becomes().is_some();
            if good {
                change(&self.attempt, now);
            }
            (Change::Keep, Ok(good))
        })
    }

    /// Starts the claim's lease again.
    pub(in crate::engine) async fn renew(&self, caller: Caller) -> Result<(), ClaimError> {
        let core = self.core();
        core.health.check_process().map_err(CommitError::Failed)?;
        if self.use_now(core, Attempt::renew)? {
            return Ok(());
        }
        Err(core.superseded(caller, &self.attempt).await)
    }
}
