//! When the work of the background is due.

use std::path::PathBuf;

use super::compaction::Compaction;
use crate::Timestamp;
use crate::wal::Identity;

/// When what is due.
#[derive(Debug, Default)]
pub(crate) struct MaintenanceState {
    pub(super) sweep_at: Timestamp,
    /// When the next commit may come for what is due, if that is worth one,
    pub(super) reclaim_at: Timestamp,
    /// and when in any case.
    pub(super) reclaim_by: Timestamp,
    pub(super) mark_at: Timestamp,
    pub(super) retry_at: Timestamp,
    /// The log, where it is not prepared for this opening yet.
    pub(super) unprepared: Option<Unprepared>,
    pub(super) compaction: Compaction,
}

/// A log that is not prepared yet.
#[derive(Debug)]
pub(super) struct Unprepared {
    /// The file's.
    pub(super) path: PathBuf,
    pub(super) id: Identity,
    /// The highest sequence that the log has.
    pub(super) last_seq: u64,
}
