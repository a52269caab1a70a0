//! What there may be at each moment, and what a phase may have cost: the documents' promises as
//! formulas.

use crate::model::{DAY, HOUR, SECOND};

pub const MIB: u64 = 1 << 20;
pub const SEGMENT: u64 = 64 << 10;
/// A record in memory beside its body: the header and the names.
const RECORD_BYTES: u64 = 400;
/// The sweeper may be late by a minute, in a small index.
const SWEEP_LATE: u64 = 60 * SECOND;

/// How long a body may stay beyond its TTL, ms: ten minutes, or a fortieth of the default TTL, as
/// long as commits for that alone write no more than 64 MiB an hour.
pub fn body_late(default_ttl: u64, file: u64) -> u64 {
    let within_bound = commit(file) * HOUR / (64 * MIB);
    (default_ttl / 40).min(600 * SECOND).max(within_bound)
}

/// Bytes that a commit of the store writes besides what it is for.
pub fn commit(file: u64) -> u64 {
    (64 << 10) + file / 2_048
}

/// Bytes of records in memory: the cache, one reading's worth, and what no checkpoint has stored
/// and has not been gone for too long.
pub fn cached(cache: u64, unstored: impl Iterator<Item = u64>) -> u64 {
    cache + 2 * (4_096 + RECORD_BYTES) + unstored.map(|body| body + RECORD_BYTES).sum::<u64>()
}

/// Bytes of records in memory when nothing has happened for hours: no body that has expired.
pub fn cached_at_rest(bodies: impl Iterator<Item = u64>) -> u64 {
    bodies.map(|body| body + RECORD_BYTES).sum()
}

/// Keys in the index: those that are remembered, those that were until a moment ago, and a
/// sixteenth of the cells.
pub fn entries(live: u64, ended: impl Iterator<Item = u64>, now: u64, tick: u64) -> u64 {
    let recent = ended.filter(|until| until + SWEEP_LATE + 2 * tick > now).count() as u64;
    live + recent
}

/// Bytes of the file under load: it is doubled when it has to grow, and has slack.
pub fn file_under_load(peak: u64) -> u64 {
    3 * peak + 8 * MIB
}

/// Bytes of the file once it could be compacted.
pub fn file_at_rest(live: u64) -> u64 {
    4 * live + 6 * MIB
}

/// How often a file is compacted in a phase: when it is no longer written to, and again when half
/// of what was live has gone.
pub const COMPACTIONS: u64 = 4;

/// How often the file is tried to be opened again after a full disk, while readers of tables come
/// and go. Readers that come later wait for two seconds: a machine that stops for as long has to
/// try again.
pub const REOPENINGS: u64 = 10;

/// How often a record is read from disk that is asked for before each of so many other reads.
pub fn read_again(reads: u64) -> u64 {
    reads / 20
}

/// What happened in a phase.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phase {
    pub time: u64,
    /// Frames of the log, and bytes of bodies in them.
    pub frames: u64,
    pub bodies: u64,
    /// By how much the log grew: it is filled with zeros.
    pub log_grown: u64,
    /// Commits that were asked for.
    pub asked: u64,
    /// Bytes of the file for what was completed, and of what fell due.
    pub stored: u64,
    pub due: u64,
    /// Bytes of the file after each compaction, with the commit that follows it.
    pub compacted: u64,
    /// Keys that were no longer to be remembered.
    pub ended: u64,
    /// Most keys that the index ever had.
    pub entries: u64,
    pub file: u64,
    pub default_ttl: u64,
    pub shards: u64,
}

impl Phase {
    /// Bytes of the log: frames, and one for the time every ten minutes.
    fn log(&self) -> u64 {
        1_024 * (self.frames + self.time / (600 * SECOND) + 1) + self.bodies
    }

    /// Commits of the store.
    pub fn checkpoints(&self) -> u64 {
        let for_time = self.time / body_late(self.default_ttl, 0);
        let for_log = 2 * self.log() / SEGMENT;
        let worth = self.due / (8 * commit(0));
        // A body that expires is a reason, and a key: in all no more than there are.
        for_time.min(self.due / 64) + for_log + worth + self.asked + 3
    }

    /// Bytes written: the log's frames, what is stored and moved on, commits, compactions, and the
    /// time.
    pub fn written(&self, checkpoints: u64) -> u64 {
        let log = self.log() + self.log_grown;
        // Once, and once more where it is merged or leaves a tombstone. A compaction moves at most
        // what is there after it.
        let moved = 2 * self.stored + self.due / 4 + MIB;
        log + moved + checkpoints * commit(self.file) + self.compacted
    }

    /// Cells that the sweeper passed: sixteen a key that ended, twice so many for tables that
    /// differ, and all once a minute.
    pub fn passed(&self) -> u64 {
        let cells = 2 * self.entries + 64 * self.shards;
        32 * self.ended + cells * (self.time / (60 * SECOND) + 2)
    }
}

/// Days, rounded down.
pub fn days(ms: u64) -> u64 {
    ms / DAY
}
