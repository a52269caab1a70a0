//! Maintenance: the locks of the background work, and when that work is due.
//!
//! A lock is had only together with the mark on the thread that says so: wakers run under these
//! locks.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use super::compaction::Compaction;
use super::publisher::Publisher;
use crate::Timestamp;
use crate::activity::{Activity, ActivityMark};
use crate::commit::Commit;
use crate::error::Failure;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::wal::Identity;

/// The locks of the background work.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    /// The maintenance lock. Its holder does the background work, I/O included. Begins and claims
    /// never wait for it, unless a stepped engine has to make log space. Closing does.
    state: Mutex<MaintenanceState>,
    /// Held while the log grows, across I/O. Locked with or without the maintenance lock.
    growth: Mutex<()>,
    /// When the worker next checks that the files are where they were opened, in ms.
    look_at_ms: AtomicU64,
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
        MaintenanceGuard::new(of, self.state.lock())
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
}

/// When each kind of work is due.
#[derive(Debug, Default)]
pub(crate) struct MaintenanceState {
    pub(in crate::engine) sweep_at: Timestamp,
    /// When the next commit for expiry may come, if enough is due,
    pub(in crate::engine) reclaim_at: Timestamp,
    /// and when it comes in any case.
    pub(in crate::engine) reclaim_by: Timestamp,
    pub(in crate::engine) mark_at: Timestamp,
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
}
