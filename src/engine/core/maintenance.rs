//! Maintenance: the locks of the background work, and when that work is due.
//!
//! A thread gets a lock only together with the mark that says so, because wakers run under these
//! locks.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::Duration;

use super::compaction::Compaction;
use super::publisher::Publisher;
use crate::Timestamp;
use crate::activity::{Activity, ActivityMark};
use crate::clock::Deadline;
use crate::commit::Commit;
use crate::error::Failure;
use crate::key::Digest;
use crate::sync::{AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, is_ours};
use crate::wal::Identity;

/// How long the lock is kept for the worker at most: the worker may be held up by an observer that
/// waits for a thread at the door.
const KEPT_MAX: Duration = Duration::from_secs(1);

/// The locks of the background work.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    /// The maintenance lock. Its holder does the background work, I/O included. Begins and claims
    /// never wait for it, unless a stepped engine has to make log space. Closing does.
    state: Mutex<MaintenanceState>,
    /// Had while a thread waits for the maintenance lock, so that one thread at a time waits
    /// there. The worker never takes it.
    door: Mutex<()>,
    /// The worker is next: threads at the door wait until it has had its turn. Leaf lock.
    is_kept: Mutex<bool>,
    worker_was_there: Condvar,
    /// When the worker next must have had the maintenance lock, in ms.
    worker_due_ms: AtomicU64,
    /// Held while the log grows, across I/O. Locked with or without the maintenance lock.
    growth: Mutex<()>,
    /// When the worker next checks that the files are where they were opened, in ms.
    look_at_ms: AtomicU64,
    /// When the log next gets a time mark, in ms; 0 before the first step.
    mark_at_ms: AtomicU64,
    /// When expired keys are next looked for, in ms.
    sweep_at_ms: AtomicU64,
    /// The shard with which the next pass begins.
    sweep_from: AtomicUsize,
    /// Interrupted keys that were found expired and still have to be vacated. A pass finds them
    /// again. Leaf lock.
    to_vacate: Mutex<BTreeSet<Digest>>,
}

/// A lock of the background work, and the mark of its thread.
#[must_use = "the lock goes with it"]
pub(in crate::engine) struct MaintenanceGuard<'a, T = MaintenanceState> {
    state: MutexGuard<'a, T>,
    /// Dropped after the lock is released.
    mark: ActivityMark,
}

impl<'a, T> MaintenanceGuard<'a, T> {
    fn new(of: &Commit<Publisher>, state: MutexGuard<'a, T>) -> Self {
        Self { state, mark: ActivityMark::enter(of, Activity::Maintains) }
    }
}

impl MaintenanceGuard<'_> {
    /// Runs the work of an application's transaction under the lock. Unlike all other code that
    /// runs under it, the work may make blocking calls.
    pub(in crate::engine) fn lend<R>(&mut self, work: impl FnOnce() -> R) -> R {
        self.mark.lend(Activity::Works, work)
    }

    /// For a forked child, in which the lock is the parent's.
    pub(in crate::engine) fn leave_locked(self) {
        std::mem::forget(self.state);
    }
}

impl<T> Deref for MaintenanceGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for MaintenanceGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

