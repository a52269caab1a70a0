//! `Stats`: one snapshot of all counters and gauges.

use std::time::Duration;

use crate::engine::common::counters::Counters;
use crate::sync::{AtomicU64, Ordering};

/// A snapshot of an engine's gauges and counters.
///
/// Gauges show the present. Counters start at zero when the file is opened, and only grow. All
/// are read one after the other, so during calls the sums below can be off by the number of those
/// calls.
///
/// - Every call of `begin` has one answer: [`begins`](Self::begins) is the sum of `fresh`,
///   `replayed`, `waited`, `reused`, `too_late`, `unresolved`, `busy` and `refused`. A batch counts
///   each of its requests, `begin_or_wait` and `run` each lookup of the key. A dropped future is
///   not counted, or only as `waited`.
/// - Every claim has one end: `fresh + resolved + token_claims` is the sum of `completed`,
///   `failed`, `released`, `dropped`, `lease_expired` and the claims in flight, as long as no
///   commit failed and the file is open.
/// - On a shared store, gauges and counters are those of this process. What only a file has is
///   zero. The gauges of interrupted keys are those of the store when this process last counted
///   them, see `SharedOptions::count_every`: at most 100,000, and a claim whose lease or session
///   is over counts once a process has found it. Claims that were handed over have left the
///   process: there the sum of ends has `handed_over` as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a gauge of its own")]
pub struct Stats {
    /// Gauge, keys in the index: records, claims in flight, interrupted keys, and expired keys
    /// that were not yet removed.
    pub entries: usize,
    /// Gauge, claims in flight. A claim whose lease is over counts until its holder drops it. A
    /// claim on its way counts until its begin is answered, or the begin's future dropped.
    pub in_flight: usize,
    /// Gauge, keys that are interrupted, and have no outcome yet.
    /// [`Engine::interrupted`](crate::Engine::interrupted) lists them.
    pub interrupted: usize,
    /// Gauge: how long ago the oldest of them was interrupted; zero if there is none.
    pub interrupted_longest: Duration,
    /// Gauge, those of them that a begin refuses until they are [resolved](crate::Scope::resolve),
    /// forgotten, or past their time: the policy of their scope is
    /// [`Recovery::Refuse`](crate::Recovery::Refuse), or its attempts are used up.
    pub unresolved_keys: usize,
    /// Gauge: how long ago the oldest of these was interrupted; zero if there is none.
    pub unresolved_longest: Duration,
    /// Gauge, calls that wait for claims of other callers.
    pub waiting: usize,
    /// Gauge, calls that wait for room in the log.
    pub waiting_for_room: usize,
    /// Gauge, entries that wait to be written to the log.
    pub queued: usize,
    /// Gauge, bytes of memory of the index itself.
    pub index_bytes: usize,
    /// Gauge, bytes of memory of records that are cached or not yet stored.
    pub cached_bytes: usize,
    /// Gauge, bytes of memory of the saved progress of claims.
    pub progress_bytes: usize,
    /// Gauge, bytes of the file.
    pub file_bytes: u64,
    /// Gauge, bytes of the log.
    pub log_bytes: u64,
    /// Gauge, bytes of the log that are in use: reserved by claims in flight, or not yet moved
    /// to the file.
    pub log_used_bytes: u64,
    /// Gauge, the limit of `log_bytes`: [`Options::log_bytes`](crate::Options::log_bytes).
    pub log_bytes_max: u64,
    /// Gauge: the age of the oldest commit that no checkpoint has moved to the file yet.
    pub checkpoint_lag: Duration,
    /// Gauge: by how many milliseconds the wall clock is ahead of the engine's clock (negative:
    /// behind).
    pub clock_lag_ms: i64,
    /// Gauge: for how long the commit that is being written has been written; zero if none is. It
    /// grows as long as the disk does not answer.
    pub commit_running: Duration,
    /// Tells this opening of the file from all others. Counters start at zero with each.
    pub opening: u64,
    /// Gauge: the file is open. Once it is closed, other gauges say how it was left.
    pub is_open: bool,
    /// Gauge: for how long the file has been open; zero once it is closed.
    pub open_for: Duration,
    /// Gauge: the disk was full when the log or the file last needed space.
    pub is_disk_full: bool,
    /// Gauge: a failed read kept the engine from its last write to the file.
    pub is_file_not_ready: bool,
    /// Gauge: the engine has stopped granting claims; see [`Failure`](crate::Failure). Not set for
    /// an engine that was opened read-only. Set on a shared store if another process took this
    /// one's instance name.
    pub has_failed: bool,

