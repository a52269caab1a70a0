//! Maintenance: the locks of the background work, and when that work is due.

use std::path::PathBuf;

use super::compaction::Compaction;
use crate::Timestamp;
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

impl Maintenance {
    pub(in crate::engine) fn lock(&self) -> MutexGuard<'_, MaintenanceState> {
        self.state.lock()
    }

    pub(in crate::engine) fn try_lock(&self) -> Option<MutexGuard<'_, MaintenanceState>> {
        self.state.try_lock()
    }

    pub(in crate::engine) fn lock_growth(&self) -> MutexGuard<'_, ()> {
        self.growth.lock()
    }

    pub(in crate::engine) fn try_lock_growth(&self) -> Option<MutexGuard<'_, ()>> {
        self.growth.try_lock()
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
