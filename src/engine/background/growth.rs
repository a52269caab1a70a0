//! Growth of the log: makes it longer while little of it is free, so that callers find space.

use crate::engine::core::Core;
use crate::engine::core::maintenance::MaintenanceGuard;
use crate::error::Failure;
use crate::wal::Log;

impl Core {
    /// Makes the log longer while little of it is free.
    pub(in crate::engine) fn grow(&self) {
        if let Some(growing) = self.try_lock_growth() {
            self.grow_alone(growing);
        }
    }

    fn grow_alone(&self, _growing: MaintenanceGuard<'_, ()>) {
        // A closed engine does not touch its log.
        let Some(log) = self.log.get().filter(|_| !self.is_closed()) else { return };
        if !self.health.may_grow() {
            return;
        }
        self.grow_as_wanted(&log);
        if self.health.is_forked() {
            return;
        }
        // After a failed checkpoint the waiters for log space wait for this alone.
        if self.health.is_poisoned() && self.space.is_waited_for() && !self.may_log_grow() {
            self.space.wake();
        }
    }

    /// Whether the log may be made longer yet.
    pub(in crate::engine) fn may_log_grow(&self) -> bool {
        self.health.may_grow()
            && self.log.get().is_some()
            && self.space.may_grow(self.options.log_bytes_max())
    }

    fn grow_as_wanted(&self, log: &Log) {
        let now = self.clock.now();
        // Each try writes zeros until the disk is full. Where nothing runs by itself, each caller
        // may try.
        if self.options.workers && self.health.disk().is_too_early_for_log(now) {
            return;
        }
        // Wakers run at each step. In a child that one of them forks, the log is the parent's.
        while self.commit.failure().is_none() && !self.health.is_forked() {
            let grown = match self.space.growth(self.options.log_bytes_max()) {
                Some(bytes) => log.grow(&self.space, bytes),
                // A log that wants nothing lacks nothing, also where the space came from a
                // checkpoint.
                None => return self.health.disk().log_has_room(),
            };
            match grown {
                _ if self.health.is_forked() => return,
                Ok(()) => {
                    self.health.disk().log_has_room();
                    // The answer to callers that asked whether space may still come has changed.
                    if !self.may_log_grow() && self.space.is_waited_for() {
                        self.space.wake();
                    }
                }
                Err(failure) if failure.is_disk_full() => {
                    self.health.disk().found_by_log(failure, self.clock.now());
                    return self.space.wake();
                }
                Err(failure) => {
                    self.health.stop_growing();
                    return self.poison(Failure::Io(failure));
                }
            }
        }
    }

    /// Makes space in the log, due or not.
    pub(in crate::engine) fn make_room(&self) {
        if self.has_maintenance_lock() || self.is_closed() {
            return;
        }
        self.commit.drain();
        let mut maintenance = self.lock_maintenance();
        if self.is_closed() {
            return;
        }
        self.or_poison(|| {
            if self.publisher.tail_lag().0 > 0 || maintenance.unprepared.is_some() {
                self.checkpoint(&mut maintenance);
            }
            self.grow_alone(self.lock_growth());
        });
    }
}
