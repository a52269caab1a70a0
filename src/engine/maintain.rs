//! The work of the background: checkpoints, room in the log, expiry. Done by a thread, or stepped by hand.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::commit_cost::{CommitCost, RECLAIM_MIN};
use super::compaction::Space;
use super::core::{CallWorker, Core, Counters};
use super::disk_full::RETRY_AFTER;
use super::forget::vacated_entry;
use super::maintenance_state::MaintenanceState;
use super::publisher::Op;
use crate::Timestamp;
use crate::activity::{Activity, ActivityMark, is_inside};
use crate::attempt::Ended;
use crate::clock::Deadline;
use crate::codec::Entry;
use crate::commit::Duty;
use crate::error::{Busy, CommitError, Failure};
use crate::index::Slot;
use crate::key::Digest;
use crate::record::Record;
use crate::store::{Applied, Batch, Meta, OpenTransaction, StoreError};
use crate::sync::{Arc, MutexGuard, Ordering};
use crate::task::caller::Caller;
use crate::task::notifier::Listener;
use crate::task::wait_queue::Priority;
use crate::wal::Reservation;
use crate::wal::frame::entry_bytes_max;

/// The engine is idle when nothing was committed for so many [ticks](Core::tick): ten seconds, or a quarter of a short TTL.
const IDLE_TICKS: u32 = 10;
/// Interrupted claims that the sweeper vacates in one commit.
const VACATE_MAX: usize = 256;

/// How often the worker looks whether the files are still where they were opened.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The engine's clock is late by this much at most.
const CLOCK_TICK: Duration = Duration::from_millis(10);

/// What a step did; for tests and for tools that step by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// Whether the log's content was moved to the store.
    pub checkpointed: bool,
    /// Keys that had expired and were removed from memory.
    pub swept: usize,
    /// Cells of the index that were passed to find them.
    pub passed: usize,
}

