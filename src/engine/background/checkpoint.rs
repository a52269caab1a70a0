//! Checkpoints: move the content of the log to the store, and free its segments.

use std::time::Duration;

use super::commit_cost::{CommitCost, RECLAIM_MIN, rest_after};
use crate::Timestamp;
use crate::engine::common::counters::Counters;
use crate::engine::core::disk_full::RETRY_AFTER;
use crate::engine::core::maintenance::MaintenanceState;
use crate::engine::core::{CallWorker, Core};
use crate::error::{Busy, CommitError, Failure};
use crate::record::Record;
use crate::store::{Applied, Batch, Meta, OpenTransaction, StoreError};

impl Core {
    /// Checkpoints now, due or not.
    pub(in crate::engine) fn checkpoint_on_request(&self) -> Result<(), CommitError> {
        if !self.may_wait_for_maintenance() {
            return Ok(());
        }
        self.health.check_process().map_err(CommitError::Failed)?;
        let _afterwards = CallWorker(self);
        let mut maintenance = self.lock_maintenance();
        // A closed engine was checkpointed as it closed. One that is closing still has its files.
        if let Some(closed) = &maintenance.closed {
            return closed.clone().map_err(CommitError::Failed);
        }
        maintenance.retry_at = Timestamp::default();
        let moved = self.or_poison(|| self.checkpoint(&mut maintenance));
        self.health.check_process().map_err(CommitError::Failed)?;
        let busy = self.health.store_is_busy();
        // Last, for what has failed is not busy any more. After a failed commit the rest is moved,
        // but the engine has failed.
        self.health.check_failure()?;
        if moved { Ok(()) } else { busy.map_or(Ok(()), |busy| Err(CommitError::Busy(busy))) }
    }

    /// Moves the content of the log to the store, frees its segments, and drops expired blocks.
    pub(super) fn checkpoint(&self, maintenance: &mut MaintenanceState) -> bool {
        let now = self.clock.now();
        let was_full = self.health.disk().of_store().is_some();
        let is_too_early = self.health.store_is_busy().is_some() && now < maintenance.retry_at;
        if self.health.is_poisoned() || is_too_early {
            return false;
        }
        maintenance.retry_at = now.saturating_add(RETRY_AFTER);
        // After a full disk redb takes no more writes until it is opened again.
        let ready = if was_full { self.store.reopen() } else { Ok(()) };
        let moved = ready.and_then(|()| match &mut maintenance.unprepared {
            None => self.store_tail(None),
            unprepared @ Some(_) => self.prepare(unprepared).map(|()| false),
        });
        match moved {
            Ok(leaves_due) => {
                self.rest_from_reclaiming(maintenance, now, leaves_due);
                true
            }
            Err(error) => {
                // A try on a slow disk may have taken longer than that.
                maintenance.retry_at = self.clock.now().saturating_add(RETRY_AFTER);
                self.checkpoint_failed(error);
                false
            }
        }
    }

    /// Puts off the next commit for expiry, after a checkpoint that began at this time.
    fn rest_from_reclaiming(&self, maintenance: &mut MaintenanceState, began: Timestamp, leaves_due: bool) {
        let ended = self.clock.now();
        let rest = rest_after(ended.saturating_since(began));
        let after = self.commit_cost().reclaim_after(self.options.policy.ttl).0;
        maintenance.reclaim_at = maintenance.reclaim_at.max(ended.saturating_add(after.max(rest)));
        maintenance.reclaim_by = if leaves_due {
            // With many unreadable blocks each checkpoint may meet one, and the others would wait
            // for as many.
            maintenance.reclaim_at
        } else {
            maintenance.reclaim_by.max(ended.saturating_add(rest))
        };
    }

    /// Readies the store for a transaction. The caller holds the maintenance lock.
    pub(in crate::engine) fn make_store_ready(
        &self,
        maintenance: &mut MaintenanceState,
    ) -> Result<(), CommitError> {
        self.health.may_write()?;
        if self.health.disk().of_store().is_some() {
            let reopened = self.store.reopen();
            maintenance.retry_at = self.clock.now().saturating_add(RETRY_AFTER);
            reopened.map_err(|error| self.store_refused(error))?;
        }
        self.prepare(&mut maintenance.unprepared).map_err(|error| self.store_refused(error))
    }

    /// Notes that the store refused a transaction; gives the error for the caller of that
    /// transaction.
    pub(in crate::engine) fn store_refused(&self, error: StoreError) -> CommitError {
        self.checkpoint_failed(error.clone());
        match error {
            StoreError::Full(failure) => CommitError::Busy(Busy::DiskFull(failure)),
            StoreError::Later(failure) => CommitError::Busy(Busy::FileNotReady(failure)),
            StoreError::Failed(failure) => CommitError::Failed(failure),
            StoreError::Poisoned => unreachable!("the claim that is completed has it"),
        }
    }

    /// Moves the content of the log to the store. A caller of `complete_in` passes its transaction
    /// and its record: both are committed together with the rest.
    pub(in crate::engine) fn apply_tail(
        &self,
        completes: Option<(OpenTransaction, &Record)>,
    ) -> Result<(), StoreError> {
        self.store_tail(completes).map(drop)
    }

