//! What an engine tells of itself.

use std::time::Duration;

use super::core::Core;
use crate::sync::{AtomicU64, Ordering};

/// A snapshot of an engine's counters and sizes. Counters start at zero when the file is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// Keys in the index: records, claims that are out, interrupted claims, and what has expired but was not yet removed.
    pub entries: usize,
    /// Claims that are out.
    pub in_flight: usize,
    /// Bytes of memory of the index itself.
    pub index_bytes: usize,
    /// Bytes of memory of records that are cached or not yet stored.
    pub cached_bytes: usize,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Begins that were granted a claim.
    pub fresh: u64,
    /// Of those, the ones that follow an interruption.
    pub interrupted: u64,
    /// Begins that found another's claim.
    pub waited: u64,
    /// Begins that got a record.
    pub replayed: u64,
    /// Records that had to be read from disk.
    pub loaded: u64,
    /// Begins that were refused because the key was used with another fingerprint.
    pub reused: u64,
    /// Begins that were refused because the key's record is no longer replayed: late retries.
    pub late: u64,
    /// Group commits.
    pub commits: u64,
    /// Entries in all of them.
    pub committed_entries: u64,
    /// Bytes in all of them.
    pub committed_bytes: u64,
    /// Entries in the largest of them.
    pub commit_entries_max: u64,
    /// Time spent writing and syncing, in all commits together.
    pub commit_time_total: Duration,
    /// The longest commit.
    pub commit_time_max: Duration,
    /// Checkpoints: moves of the log's content to the file.
    pub checkpoints: u64,
    /// How long ago the oldest commit was made that is not checkpointed yet.
    pub checkpoint_lag: Duration,
    /// Keys removed from memory because they were no longer to be remembered.
    pub expired: u64,
    /// Blocks of the file whose room was reclaimed because all bodies in them had expired.
    pub reclaimed_blocks: u64,
    /// By how many milliseconds the wall clock is ahead of the engine's now (negative: behind).
    pub clock_lag_ms: i64,
}

impl Stats {
    /// Entries in a commit, on average.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an average to look at")]
    pub fn commit_entries_mean(&self) -> f64 {
        if self.commits == 0 { 0.0 } else { self.committed_entries as f64 / self.commits as f64 }
    }

    /// Time of a commit, on average.
    #[must_use]
    pub fn commit_time_mean(&self) -> Duration {
        let nanos = self.commit_time_total.as_nanos() / u128::from(self.commits.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Core {
    pub(super) fn stats(&self) -> Stats {
        if self.gate.is_forked() {
            return Stats::default();
        }
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (sizes, hits, commit) = (self.index.sizes(), self.index.hits(), self.commit.stats());
        Stats {
            entries: sizes.keys,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            index_bytes: sizes.table_bytes,
            cached_bytes: sizes.cached_bytes,
            file_bytes: self.store.file_bytes(),
            log_bytes: self.room.file_bytes(),
            fresh: load(&self.counters.fresh),
            interrupted: load(&self.counters.interrupted),
            waited: hits.waited,
            replayed: hits.replayed,
            loaded: hits.loaded,
            reused: load(&self.counters.reused),
            late: load(&self.counters.late),
            commits: commit.commits,
            committed_entries: commit.entries,
            committed_bytes: commit.bytes,
            commit_entries_max: commit.group_max,
            commit_time_total: commit.time_total,
            commit_time_max: commit.time_max,
            checkpoints: load(&self.counters.checkpoints),
            checkpoint_lag: self.checkpoint_lag(),
            expired: load(&self.counters.expired),
            reclaimed_blocks: load(&self.counters.reclaimed_blocks),
            clock_lag_ms: self.clock.wall_ahead_ms(),
        }
    }
}