impl Core {
    /// How often the worker looks at the clock.
    pub(super) fn tick(&self) -> Duration {
        (self.options.policy.ttl / 40).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// How long the worker sleeps where nobody calls it. Callers that wait for a full disk wait for its next try.
    fn next_step(&self) -> Duration {
        let retries = self.full.any().is_some() && self.space.is_waited_for();
        if retries { self.tick().min(RETRY_AFTER) } else { self.tick() }
    }

    /// Does what is due.
    pub(super) fn step(&self) -> Stepped {
        if self.is_inside() || self.is_closed() {
            return Stepped::default();
        }
        self.or_poison(|| self.do_what_is_due())
    }

    fn do_what_is_due(&self) -> Stepped {
        self.clock.notice_sleep();
        let now = self.clock.now();
        let mut stepped = Stepped::default();
        self.look_for_files(now);
        if !self.options.workers {
            // Without the maintenance lock, for it wakes: wakers are code of others.
            self.timers.fire();
            self.help_tasks();
            self.expire_leases(now);
        }
        // Code of others ran: in a forked child nothing more is to be done.
        if self.is_closed() {
            return stepped;
        }
        if self.is_time_to_sweep(now) {
            self.sweep(now, &mut stepped);
        }
        self.commit.drain();
        stepped.checkpointed = self.keep_house(now);
        self.commit.drain();
        self.tell_of_trouble();
        stepped
    }

    /// Fires deadlines and tells of leases that have ended. It does no I/O and waits for nobody, so that neither is late while the disk
    /// is slow or the log is moved to the store.
    pub(super) fn keep_time(&self) {
        self.clock.notice_sleep();
        self.timers.fire();
        // Code of others ran.
        if !self.is_closed() {
            self.expire_leases(self.clock.now());
        }
    }

    fn expire_leases(&self, now: Timestamp) {
        for attempt in self.leases.take_due(now) {
            self.expire_if_due(&attempt);
        }
    }

    /// When to [keep time](Self::keep_time) next.
    pub(super) fn next_end(&self) -> Deadline {
        let timer = self.timers.next().map_or(Deadline::NEVER, Deadline::at);
        let lease = self.leases.next().map_or(Deadline::NEVER, |at| {
            // Once a tick in any case: the machine may sleep meanwhile, and leases go on.
            Deadline::after((at.saturating_since(self.clock.now()) + CLOCK_TICK).min(self.tick()))
        });
        timer.min(lease)
    }

    /// Stops the engine where one of its files was taken away. Looks once a second; a stepped engine does at every step.
    fn look_for_files(&self, now: Timestamp) {
        let due = Timestamp::from_millis(self.look_at_ms.load(Ordering::Relaxed));
        if self.options.workers && now < due || self.commit.failure().is_some() {
            return;
        }
        let next = now.saturating_add(LOOK_EVERY);
        self.look_at_ms.store(next.as_millis(), Ordering::Relaxed);
        // Once closed, the files are no longer this engine's business.
        if let Some(failure) = self.taken_away()
            && !self.is_closed()
        {
            drop(self.poisoned.set(failure.clone()));
            self.commit.stop(&failure);
        }
    }

    /// The failure that stands for a file whose path leads elsewhere by now, if there is one.
    fn taken_away(&self) -> Option<Failure> {
        if self.store.is_taken_away() {
            return Some(Failure::TakenAway(self.store.path().to_owned()));
        }
        let log = self.log.lock().clone()?;
        log.is_taken_away().then(|| Failure::TakenAway(log.path().to_owned()))
    }

    fn is_time_to_sweep(&self, now: Timestamp) -> bool {
        let Some(mut maintenance) = self.maintenance.try_lock() else { return false };
        let due = now >= maintenance.sweep_at;
        if due {
            maintenance.sweep_at = now.saturating_add(self.tick());
        }
        due
    }

    /// Room in the log and in the file; whether there was a checkpoint.
    fn keep_house(&self, now: Timestamp) -> bool {
        // Whoever has the maintenance lock may keep it for long. Neither space in the log, nor deadlines and leases, must wait for that.
        self.grow();
        let Some(mut maintenance) = self.maintenance.try_lock() else { return false };
        let _maintains = self.maintains();
        if self.is_closed() {
            return false;
        }
        // Before the checkpoint too: callers who wait for room wait for this, not for the store.
        self.grow();
        let reclaim = self.has_due(now) && self.is_reclaim_due(&maintenance, now);
        let is_due = reclaim
            || self.is_log_full()
            || self.fences.are_short()
            || maintenance.unprepared.is_some()
            || self.full.of_store().is_some();
        let checkpointed = is_due && {
            let checkpointed = self.checkpoint(&mut maintenance);
            let (after, by) = self.commit_cost().reclaim_after(self.options.policy.ttl);
            (maintenance.reclaim_at, maintenance.reclaim_by) =
                (now.saturating_add(after), now.saturating_add(by));
            checkpointed
        };
        self.grow();
        self.mark(&mut maintenance, now);
        self.compact_when_idle(&mut maintenance, now);
        checkpointed
    }

    fn commit_cost(&self) -> CommitCost {
        CommitCost::of(self.store.file_bytes())
    }

    /// Whether full segments of the log are worth a commit of the store.
    fn is_log_full(&self) -> bool {
        self.space.has_sealed()
            && self.space.is_recycling_wanted(self.commit_cost().log_bytes(self.options.log_bytes_max()))
    }

    /// Whether it is time for a commit of the store for what has expired alone.
    fn is_reclaim_due(&self, maintenance: &MaintenanceState, now: Timestamp) -> bool {
        now >= maintenance.reclaim_by
            || now >= maintenance.reclaim_at
                && self.store.has_due_bytes(now, self.commit_cost().reclaim_pays_at())
    }

    /// Whether a body in the store has expired, or one that the next checkpoint would write there.
    fn has_due(&self, now: Timestamp) -> bool {
        self.store.has_due(now) || self.publisher.has_due(now)
    }

    /// What the engine's other threads do for tasks, done by the caller: leads for a turn, and reads where nobody else would.
    pub(super) fn help_tasks(&self) {
        self.commit.lead_a_turn();
        if !self.options.workers {
            self.reads.serve(&self.store);
        }
    }

    /// Makes room in the log, whether it is time or not.
    pub(super) fn make_room(&self) {
        if self.has_maintenance_lock() || self.is_closed() {
            return;
        }
        self.commit.drain();
        let mut maintenance = self.maintenance.lock();
        let _maintains = self.maintains();
        if self.is_closed() {
            return;
        }
        self.or_poison(|| {
            if self.publisher.tail_lag().0 > 0 || maintenance.unprepared.is_some() {
                self.checkpoint(&mut maintenance);
            }
            self.grow_alone(self.growing.lock());
        });
    }

    /// Marks the thread that has the maintenance lock: wakers run under it.
    pub(super) fn maintains(&self) -> ActivityMark {
        ActivityMark::enter(&self.commit, Activity::Maintains)
    }

    /// Whether the calling thread has the maintenance lock, further up its stack.
    fn has_maintenance_lock(&self) -> bool {
        is_inside(&self.commit, &[Activity::Maintains, Activity::Transaction])
    }

    /// Looked at by whoever has the maintenance lock: what is closed is not touched again.
    fn is_closed(&self) -> bool {
        !self.gate.is_open()
    }

    /// Checkpoints now, whatever is due.
    pub(super) fn checkpoint_on_request(&self) -> Result<(), Failure> {
        if self.has_maintenance_lock() {
            // This thread makes a checkpoint, or is in a transaction that is one.
            return Ok(());
        }
        self.gate.check_process()?;
        let _afterwards = CallWorker(self);
        let mut maintenance = self.maintenance.lock();
        let _maintains = self.maintains();
        maintenance.retry_at = Timestamp::default();
        // A closed engine was checkpointed as it closed.
        if self.is_closed() || self.or_poison(|| self.checkpoint(&mut maintenance)) {
            return Ok(());
        }
        let failure = self.commit.failure().or(self.poisoned.get()).cloned();
        failure.or_else(|| self.full.of_store().map(Failure::Io)).map_or(Ok(()), Err)
    }

    /// Moves what the log holds to the store and frees its segments; drops expired blocks on the way.
    fn checkpoint(&self, maintenance: &mut MaintenanceState) -> bool {
        let now = self.clock.now();
        let was_full = self.full.of_store().is_some();
        if self.poisoned.get().is_some() || was_full && now < maintenance.retry_at {
            return false;
        }
        maintenance.retry_at = now.saturating_add(RETRY_AFTER);
        // After a full disk redb takes no more writes until it is opened again.
        let ready = if was_full { self.store.reopen() } else { Ok(()) };
        let moved = ready.and_then(|()| match &mut maintenance.unprepared {
            None => self.apply_tail(None),
            unprepared @ Some(_) => self.prepare(unprepared),
        });
        match moved {
            Ok(()) => true,
            Err(error) => {
                self.checkpoint_failed(error);
                false
            }
        }
    }

    /// Sees to it that the store takes a transaction; for whoever has the maintenance lock.
    pub(super) fn make_store_ready(&self, maintenance: &mut MaintenanceState) -> Result<(), CommitError> {
        if self.is_closed() {
            return Err(CommitError::Closed);
        }
        if let Some(failure) = self.commit.failure().or(self.poisoned.get()) {
            return Err(CommitError::Failed(failure.clone()));
        }
        if self.full.of_store().is_some() {
            maintenance.retry_at = self.clock.now().saturating_add(RETRY_AFTER);
            self.store.reopen().map_err(|error| self.store_refused(error))?;
        }
        self.prepare(&mut maintenance.unprepared).map_err(|error| self.store_refused(error))
    }

    /// Notes that the store refused a transaction; gives what to tell whoever wanted it.
    pub(super) fn store_refused(&self, error: StoreError) -> CommitError {
        self.checkpoint_failed(error.clone());
        match error {
            StoreError::Full(failure) => CommitError::Busy(Busy::DiskFull(failure)),
            StoreError::Failed(failure) => CommitError::Failed(failure),
        }
    }

    /// Moves what the log holds to the store, in the transaction of whoever completes a claim with it, if there is one.
    pub(super) fn apply_tail(&self, completes: Option<(OpenTransaction, &Record)>) -> Result<(), StoreError> {
        // A tail that is taken and neither stored nor put back must not be forgotten: the log stays the truth then.
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
        self.full.store_has_room();
        self.fences.move_limit(limit);
        self.space.recycle(seq);
        self.index.evict();
        Counters::add(&self.counters.checkpoints, 1);
        Counters::add(&self.counters.reclaimed_blocks, applied.reclaimed);
        applied.cold.iter().for_each(|record| self.index.drop_cached(record));
        Ok(())
    }

    /// Writes a batch, and to the meta row what `change` sets and what it always says.
    fn store_batch(
        &self,
        begun: Option<OpenTransaction>,
        batch: &Batch,
        change: impl FnOnce(&mut Meta),
    ) -> Result<Applied, StoreError> {
        let change = |meta: &mut Meta| {
            change(meta);
            self.stamp(meta);
        };
        self.store.apply(begun, batch, self.clock.now(), change, |from, tombstone| {
            self.index.pin_in_memory(from, tombstone)
        })
    }

    /// Does some of the background's work. Where it panics nobody would do the rest: then nothing is granted any more.
    pub(super) fn or_poison<R>(&self, work: impl FnOnce() -> R) -> R {
        let unwinding = PoisonOnUnwind(self);
        let result = work();
        std::mem::forget(unwinding);
        result
    }

    fn checkpoint_failed(&self, error: StoreError) {
        match error {
            // Nothing is lost: the log still has it all. Claims are granted while it has room for their completions.
            StoreError::Full(failure) => self.full.found_by_store(failure),
            StoreError::Failed(failure) => self.poison(failure),
        }
        self.space.wake();
    }

    /// Grants no more claims. Those that are out can be completed, for the log is whole.
    fn poison(&self, failure: Failure) {
        // Only the first failure counts.
        drop(self.poisoned.set(failure));
        self.space.wake();
    }

    /// What every write of the meta row brings up to date.
    pub(super) fn stamp(&self, meta: &mut Meta) {
        meta.set_time(self.clock.mark());
        meta.log_bytes = self.space.durable_bytes();
    }

    /// Makes the log longer while little of it is free.
    pub(super) fn grow(&self) {
        if let Some(growing) = self.growing.try_lock() {
            self.grow_alone(growing);
        }
    }

    fn grow_alone(&self, _growing: MutexGuard<'_, ()>) {
        // None once the file is being let go.
        let _maintains = self.maintains();
        let Some(log) = self.log.lock().clone().filter(|_| !self.is_closed()) else { return };
        let now = self.clock.now();
        // Each try writes zeros until the disk is full. Where nothing runs by itself, each caller may try.
        if self.options.workers && self.full.is_too_early_for_log(now) {
            return;
        }
        while self.commit.failure().is_none() {
            let grown = match self.space.growth(self.options.log_bytes_max()) {
                Some(bytes) => log.grow(&self.space, bytes),
                // A log that wants nothing lacks nothing, also where the space came from a checkpoint.
                None => return self.full.log_has_room(),
            };
            match grown {
                Ok(()) => self.full.log_has_room(),
                Err(failure) if failure.is_disk_full() => {
                    self.full.found_by_log(failure, now);
                    return self.space.wake();
                }
                Err(failure) => return self.poison(Failure::Io(failure)),
            }
        }
    }

    /// Writes the time into the log when it has not been for a while, or when the wall clock was set forward, so that a crash does not
    /// forget it.
    fn mark(&self, maintenance: &mut MaintenanceState, now: Timestamp) {
        let has_leapt = self.clock.has_wall_leapt();
        if now < maintenance.mark_at && !has_leapt {
            return;
        }
        let every = (self.options.max_clock_jump / 4).clamp(Duration::from_secs(1), Duration::from_secs(600));
        let first = maintenance.mark_at == Timestamp::default();
        maintenance.mark_at = now.saturating_add(every);
        if first && !has_leapt {
            return;
        }
        self.append_unattended(&Entry::Mark.encoded(), Op::Mark, || true);
    }

    /// Gives room in the file back to the disk. redb doubles its file when it needs more and never shrinks it by
    /// itself; compacting keeps readers of records on disk waiting, so it is left to moments when nothing is committed.
    fn compact_when_idle(&self, maintenance: &mut MaintenanceState, now: Timestamp) {
        let is_idle =
            maintenance.compaction.is_idle(self.commit.stats().commits, now, IDLE_TICKS * self.tick());
        let stopped =
            self.commit.failure().is_some() || self.poisoned.get().is_some() || self.full.any().is_some();
        // What has expired goes first, in as many steps as it takes.
        if !is_idle
            || stopped
            || self.has_due(now)
            || !self.space().is_some_and(|space| maintenance.compaction.pays(space))
        {
            return;
        }
        let compacted = match self.store.compact() {
            // Somebody reads tables; it is tried again with the next step.
            Ok(false) => return,
            // The last commit has to be one of ours: what compaction commits would have to be repaired after a kill.
            Ok(true) => self.store_batch(None, &Batch::default(), |_| {}).map(drop),
            Err(error) => Err(error),
        };
        maintenance.compaction.is_over(self.space().unwrap_or_default());
        if let Err(error) = compacted {
            self.checkpoint_failed(error);
        }
    }

    /// What of the file is live; `None` where nobody knows.
    fn space(&self) -> Option<Space> {
        Some(Space { live: self.store.live_bytes()?, file: self.store.file_bytes() })
    }

    /// Appends an entry that nobody waits for, if `may`, asked under the queue's lock, says so and there is room; it can be made up
    /// for later.
    fn append_unattended(&self, entry: &[u8], op: Op, may: impl FnOnce() -> bool) -> bool {
        let cost = entry_bytes_max(entry.len()) as u64;
        let Some(mut reservation) = Reservation::try_new(&self.space, Priority::Claim, cost) else {
            return false;
        };
        let appended = self.commit.append_if(Caller::Thread, [(entry, op)], &mut reservation, |_| may());
        matches!(appended, Ok(Some(_)))
    }

    /// Removes expired keys from memory, a few cells under each lock, where enough have expired.
    fn sweep(&self, now: Timestamp, stepped: &mut Stepped) {
        let mut removed = 0;
        let mut interrupted = Vec::new();
        for shard in 0..self.index.shards() {
            if !self.index.is_pass_due(shard, now) {
                continue;
            }
            let mut from = 0;
            loop {
                let swept = self.index.sweep(shard, from, now);
                stepped.passed += swept.passed;
                removed += swept.removed;
                interrupted.extend(swept.interrupted);
                if swept.done {
                    break;
                }
                from += crate::index::CELLS_PER_STEP;
            }
        }
        // Their rows on disk have to go too, so these take the way of everything that changes the disk, some at a time.
        for digests in interrupted.chunks(VACATE_MAX) {
            removed += digests.iter().filter(|digest| self.vacate_if_expired(**digest, now)).count();
            self.commit.drain();
        }
        Counters::add(&self.counters.expired, removed);
        stepped.swept = removed;
    }

    /// Whether an interrupted key had expired, and its end went to the log.
    pub(super) fn vacate_if_expired(&self, digest: Digest, now: Timestamp) -> bool {
        let Slot::Interrupted(attempt) = self.index.get(digest) else { return false };
        if attempt.remembered_until() > now {
            return false;
        }
        let entry = vacated_entry(&attempt, None);
        // Behind the record of a later claim, which a checkpoint may have moved to the store by then, it would undo that.
        let still = Arc::clone(&attempt);
        let may = || matches!(self.index.get(digest), Slot::Interrupted(now) if Arc::ptr_eq(&now, &still));
        self.append_unattended(&entry, Op::Vacated(attempt, None), may)
    }

    /// Ends everything: refuses new work, commits what is queued, moves the log to the store, closes it.
    ///
    /// Claims that are out stay behind; their keys are interrupted when the file is opened again. Gives their number.
    pub(super) fn shut_down(&self) -> Result<usize, Failure> {
        // Before the gate, so that a caller that was told "closed" finds readers refused as well.
        self.store.refuse_table_readers();
        // It may be shut already, where no thread could be had to close the file.
        self.gate.shut();
        self.commit.close();
        // WaitList run from here on, and may close the engine as well.
        let _maintains = self.maintains();
        self.reads.close();
        self.space.wake();
        // Before the readers, who may wait for a claim.
        self.index.attempts_out().iter().for_each(|attempt| attempt.end(Ended::Closed));
        // Without the maintenance lock: a reader may wait for somebody that waits for it.
        self.store.await_table_readers();
        // Behind whoever is at work in the background; nobody starts after this.
        let maintenance = self.maintenance.lock();
        let mut left = self.index.attempts_out();
        for attempt in &left {
            attempt.end(Ended::Closed);
        }
        if self.commit.failure().or(self.poisoned.get()).is_none() {
            left.retain(|attempt| !self.withdraw_at_close(attempt));
        }
        let flushed = match self.commit.failure().or(self.poisoned.get()) {
            // There was nothing to bring up to date.
            Some(Failure::ReadOnly) => Ok(()),
            Some(failure) => Err(failure.clone()),
            // Even where a file was taken away: then that one is whole.
            None => self.last_checkpoint().and_then(|()| self.taken_away().map_or(Ok(()), Err)),
        };
        // The log first: whoever opens the store next will want it.
        let growing = self.growing.lock();
        let log = self.log.lock().clone();
        let unlocked = log.map_or(Ok(()), |log| log.unlock()).map_err(Failure::Io);
        let closed = self.store.close();
        drop((growing, maintenance));
        flushed.and(unlocked).and(closed).map(|()| left.len())
    }

    fn last_checkpoint(&self) -> Result<(), Failure> {
        let is_full = self.full.of_store().is_some();
        let ready = if is_full {
            // Nothing is opened again while tables are read, and there is no later try.
            self.store.await_table_readers();
            self.store.reopen()
        } else {
            Ok(())
        };
        let tail = self.publisher.take_tail();
        let applied = ready.and_then(|()| {
            self.store_batch(None, &tail.batch(RECLAIM_MIN), |meta| {
                meta.checkpointed_seq = tail.seq;
                meta.fence_next = self.fences.next();
                meta.log_empty = true;
            })
        });
        match applied {
            Ok(_) => Ok(()),
            // The log has it all; the next opening tries again.
            Err(StoreError::Full(failure)) => Err(Failure::Io(failure)),
            Err(StoreError::Failed(failure)) => Err(failure),
        }
    }

    /// How long ago the oldest commit was made that no checkpoint has moved to the store.
    pub(super) fn checkpoint_lag(&self) -> Duration {
        let since = self.publisher.tail_lag().1;
        since.map_or(Duration::ZERO, |since| self.clock.now().saturating_since(since))
    }
}

/// Turns a panic of the background's work into a halt. Forgotten where nothing went wrong.
struct PoisonOnUnwind<'a>(&'a Core);