    /// Begins that were granted a claim.
    pub fresh: u64,
    /// Of those, the ones that follow an interruption.
    pub rerun: u64,
    /// Begins that got a record.
    pub replayed: u64,
    /// Begins that found another's claim.
    pub waited: u64,
    /// Begins that were refused because the key was used with another fingerprint.
    pub reused: u64,
    /// Begins that were refused because the key's record is no longer replayed: late retries.
    pub too_late: u64,
    /// Begins that were refused because the key is interrupted, and its policy lets no other
    /// attempt run by itself.
    pub unresolved: u64,
    /// Begins that were refused because of a limit, by the limit.
    pub busy: BusyStats,
    /// Begins that were refused for any other reason: a key that can't be used, a batch that is
    /// too long, a record that can't be read, an engine that has failed or is closed.
    pub refused: u64,

    /// Claims that [`resolve`](crate::Scope::resolve) gave.
    pub resolved: u64,
    /// Claims that were still good when the file was opened, because they had been handed over as
    /// tokens. On a shared store: claims that were resumed from tokens.
    pub token_claims: u64,
    /// Claims that were handed over as tokens. On a shared store they leave this process, and are
    /// one of the ends in the sum of claims.
    pub handed_over: u64,
    /// Claims that were completed. The three kinds of ends count when their entry is queued,
    /// before they are durable.
    pub completed: u64,
    /// Claims that ended as failed.
    pub failed: u64,
    /// Claims that were released, or put back.
    pub released: u64,
    /// Claims that were dropped, which left their keys interrupted.
    pub dropped: u64,
    /// Claims whose lease ran out, which left their keys interrupted. On a shared store: claims of
    /// this process whose lease or session was over when they were to end.
    pub lease_expired: u64,
    /// Claims that the opening of the file found dead, which left their keys interrupted. They
    /// are not part of the sum of claims. On a shared store: claims of any process that this one
    /// found over.
    pub found_interrupted: u64,
    /// Calls on a claim that were refused because it was superseded.
    pub superseded: u64,
    /// Times that claims saved their progress.
    pub progress_saved: u64,
    /// Keys that were forgotten.
    pub forgotten: u64,
    /// Policies that were set.
    pub policies_set: u64,
    /// Backups that were made.
    pub backups: u64,

    /// Records that had to be read from disk.
    pub loaded: u64,
    /// Reads of the file that the operating system refused.
    pub failed_reads: u64,
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
    /// Commits by time: for each time, how many took no longer. The times double from 64 µs to
    /// 16.8 s.
    pub commits_by_time: Vec<(Duration, u64)>,
    /// Commits by size: for each number of entries, how many had no more. The numbers double from
    /// 1 to 65,536.
    pub commits_by_entries: Vec<(u64, u64)>,
    /// Checkpoints: moves of the log's content to the file.
    pub checkpoints: u64,
    /// Compactions of the file.
    pub compactions: u64,
    /// Keys removed from memory because the time for which they are remembered was over.
    pub expired: u64,
    /// Blocks of the file whose room was reclaimed because all bodies in them had expired.
    pub reclaimed_blocks: u64,
}

/// Begins, waits for claims, and calls that save progress, that a limit refused; see [`Busy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BusyStats {
    /// Begins: the log or the commit queue was full.
    pub queue_full: u64,
    /// Begins: too many claims were in flight.
    pub claims: u64,
    /// Waits for claims of other callers: too many calls were waiting.
    pub waiters: u64,
    /// Calls that save progress: the progress of all claims took as much memory as it may.
    pub progress_bytes: u64,
    /// Begins: the disk was full.
    pub disk_full: u64,
    /// Begins: the file took no writes, because of a read that failed.
    pub file_not_ready: u64,
}

impl BusyStats {
    pub(crate) fn of(counters: &Counters) -> Self {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            queue_full: load(&counters.busy_queue_full),
            claims: load(&counters.busy_claims),
            waiters: load(&counters.busy_waiters),
            progress_bytes: load(&counters.busy_progress_bytes),
            disk_full: load(&counters.busy_disk_full),
            file_not_ready: load(&counters.busy_file_not_ready),
        }
    }

    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.begins() + self.waiters + self.progress_bytes
    }

    /// Only the refused begins, without waits for claims and saved progress.
    fn begins(&self) -> u64 {
        self.queue_full + self.claims + self.disk_full + self.file_not_ready
    }
}

impl Stats {
    /// Answers of `begin`, of every kind.
    #[must_use]
    pub fn begins(&self) -> u64 {
        self.fresh
            + self.replayed
            + self.waited
            + self.reused
            + self.too_late
            + self.unresolved
            + self.busy.begins()
            + self.refused
    }

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