impl Maintenance {
    pub(super) fn lock(&self, of: &Commit<Publisher>) -> MaintenanceGuard<'_> {
        // A thread of the engine is not late because of itself.
        let _door = (!is_ours()).then(|| self.wait_at_the_door());
        MaintenanceGuard::new(of, self.state.lock())
    }

    fn wait_at_the_door(&self) -> MutexGuard<'_, ()> {
        let door = self.door.lock();
        let at_most = Deadline::after(KEPT_MAX);
        let mut is_kept = self.is_kept.lock();
        while *is_kept
            && let Some(until) = at_most.instant()
            && !at_most.has_passed()
        {
            self.worker_was_there.wait_until(&mut is_kept, until);
        }
        // The threads behind this one do not each wait for as long: the worker asks anew.
        *is_kept = false;
        drop(is_kept);
        door
    }

    /// Keeps the lock for the worker once it is free: no thread that comes later gets it before
    /// the worker. The worker itself does not wait, because the lock's holder may wait for the
    /// worker, which makes the log longer.
    pub(in crate::engine) fn keep_for_worker(&self) {
        *self.is_kept.lock() = true;
    }

    /// The worker has had its turn, or comes no more.
    pub(in crate::engine) fn let_others_in(&self) {
        let was_kept = std::mem::take(&mut *self.is_kept.lock());
        if was_kept {
            self.worker_was_there.notify_all();
        }
    }

    /// When the worker must have had the lock.
    pub(in crate::engine) fn worker_due(&self) -> Timestamp {
        Timestamp::from_millis(self.worker_due_ms.load(Ordering::Relaxed))
    }

    pub(in crate::engine) fn set_worker_due(&self, at: Timestamp) {
        self.worker_due_ms.store(at.as_millis(), Ordering::Relaxed);
    }

    pub(super) fn try_lock(&self, of: &Commit<Publisher>) -> Option<MaintenanceGuard<'_>> {
        self.state.try_lock().map(|state| MaintenanceGuard::new(of, state))
    }

    pub(super) fn lock_growth(&self, of: &Commit<Publisher>) -> MaintenanceGuard<'_, ()> {
        MaintenanceGuard::new(of, self.growth.lock())
    }

    pub(super) fn try_lock_growth(&self, of: &Commit<Publisher>) -> Option<MaintenanceGuard<'_, ()>> {
        self.growth.try_lock().map(|state| MaintenanceGuard::new(of, state))
    }

    /// When to check the files.
    pub(in crate::engine) fn look_at(&self) -> Timestamp {
        Timestamp::from_millis(self.look_at_ms.load(Ordering::Relaxed))
    }

    pub(in crate::engine) fn set_look_at(&self, at: Timestamp) {
        self.look_at_ms.store(at.as_millis(), Ordering::Relaxed);
    }

    /// When to write a time mark.
    pub(in crate::engine) fn mark_at(&self) -> Timestamp {
        Timestamp::from_millis(self.mark_at_ms.load(Ordering::Relaxed))
    }

    pub(in crate::engine) fn set_mark_at(&self, at: Timestamp) {
        self.mark_at_ms.store(at.as_millis(), Ordering::Relaxed);
    }

    /// When to look for expired keys.
    pub(in crate::engine) fn sweep_at(&self) -> Timestamp {
        Timestamp::from_millis(self.sweep_at_ms.load(Ordering::Relaxed))
    }

    pub(in crate::engine) fn set_sweep_at(&self, at: Timestamp) {
        self.sweep_at_ms.store(at.as_millis(), Ordering::Relaxed);
    }

    /// Where to look for them first.
    pub(in crate::engine) fn sweep_from(&self) -> usize {
        self.sweep_from.load(Ordering::Relaxed)
    }

    /// A pass stops before this shard, and goes on there at the next step.
    pub(in crate::engine) fn stop_sweep_at(&self, shard: usize) {
        self.sweep_from.store(shard, Ordering::Relaxed);
        self.set_sweep_at(Timestamp::default());
    }

    /// Notes keys that have to be vacated.
    pub(in crate::engine) fn add_to_vacate(&self, digests: impl IntoIterator<Item = Digest>) {
        self.to_vacate.lock().extend(digests);
    }

    /// Up to so many keys that have to be vacated, and how many are left.
    pub(in crate::engine) fn take_to_vacate(&self, max: usize) -> (Vec<Digest>, usize) {
        let mut to_vacate = self.to_vacate.lock();
        let taken = std::iter::from_fn(|| to_vacate.pop_first()).take(max).collect();
        (taken, to_vacate.len())
    }
}

