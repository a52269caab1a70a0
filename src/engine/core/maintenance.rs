//! Maintenance: the locks of the background's work, and when that work is due.

use std::path::PathBuf;

use super::compaction::Compaction;
use crate::Timestamp;
use crate::error::Failure;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::wal::Identity;

/// The locks of the background's work.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    /// The maintenance lock. Its holder does the work of the background, I/O included. Begins and
    /// claims never wait for it, except a stepped engine that has to make room; closing does.
    state: Mutex<MaintenanceState>,
    /// The log grows. Locked under the maintenance lock, or without it, and held across I/O.
    growth: Mutex<()>,
    /// When the worker looks next whether the files are where they were opened, in ms.
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

    /// When to look for the files.
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
    /// When the next commit may come for what is due, if that is worth one,
    pub(in crate::engine) reclaim_at: Timestamp,
    /// and when in any case.
    pub(in crate::engine) reclaim_by: Timestamp,
    pub(in crate::engine) mark_at: Timestamp,
    pub(in crate::engine) retry_at: Timestamp,
    /// The log, where it is not prepared for this opening yet.
    pub(in crate::engine) unprepared: Option<Unprepared>,
    pub(in crate::engine) compaction: Compaction,
    /// What became of the last checkpoint, once the files of a closed engine are let go.
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