impl Drop for PoisonOnUnwind<'_> {
    fn drop(&mut self) {
        self.0.poison(Failure::Panicked);
    }
}

/// The worker's thread: steps when it is called, and once a tick.
pub(super) fn work(core: &Core, listener: &Listener) {
    loop {
        if !core.gate.is_open() {
            return;
        }
        let tick = Deadline::after(core.next_step());
        let next = catch_unwind(AssertUnwindSafe(|| core.stand_in())).unwrap_or(Deadline::NEVER);
        if !listener.wait(tick.min(next)) || !core.gate.is_open() {
            return;
        }
        // After a panic nothing is granted any more, but the worker may stand in for threads that could not be started.
        drop(catch_unwind(AssertUnwindSafe(|| core.step())));
    }
}

/// The thread that waits for deadlines and the ends of leases. It has no other work, for either would wait for that.
pub(super) fn keep_time(core: &Core, listener: &Listener) {
    while listener.wait(core.next_end()) && core.gate.is_open() {
        // A panic of code of others is not the next deadline's affair.
        drop(catch_unwind(AssertUnwindSafe(|| core.keep_time())));
    }
}

/// The thread that leads commits where no caller does.
pub(super) fn lead(core: &Core, listener: &Listener) {
    while listener.wait(core.commit.lead_if_called(Duty::Sole)) && core.gate.is_open() {}
}