/// When each kind of work is due.
#[derive(Debug, Default)]
pub(crate) struct MaintenanceState {
    /// When the next commit for expiry may come, if enough is due,
    pub(in crate::engine) reclaim_at: Timestamp,
    /// and when it comes in any case.
    pub(in crate::engine) reclaim_by: Timestamp,
    pub(in crate::engine) retry_at: Timestamp,
    /// The log, while it is not prepared for this opening yet.
    pub(in crate::engine) unprepared: Option<Unprepared>,
    pub(in crate::engine) compaction: Compaction,
    /// The result of the last checkpoint, once a closed engine has released its files.
    pub(in crate::engine) closed: Option<Result<(), Failure>>,
}

/// A log that is not prepared yet.
#[derive(Debug)]
pub(in crate::engine) struct Unprepared {
    /// The file's.
    pub(in crate::engine) path: PathBuf,
    pub(in crate::engine) id: Identity,
    /// The highest sequence that the log has.
    pub(in crate::engine) last_seq: u64,
    /// All of the log that was found is durable, and names this opening.
    pub(in crate::engine) is_durable: bool,
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::*;
    use crate::engine::calls::lookup::tests::open;
    use crate::sync::spawn;

    #[test]
    fn a_thread_that_comes_while_the_lock_is_kept_for_the_worker_has_it_afterwards() {
        let engine = open();
        let core = engine.handle.core();
        let order = Mutex::new(Vec::new());
        core.maintenance.keep_for_worker();
        std::thread::scope(|threads| {
            let other = threads.spawn(|| {
                let _lock = core.lock_maintenance();
                order.lock().push("another thread");
            });
            while core.maintenance.door.try_lock().is_some() && !other.is_finished() {
                std::thread::yield_now();
            }
            let turn = core.try_lock_maintenance();
            order.lock().push("the worker");
            core.maintenance.let_others_in();
            drop(turn);
        });
        assert_eq!(*order.lock(), ["the worker", "another thread"]);
    }

    /// The worker is held up by an observer, say.
    #[test]
    fn threads_wait_for_a_worker_that_does_not_come_a_second_at_most() {
        let engine = open();
        let core = engine.handle.core();
        core.maintenance.keep_for_worker();
        let started = crate::clock::Stopwatch::start();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| drop(core.lock_maintenance()));
            }
        });
        let took = started.elapsed();
        core.maintenance.let_others_in();
        assert!(took < 2 * KEPT_MAX, "the last of four threads waited for {took:?}");
    }

    /// An observer that the worker tells may make any call.
    #[test]
    fn a_thread_of_the_engine_does_not_wait_until_the_worker_had_its_turn() {
        let engine = open();
        engine.handle.core().maintenance.keep_for_worker();
        let theirs = engine.clone();
        let started = crate::clock::Stopwatch::start();
        spawn("one", move || drop(theirs.handle.core().lock_maintenance())).unwrap().join().unwrap();
        assert!(started.elapsed() < KEPT_MAX / 2, "it waited for itself");
        engine.handle.core().maintenance.let_others_in();
    }

    /// Transactions one after the other have the lock nearly all the time.
    #[test]
    fn a_worker_that_has_not_had_the_lock_for_a_tick_is_next() {
        let engine = crate::Engine::options().disk(&crate::sim::SimDisk::new()).open("x.idem").unwrap();
        let core = engine.handle.core();
        let is_kept = || *core.maintenance.is_kept.lock();
        let until = |wanted: bool| {
            let started = crate::clock::Stopwatch::start();
            while is_kept() != wanted {
                assert!(started.elapsed() < 20 * KEPT_MAX, "kept for the worker: {}", !wanted);
                std::thread::yield_now();
            }
        };
        let held = core.lock_maintenance();
        until(true);
        // The holder wakes the worker, which lets others in after its turn.
        drop(held);
        core.worker.notify();
        until(false);
    }
}
