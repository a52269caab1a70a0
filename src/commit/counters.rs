//! Counts of commits, for statistics.

use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(super) struct Counters {
    commits: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    group_max: AtomicU64,
    micros_total: AtomicU64,
    micros_max: AtomicU64,
}

/// The result of [`Commit::stats`](super::Commit::stats).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CommitStats {
    pub(crate) commits: u64,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) group_max: u64,
    pub(crate) time_total: Duration,
    pub(crate) time_max: Duration,
}

impl Counters {
    /// A group of so many entries and bytes was written.
    pub(super) fn note(&self, entries: usize, bytes: usize, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let entries = entries as u64;
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.group_max.fetch_max(entries, Ordering::Relaxed);
        self.micros_total.fetch_add(micros, Ordering::Relaxed);
        self.micros_max.fetch_max(micros, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> CommitStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CommitStats {
            commits: load(&self.commits),
            entries: load(&self.entries),
            bytes: load(&self.bytes),
            group_max: load(&self.group_max),
            time_total: Duration::from_micros(load(&self.micros_total)),
            time_max: Duration::from_micros(load(&self.micros_max)),
        }
    }
}