/// The thread that publishes where whoever leads has the next group to write.
pub(super) fn publish(core: &Core, listener: &Listener) {
    while listener.wait(Deadline::NEVER) && core.gate.is_open() {
        core.commit.publish_what_is_written();
    }
}

/// The thread that reads records for tasks.
pub(super) fn read(core: &Core, listener: &Listener) {
    while listener.wait(Deadline::NEVER) && core.gate.is_open() {
        core.reads.serve(&core.store);
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::*;
    use crate::sim::{ManualClock, SimDisk};
    use crate::{Begin, Completion, Engine, Fingerprint, Status};

    const SECOND: Duration = Duration::from_secs(1);

    fn engine(clock: &ManualClock, ttl: Duration) -> Engine {
        Engine::options().disk(&SimDisk::new()).clock(clock).stepped().ttl(ttl).open("x.idem").unwrap()
    }

    fn complete(engine: &Engine, key: &str, ttl: Duration) {
        match engine.begin(key, Fingerprint::of("")) {
            Ok(Begin::Fresh(claim)) => {
                claim.complete_with("reply", Completion::new().ttl(ttl)).map(drop).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_worker_looks_at_the_clock_forty_times_a_ttl_within_limits() {
        let clock = ManualClock::at_millis(1_000);
        for (ttl, tick) in [(100 * SECOND, SECOND), (4 * SECOND, SECOND / 10), (SECOND / 10, SECOND / 50)] {
            assert_eq!(engine(&clock, ttl).handle.core().tick(), tick);
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

    /// A sweep looks at the keys again, for its commits let others go on.
    #[test]
    fn only_an_interruption_whose_time_is_over_by_now_is_swept() {
        let clock = ManualClock::at_millis(1_000);
        let engine = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped().open("x.idem").unwrap();
        let core = engine.handle.core();
        let begin = || match engine.begin("key", Fingerprint::of("")) {
            Ok(Begin::Fresh(claim)) => claim,
            other => panic!("{other:?}"),
        };
        let digest = engine.default.inner.digest(b"key").unwrap();
        let sweep = || core.vacate_if_expired(digest, core.clock.now());
        assert!(!sweep());
        drop(begin());
        assert!(!sweep());
        let remembered = engine.policy().unresolved_ttl.unwrap();
        clock.advance(remembered);
        let again = begin();
        assert!(!sweep());
        drop(again);
        clock.advance(remembered);
        assert!(sweep());
        core.commit.drain();
        assert!(matches!(engine.get("key"), Ok(Status::Vacant)));
        assert_eq!(engine.stats().entries, 0);
    }

    #[test]
    fn the_engines_threads_end_where_nobody_can_call_them_any_more() {
        let engine = Engine::options().disk(&SimDisk::new()).stepped().open("x.idem").unwrap();
        for body in [work, lead, publish, read, keep_time] {
            let (_, listener) = crate::task::notifier::Notifier::pair();
            body(engine.handle.core(), &listener);
        }
    }
}