    /// The same; returns whether blocks that are due were left for the next checkpoint.
    fn store_tail(&self, completes: Option<(OpenTransaction, &Record)>) -> Result<bool, StoreError> {
        // A tail that is taken and neither stored nor put back must not be forgotten: the log
        // stays the truth then.
        let (seq, limit, applied) = self.or_poison(|| {
            let tail = self.publisher.take_tail();
            let limit = self.fences.next_limit();
            // A caller waits for `complete_in`, so it drops no more than it must.
            let reclaim = if completes.is_some() { RECLAIM_MIN } else { self.commit_cost().reclaim_bytes() };
            let mut batch = Batch { merges: true, ..tail.batch(reclaim) };
            let begun = completes.map(|(begun, record)| {
                batch.complete(record.clone());
                begun
            });
            let applied = self.store_batch(begun, &batch, |meta| {
                meta.checkpointed_seq = tail.seq;
                meta.fence_next = limit;
            });
            let seq = tail.seq;
            (seq, limit, applied.inspect_err(|_| self.publisher.put_tail_back(tail)))
        });
        let applied = applied?;
        self.health.store_is_ready();
        self.fences.move_limit(limit);
        self.space.recycle(seq);
        // Tasks that wait for log space were woken.
        if self.health.is_forked() {
            return Err(StoreError::Failed(Failure::Forked));
        }
        self.index.evict();
        Counters::add(&self.counters.checkpoints, 1);
        Counters::add(&self.counters.reclaimed_blocks, applied.reclaimed);
        applied.cold.iter().for_each(|record| self.index.drop_cached(record));
        Ok(applied.leaves_due)
    }

    /// Writes a batch. The meta row gets the changes of `change`, and the [stamp](Self::stamp).
    pub(in crate::engine) fn store_batch(
        &self,
        begun: Option<OpenTransaction>,
        batch: &Batch,
        change: impl FnOnce(&mut Meta),
    ) -> Result<Applied, StoreError> {
        let change = |meta: &mut Meta| {
            change(meta);
            self.stamp(meta);
        };
        self.store.apply(begun, batch, &|| self.clock.now(), change, |from, tombstone| {
            self.index.pin_in_memory(from, tombstone)
        })
    }

    pub(super) fn checkpoint_failed(&self, error: StoreError) {
        if self.health.is_forked() {
            return;
        }
        match error {
            // Nothing is lost: the log still has it all. Claims are granted while it has room for
            // their completions.
            StoreError::Full(failure) => self.health.disk().found_by_store(failure),
            StoreError::Later(failure) => self.health.set_file_not_ready(failure),
            StoreError::Failed(failure) => self.poison(failure),
            // That concerns its application alone.
            StoreError::Poisoned => {}
        }
        if !self.health.is_forked() {
            self.space.wake();
        }
    }

    /// Brings the meta row up to date, as every write of it does: the time, and the length of the
    /// log.
    pub(in crate::engine) fn stamp(&self, meta: &mut Meta) {
        meta.set_time(self.clock.mark());
        meta.log_bytes = self.space.durable_bytes();
    }

    /// Whether full segments of the log are worth a commit of the store.
    pub(super) fn is_log_full(&self) -> bool {
        self.space.has_sealed()
            && self.space.is_recycling_wanted(self.commit_cost().log_bytes(self.options.log_bytes_max()))
    }

    /// Whether a body in the store has expired, or a body that waits for the next checkpoint.
    pub(super) fn has_due(&self, now: Timestamp) -> bool {
        self.store.has_due(now) || self.publisher.has_due(now)
    }

    /// Whether expired bodies alone are worth a commit of the store by now.
    pub(super) fn is_reclaim_due(&self, maintenance: &MaintenanceState, now: Timestamp) -> bool {
        now >= maintenance.reclaim_by
            || now >= maintenance.reclaim_at
                && self.store.has_due_bytes(now, self.commit_cost().reclaim_pays_at())
    }

    pub(super) fn commit_cost(&self) -> CommitCost {
        CommitCost::of(self.store.file_bytes())
    }

    /// How long ago the oldest commit was made that no checkpoint has moved to the store.
    pub(in crate::engine) fn checkpoint_lag(&self) -> Duration {
        let since = self.publisher.tail_lag().1;
        since.map_or(Duration::ZERO, |since| self.clock.now().saturating_since(since))
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::time::Duration;

    use crate::Begin;
    use crate::Completion;
    use crate::Engine;
    use crate::Fingerprint;
    use crate::sim::ManualClock;
    use crate::sim::SimDisk;

    const SECOND: Duration = Duration::from_secs(1);

    fn engine(clock: &ManualClock, ttl: Duration) -> Engine {
        Engine::options().disk(&SimDisk::new()).clock(clock).stepped().ttl(ttl).open("x.idem").unwrap()
    }

    fn complete(engine: &Engine, key: &str, ttl: Duration) {
        match engine.default_scope().begin(key, Fingerprint::of("")) {
            Ok(Begin::Fresh(claim)) => {
                claim.complete_with("reply", Completion::new().ttl(ttl)).map(drop).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_no_checkpoint_has_stored_is_as_old_as_the_first_of_it() {
        let clock = ManualClock::at_millis(1_000);
        let engine = engine(&clock, 60 * SECOND);
        complete(&engine, "first", SECOND);
        clock.advance(5 * SECOND);
        complete(&engine, "second", SECOND);
        clock.advance(SECOND);
        assert_eq!(engine.stats().checkpoint_lag, 6 * SECOND);
        engine.checkpoint().unwrap();
        assert_eq!(engine.stats().checkpoint_lag, Duration::ZERO);
    }

    #[test]
    fn room_in_the_file_is_had_back_forty_times_a_ttl() {
        let clock = ManualClock::at_millis(1_000);
        let engine = engine(&clock, 200 * SECOND);
        complete(&engine, "first", SECOND);
        complete(&engine, "second", 2 * SECOND);
        engine.checkpoint().unwrap();
        assert!(!engine.step().checkpointed);
        clock.advance(SECOND);
        assert!(engine.step().checkpointed);
        clock.advance(SECOND);
        assert!(!engine.step().checkpointed, "it is not time yet");
        clock.advance(4 * SECOND);
        assert!(engine.step().checkpointed);
        assert_eq!(engine.stats().reclaimed_blocks, 2);
    }
}
