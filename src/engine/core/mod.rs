//! The parts of an open engine, and what every call on them needs.

pub(super) mod closing;
pub(super) mod compaction;
pub(super) mod current_log;
pub(super) mod detached_claims;
pub(super) mod disk_full;
pub(super) mod ending_proof;
pub(super) mod entropy;
pub(super) mod fences;
pub(super) mod gate;
pub(super) mod health;
pub(super) mod log_record;
pub(super) mod maintenance;
pub(super) mod modes;
pub(super) mod observer_state;
mod option_limits;
pub(super) mod options;
pub(super) mod publisher;
pub(super) mod quota;
pub(super) mod reads;
pub(super) mod stepped;
pub(super) mod threads;

use crate::Timestamp;
use crate::activity::{Activity, ActivityMark, is_called, is_inside, is_inside_any};
use crate::attempt::Attempt;
use crate::clock::EngineClock;
use crate::commit::Commit;
use crate::engine::common::counters::Counters;
use crate::engine::common::leases::Leases;
use crate::engine::common::limits::Limits;
use crate::engine::common::policies::Policies;
use crate::error::{BeginError, Busy, CommitError};
use crate::index::{Change, Index, Slot};
use crate::key::Secret;
use crate::observer::{Cause, EndKind};
use crate::policy::Policy;
use crate::state::{Event, Fence, decide};
use crate::store::Store;
use crate::sync::{Arc, is_ours};
use crate::task::caller::Caller;
use crate::task::notifier::Notifier;
use crate::task::timers::Timers;
use crate::wal::LogSpace;
use closing::Closing;
use current_log::CurrentLog;
use detached_claims::DetachedClaims;
use fences::Fences;
use health::Health;
use maintenance::{Maintenance, MaintenanceGuard};
use observer_state::ObserverState;
use options::Options;
use publisher::Publisher;
use reads::Reads;
use threads::EngineThreads;

pub(crate) struct Core {
    pub(super) options: Options,
    pub(super) secret: Secret,
    pub(super) file_id: [u8; 16],
    pub(super) clock: Arc<EngineClock>,
    pub(super) index: Arc<Index>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) commit: Commit<Publisher>,
    pub(super) space: Arc<LogSpace>,
    pub(super) log: CurrentLog,
    pub(super) store: Store,
    pub(super) fences: Fences,
    /// The salt of this opening, which its tokens name.
    pub(super) opening: u64,
    pub(super) opened_at: Timestamp,
    /// Whether the engine may grant claims.
    pub(super) health: Health,
    pub(super) limits: Limits,
    /// What the observer already knows.
    pub(super) told: ObserverState,
    pub(super) closing: Closing,
    pub(super) threads: EngineThreads,
    pub(super) maintenance: Maintenance,
    /// Wakes the worker.
    pub(super) worker: Notifier,
    /// Wakes the timers' thread.
    pub(super) timekeeper: Notifier,
    /// Deadlines of tasks.
    pub(super) timers: Arc<Timers>,
    pub(super) reads: Reads,
    pub(super) policies: Arc<Policies>,
    pub(super) leases: Leases,
    pub(super) detached: DetachedClaims,
    pub(super) counters: Counters,
}

/// Wakes the worker when it is dropped, for the work that the worker left out while another
/// thread had the maintenance lock. Declared before the maintenance lock's guard.
pub(super) struct CallWorker<'a>(pub(super) &'a Core);

impl Drop for CallWorker<'_> {
    fn drop(&mut self) {
        self.0.worker.notify();
    }
}

