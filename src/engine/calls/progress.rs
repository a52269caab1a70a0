//! Progress of a claim, and the renewal of its lease.

use crate::Timestamp;
use crate::attempt::Attempt;
use crate::commit::Ticket;
use crate::engine::core::log_record::{LogRecord, NotedClaim};
use crate::engine::core::{Core, Counters};
use crate::engine::handles::claim::Claim;
use crate::error::{ClaimError, CommitError};
use crate::index::Change;
use crate::state::{Event, decide};
use crate::sync::Arc;
use crate::task::caller::{Caller, block};
use crate::wal::frame::entry_bytes_max;

impl Claim {
    /// Saves how far the operation has come, durably: if this attempt is interrupted, the next
    /// one finds it. A later call replaces it.
    ///
    /// # Errors
    ///
    /// When it is longer than a body may be, the progress of claims takes too much memory already,
    /// the claim's lease ran out, the disk stays full, a commit fails, or the engine is closed.
    ///
    /// ```
    /// # use idemkv::{Begin, BeginError, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let Begin::Fresh(mut claim) = engine.default_scope().begin("key", request)? else { panic!() };
    /// claim.save_progress("card charged")?;
    /// drop(claim); // the process dies before the receipt is sent
    ///
    /// let Err(BeginError::Unresolved(lost)) = engine.default_scope().begin("key", request) else { panic!() };
    /// assert_eq!(lost.last_progress().unwrap()[..], *b"card charged");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save_progress(&mut self, note: impl AsRef<[u8]>) -> Result<(), ClaimError> {
        block(self.save_progress_as(Caller::Thread, note.as_ref()))
    }

    /// [`save_progress`](Self::save_progress) for tasks. If the future is dropped, the progress
    /// may be saved or not.
    ///
    /// # Errors
    ///
    /// As for [`save_progress`](Self::save_progress).
    pub async fn save_progress_async(&mut self, note: impl AsRef<[u8]>) -> Result<(), ClaimError> {
        self.save_progress_as(Caller::Task, note.as_ref()).await
    }

    async fn save_progress_as(&mut self, caller: Caller, note: &[u8]) -> Result<(), ClaimError> {
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

    /// Starts the claim's lease again, for a worker that needs longer. Without a lease it does
    /// nothing and succeeds. It does no I/O, unless the lease has run out and the record of the
    /// claim that came after it is only on disk.
    ///
    /// # Errors
    ///
    /// When the lease has run out: the key is interrupted, or another caller has it by now. When
    /// the engine is closed or a commit failed.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let jobs = engine.set_policy("jobs", engine.policy().lease(Duration::from_secs(30)))?;
    /// let Begin::Fresh(claim) = jobs.begin("key", request)? else { panic!() };
    /// claim.renew()?;
    /// # claim.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn renew(&self) -> Result<(), ClaimError> {
        let core = self.core();
        core.health.check_process().map_err(CommitError::Failed)?;
        if self.use_now(core, Attempt::renew)? {
            return Ok(());
        }
        Err(block(core.superseded(Caller::Thread, &self.attempt)))
    }

    /// [`renew`](Self::renew) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`renew`](Self::renew).
    pub async fn renew_async(&self) -> Result<(), ClaimError> {
        let core = self.core();
        core.health.check_process().map_err(CommitError::Failed)?;
        if self.use_now(core, Attempt::renew)? {
            return Ok(());
        }
        Err(core.superseded(Caller::Task, &self.attempt).await)
    }
}
