//! The worker: does the background work, as a thread or in steps.

use std::time::Duration;

use crate::Timestamp;
use crate::clock::Deadline;
use crate::engine::core::Core;
use crate::engine::core::disk_full::RETRY_AFTER;
use crate::engine::core::maintenance::MaintenanceGuard;
use crate::engine::core::stepped::Stepped;
use crate::foreign::contain;
use crate::task::notifier::Listener;

impl Core {
    /// How often the worker reads the clock.
    pub(super) fn tick(&self) -> Duration {
        (self.options.policy.ttl / 40).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// How long the worker sleeps if no call wakes it. Callers that wait because of a full disk
    /// wait for its next try.
    fn next_step(&self) -> Duration {
        let retries = self.health.disk().any().is_some() && self.space.is_waited_for();
        if retries { self.tick().min(RETRY_AFTER) } else { self.tick() }
    }

    /// Does the work that is due.
    pub(in crate::engine) fn step(&self) -> Stepped {
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
            self.help_tasks();
            self.keep_time();
        }
        // Code of others ran: in a forked child nothing more is to be done.
        if self.is_closed() {
            return stepped;
        }
        // First, because callers wait for it.
        self.grow();
        self.unless_forked(|| self.sweep(now, &mut stepped));
        self.unless_forked(|| self.mark(now));
        self.unless_forked(|| self.commit.drain());
        self.unless_forked(|| self.maintain_files(now, &mut stepped));
        self.unless_forked(|| self.commit.drain());
        self.unless_forked(|| self.tell_of_trouble());
        stepped
    }

    /// Does this step, unless a task that an earlier one woke has forked, and this is the child.
    fn unless_forked(&self, step: impl FnOnce()) {
        if !self.health.is_forked() {
            step();
        }
    }

    /// Room in the log and in the file.
    fn maintain_files(&self, now: Timestamp, stepped: &mut Stepped) {
        // Another thread may hold the maintenance lock for long. Space in the log does not wait
        // for that.
        self.grow();
        if self.health.is_forked() {
            return;
        }
        let Some(mut maintenance) = self.lock_maintenance_in_turn(|| self.is_late(now)) else { return };
        let _turn = WorkersTurn(self);
        self.maintenance.set_worker_due(now.saturating_add(self.tick()));
        if self.is_closed() {
            return;
        }
        // Before the checkpoint too: callers that wait for room wait for this, not for the store.
        self.grow();
        let reclaim = self.has_due(now) && self.is_reclaim_due(&maintenance, now);
        let is_due = reclaim
            || self.is_log_full()
            || self.fences.are_short()
            || maintenance.unprepared.is_some()
            || self.health.store_is_busy().is_some();
        stepped.checkpointed = is_due && {
            let by = self.commit_cost().reclaim_after(self.options.policy.ttl).1;
            maintenance.reclaim_by = now.saturating_add(by);
            self.checkpoint(&mut maintenance)
        };
        if self.is_closed() {
            return;
        }
        self.grow();
        stepped.compacted = !self.health.is_forked() && self.compact_when_idle(&mut maintenance);
    }

    /// Whether the worker has not had the maintenance lock for a tick, or callers wait for a
    /// checkpoint.
    fn is_late(&self, now: Timestamp) -> bool {
        // A stepped engine may never be stepped again.
        self.options.workers && (now >= self.maintenance.worker_due() || self.space.awaits_checkpoint())
    }

    /// The maintenance lock, if it is free. Otherwise lets no further thread have it before the
    /// worker, if the worker is late. The lock's holder wakes the worker when it is done.
    fn lock_maintenance_in_turn(&self, is_late: impl FnOnce() -> bool) -> Option<MaintenanceGuard<'_>> {
        self.try_lock_maintenance().or_else(|| {
            if !is_late() {
                return None;
            }
            self.maintenance.keep_for_worker();
            // The holder may have left just before that. Then nobody wakes the worker.
            self.try_lock_maintenance()
        })
    }

    /// Stands in for the engine's other threads: leads for a turn, and reads if the engine has no
    /// thread for that.
    pub(in crate::engine) fn help_tasks(&self) {
        self.commit.lead_a_turn();
        if !self.options.workers {
            self.reads.serve(&self.store, &self.clock, None);
        }
    }
}

/// The worker's turn to have the maintenance lock. Other threads may have it next once this is
/// dropped.
struct WorkersTurn<'a>(&'a Core);

impl Drop for WorkersTurn<'_> {
    fn drop(&mut self) {
        // In a child that a task forked it may be locked for ever.
        if !self.0.health.is_forked() {
            self.0.maintenance.let_others_in();
        }
    }
}

/// The worker's thread: steps when it is woken, and once a tick.
pub(in crate::engine) fn work(core: &Core, listener: &Listener) {
    // No thread waits for a worker that is gone.
    let _turns = WorkersTurn(core);
    loop {
        if !core.health.is_open() {
            return;
        }
        let tick = Deadline::after(core.next_step());
        let next = contain(|| core.stand_in()).unwrap_or(Deadline::NEVER);
        if !listener.wait(tick.min(next)) || !core.health.is_open() {
            return;
        }
        // After a panic nothing is granted any more, but the worker may stand in for threads that
        // could not be started.
        contain(|| core.step());
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::*;
    use crate::Engine;
    use crate::sim::ManualClock;
    use crate::sim::SimDisk;

    const SECOND: Duration = Duration::from_secs(1);

    fn engine(clock: &ManualClock, ttl: Duration) -> Engine {
        Engine::options().disk(&SimDisk::new()).clock(clock).stepped().ttl(ttl).open("x.idem").unwrap()
    }

    #[test]
    fn the_worker_looks_at_the_clock_forty_times_a_ttl_within_limits() {
        let clock = ManualClock::at_millis(1_000);
        for (ttl, tick) in [(100 * SECOND, SECOND), (4 * SECOND, SECOND / 10), (SECOND / 10, SECOND / 50)] {
            assert_eq!(engine(&clock, ttl).handle.core().tick(), tick);
        }
    }

    /// The lock was kept for a worker that slept, and a close waited a second for nothing.
    #[test]
    fn a_worker_that_keeps_the_lock_as_its_holder_leaves_has_it() {
        let engine = engine(&ManualClock::at_millis(1_000), SECOND);
        let core = engine.handle.core();
        let (has_it, held) = std::sync::mpsc::sync_channel(1);
        let (go, may_go) = std::sync::mpsc::sync_channel::<()>(1);
        std::thread::scope(|threads| {
            let holder = threads.spawn(move || {
                let lock = core.lock_maintenance();
                has_it.send(()).unwrap();
                // The other side is dropped.
                may_go.recv().unwrap_err();
                drop(lock);
            });
            held.recv().unwrap();
            let leaves = || {
                drop(go);
                holder.join().is_ok()
            };
            let turn = core.lock_maintenance_in_turn(leaves);
            core.maintenance.let_others_in();
            assert!(turn.is_some());
        });
    }
}