/// Short, so that a log line does not contain the whole index.
impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("path", &self.store.path())
            .field("is_open", &self.health.is_open())
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Refuses a blocking call that would wait for its own thread. Asked before anything is
    /// changed.
    ///
    /// A thread that commits for another engine is refused too: a waker of that engine could wait
    /// for this one while a waker of this one waits for that.
    #[expect(clippy::unused_self, reason = "a refusal of this engine, as all others")]
    pub(super) fn check_blocking(&self, caller: Caller) -> Result<(), CommitError> {
        if caller == Caller::Thread && is_inside_any(&[Activity::Commits, Activity::Maintains]) {
            return Err(CommitError::InsideCallback);
        }
        Ok(())
    }

    /// Whether other callers depend on this thread: it is one of the engine's own, or one that
    /// [may not block](Self::check_blocking), or an engine called the code that it runs. In the
    /// last case its call may have claims that their callers do not have yet.
    pub(super) fn serves_others(&self) -> bool {
        is_ours() || is_called() || self.check_blocking(Caller::Thread).is_err()
    }

    /// Refuses a thread that would wait for a claim of another caller, if that caller may have to
    /// wait for this thread.
    pub(super) fn check_waiting(&self) -> Result<(), BeginError> {
        if self.serves_others() {
            return Err(BeginError::InsideCallback);
        }
        if self.holds_maintenance_up(Caller::Thread) {
            return Err(BeginError::InsideTransaction);
        }
        Ok(())
    }

    /// Whether the caller's wait would keep the maintenance lock from all others: it is a thread
    /// that writes in a transaction, or a task that the work of one polls. A task that is woken
    /// inside the work, by a commit that its thread leads, does not block that thread.
    pub(super) fn holds_maintenance_up(&self, caller: Caller) -> bool {
        match caller {
            Caller::Thread => is_inside(&self.commit, &[Activity::Works]),
            Caller::Task | Caller::Member => {
                is_inside(&self.commit, &[Activity::Works])
                    && !is_inside(&self.commit, &[Activity::Commits, Activity::Maintains])
            }
        }
    }

    /// The maintenance lock. Wakers run under it, so the guard marks the thread.
    pub(super) fn lock_maintenance(&self) -> MaintenanceGuard<'_> {
        self.maintenance.lock(&self.commit)
    }

    pub(super) fn try_lock_maintenance(&self) -> Option<MaintenanceGuard<'_>> {
        self.maintenance.try_lock(&self.commit)
    }

    /// The lock of a log that grows.
    pub(super) fn lock_growth(&self) -> MaintenanceGuard<'_, ()> {
        self.maintenance.lock_growth(&self.commit)
    }

    pub(super) fn try_lock_growth(&self) -> Option<MaintenanceGuard<'_, ()>> {
        self.maintenance.try_lock_growth(&self.commit)
    }

    /// Marks the thread that closes as if it had the maintenance lock, for which it will wait.
    pub(super) fn closes(&self) -> ActivityMark {
        ActivityMark::enter(&self.commit, Activity::Maintains)
    }

    /// Whether the calling thread has the maintenance lock, further up its stack.
    pub(super) fn has_maintenance_lock(&self) -> bool {
        is_inside(&self.commit, &[Activity::Maintains, Activity::Transaction, Activity::Works])
    }

    /// Whether the calling thread may wait for the maintenance lock. Not one that has it, nor one
    /// that the lock's holder may wait for: one that commits, or one of the engine's own, such as
    /// the worker, which makes the log longer.
    pub(super) fn may_wait_for_maintenance(&self) -> bool {
        !is_ours() && !self.has_maintenance_lock() && self.check_blocking(Caller::Thread).is_ok()
    }

    /// Whether the engine is closed. Work under the maintenance lock asks first, so that it does
    /// not touch the files of a closed engine.
    pub(super) fn is_closed(&self) -> bool {
        !self.health.is_open()
    }

    /// How a batch makes its calls: as tasks. A thread that must not wait makes each call as a
    /// thread, so that the call is refused where it would wait.
    pub(super) fn member(&self, caller: Caller) -> Caller {
        let must_not_wait = caller == Caller::Thread && self.serves_others();
        if must_not_wait { Caller::Thread } else { Caller::Member }
    }

    /// Whether a claim is the current one for its key, and its lease lasts.
    pub(super) fn is_good(&self, attempt: &Attempt) -> bool {
        let event = Event::Use { fence: attempt.fence, now: self.clock.now() };
        decide(self.index.get(attempt.digest).state(self.index.epoch()), event).becomes().is_some()
    }

    /// Whether a claim's lease is over, so that its caller could do nothing with it. Without a
    /// lease the clock is not read.
    #[inline]
    pub(super) fn is_too_late(&self, attempt: &Attempt) -> bool {
        attempt.lease.is_some() && attempt.lease_until() <= self.clock.now()
    }

    /// Removes an attempt that was never granted from the index.
    pub(super) fn put_back(&self, attempt: &Arc<Attempt>, before: Slot) {
        self.index.change(attempt.digest, |slot| {
            let is_it = slot.attempt().is_some_and(|current| Arc::ptr_eq(current, attempt));
            (if is_it { Change::Set(before) } else { Change::Keep }, ())
        });
    }

    /// A new claim's fence. After an error the caller wakes the worker, once it holds no lock.
    pub(super) fn next_fence(&self) -> Result<Fence, BeginError> {
        if let Ok(fence) = self.fences.draw() {
            return Ok(fence);
        }
        // Four million claims since the last checkpoint, which would move the limit.
        Err(BeginError::Busy(Busy::QueueFull { waited: std::time::Duration::ZERO }))
    }

    /// A scope's policy. In a forked child, where the table may be locked for ever, the default.
    pub(super) fn policy_of(&self, scope: &[u8]) -> Policy {
        if self.health.is_forked() { self.policies.default() } else { self.policies.of(scope) }
    }

    /// The scopes that have policies of their own, by name. None in a forked child.
    pub(super) fn declared_policies(&self) -> Vec<(Box<[u8]>, Policy)> {
        if self.health.is_forked() { Vec::new() } else { self.policies.declared() }
    }

    /// Waits until everything queued by now is durable.
    pub(super) async fn flush(&self, caller: Caller) -> Result<(), CommitError> {
        self.health.check_process().map_err(CommitError::Failed)?;
        self.check_blocking(caller)?;
        self.commit.flush(caller).await
    }

    /// Wakes all threads, so that they see the change.
    pub(super) fn call_all(&self) {
        self.worker.notify();
        self.commit.notify_threads();
        self.reads.notify();
        self.timekeeper.notify();
    }

    /// Counts an end of a claim that the log, or the store, has, and tells the observer.
    pub(super) fn count_end(&self, attempt: &Attempt, end: EndKind, body_len: usize) {
        self.counters.count_end(end);
        self.options.hooks.ended(attempt, end, || self.clock.now(), body_len);
    }

    /// Counts an interruption, and tells the observer.
    pub(super) fn tell_of_interruption(&self, attempt: &Attempt, cause: Cause) {
        Counters::count(match cause {
            Cause::Dropped => &self.counters.dropped,
            Cause::Lease => &self.counters.lease_expired,
            Cause::Restart => &self.counters.found_interrupted,
        });
        self.options.hooks.interrupted(attempt, cause);
    }
}
