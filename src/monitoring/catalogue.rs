//! All metrics: names, kinds, units and meaning. `docs/monitoring.md` has the same as a table.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

use crate::Stats;

/// A metric's name, unit and meaning.
pub(super) struct Metric(pub(super) &'static str, Unit, &'static str);

pub(super) const BEGINS: Metric =
    Metric("idemkv_begins_total", Unit::Count, "Answers of begin, by scope and answer; refusals by reason.");
pub(super) const WAITS: Metric = Metric(
    "idemkv_waits_total",
    Unit::Count,
    "Answers of waits for the claim of another call; refusals by reason.",
);
pub(super) const RESOLUTIONS: Metric =
    Metric("idemkv_resolutions_total", Unit::Count, "Claims that resolve gave.");
pub(super) const ENDS: Metric =
    Metric("idemkv_ends_total", Unit::Count, "Claims that ended with an outcome, or released.");
pub(super) const INTERRUPTIONS: Metric =
    Metric("idemkv_interruptions_total", Unit::Count, "Claims that ended without an outcome, by cause.");
pub(super) const SUPERSEDED: Metric =
    Metric("idemkv_superseded_total", Unit::Count, "Calls on claims that were no longer the current ones.");
pub(super) const BEGIN_SECONDS: Metric =
    Metric("idemkv_begin_duration_seconds", Unit::Seconds, "Time of calls that were granted a claim.");
pub(super) const OPERATION_SECONDS: Metric =
    Metric("idemkv_operation_duration_seconds", Unit::Seconds, "Time from a claim's grant to its end.");
pub(super) const PUBLISHED: Metric = Metric(
    "idemkv_published_timestamp_seconds",
    Unit::Seconds,
    "When the gauges were written last, in seconds since 1970.",
);
pub(super) const COMMITS_BY_SECONDS: Metric =
    Metric("idemkv_commit_duration_seconds_bucket", Unit::Count, "Commits that took at most `le` seconds.");
pub(super) const COMMITS_BY_ENTRIES: Metric =
    Metric("idemkv_commit_size_entries_bucket", Unit::Count, "Commits of at most `le` entries.");

const SCOPED: [Metric; 6] = [BEGINS, WAITS, RESOLUTIONS, ENDS, INTERRUPTIONS, SUPERSEDED];
const HISTOGRAMS: [Metric; 2] = [BEGIN_SECONDS, OPERATION_SECONDS];
const BUCKETS: [Metric; 2] = [COMMITS_BY_SECONDS, COMMITS_BY_ENTRIES];

/// A gauge of [`Stats`].
pub(super) struct Gauge(pub(super) Metric, pub(super) fn(&Stats) -> f64);

/// A counter of [`Stats`].
pub(super) struct Counter(pub(super) Metric, pub(super) fn(&Stats) -> u64);

const fn gauge(name: &'static str, unit: Unit, help: &'static str, value: fn(&Stats) -> f64) -> Gauge {
    Gauge(Metric(name, unit, help), value)
}

const fn counter(name: &'static str, unit: Unit, help: &'static str, value: fn(&Stats) -> u64) -> Counter {
    Counter(Metric(name, unit, help), value)
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers")]
fn number(value: u64) -> f64 {
    value as f64
}

fn size(value: usize) -> f64 {
    number(value as u64)
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

#[rustfmt::skip]
pub(super) const GAUGES: [Gauge; 27] = [
    gauge("idemkv_keys", Unit::Count, "Keys in the index.", |stats| size(stats.entries)),
    gauge("idemkv_claims_in_flight", Unit::Count, "Claims in flight.", |stats| size(stats.in_flight)),
    gauge("idemkv_interrupted_keys", Unit::Count, "Interrupted keys without an outcome.", |stats| size(stats.interrupted)),
    gauge("idemkv_interrupted_oldest_seconds", Unit::Seconds, "Age of the oldest interruption.", |stats| stats.interrupted_longest.as_secs_f64()),
    gauge("idemkv_unresolved_keys", Unit::Count, "Interrupted keys that begin refuses: the policy grants no other attempt.", |stats| size(stats.unresolved_keys)),
    gauge("idemkv_unresolved_oldest_seconds", Unit::Seconds, "Age of the oldest interruption of a key that begin refuses.", |stats| stats.unresolved_longest.as_secs_f64()),
    gauge("idemkv_opening_interrupted_claims", Unit::Count, "Claims that the opening of the file found dead.", |stats| number(stats.found_interrupted)),
    gauge("idemkv_opening_token_claims", Unit::Count, "Claims that the opening found good, because they had been handed over as tokens.", |stats| number(stats.token_claims)),
    gauge("idemkv_waiting_calls", Unit::Count, "Calls that wait for claims of others.", |stats| size(stats.waiting)),
    gauge("idemkv_waiting_for_room_calls", Unit::Count, "Calls that wait for room in the log.", |stats| size(stats.waiting_for_room)),
    gauge("idemkv_queued_entries", Unit::Count, "Entries that wait for a commit.", |stats| size(stats.queued)),
    gauge("idemkv_index_bytes", Unit::Bytes, "Memory of the index.", |stats| size(stats.index_bytes)),
    gauge("idemkv_cache_bytes", Unit::Bytes, "Memory of records that are cached or not yet stored.", |stats| size(stats.cached_bytes)),
    gauge("idemkv_progress_bytes", Unit::Bytes, "Memory of saved progress.", |stats| size(stats.progress_bytes)),
    gauge("idemkv_file_bytes", Unit::Bytes, "Length of the file.", |stats| number(stats.file_bytes)),
    gauge("idemkv_log_bytes", Unit::Bytes, "Length of the log.", |stats| number(stats.log_bytes)),
    gauge("idemkv_log_used_bytes", Unit::Bytes, "Log space that is reserved or not yet moved to the file.", |stats| number(stats.log_used_bytes)),
    gauge("idemkv_log_limit_bytes", Unit::Bytes, "Limit of the log.", |stats| number(stats.log_bytes_max)),
    gauge("idemkv_checkpoint_lag_seconds", Unit::Seconds, "Age of the oldest commit that is not in the file.", |stats| stats.checkpoint_lag.as_secs_f64()),
    gauge("idemkv_clock_lag_seconds", Unit::Seconds, "By how much the wall clock is ahead of the engine's clock.",
        |stats| number(stats.clock_lag_ms.unsigned_abs()) / 1_000.0 * if stats.clock_lag_ms < 0 { -1.0 } else { 1.0 }),
    gauge("idemkv_commit_duration_max_seconds", Unit::Seconds, "The longest commit since the file was opened.", |stats| stats.commit_time_max.as_secs_f64()),
    gauge("idemkv_commit_running_seconds", Unit::Seconds, "Time of the commit that is being written; 0 if none is.", |stats| stats.commit_running.as_secs_f64()),
    gauge("idemkv_open", Unit::Count, "1 while the file is open. Once it is closed, all gauges but the time of publishing are 0.", |stats| flag(stats.is_open)),
    gauge("idemkv_open_seconds", Unit::Seconds, "Time since the file was opened.", |stats| stats.open_for.as_secs_f64()),
    gauge("idemkv_disk_full", Unit::Count, "1 while the disk is full.", |stats| flag(stats.is_disk_full)),
    gauge("idemkv_file_not_ready", Unit::Count, "1 while a failed read keeps the engine from writing to the file.", |stats| flag(stats.is_file_not_ready)),
    gauge("idemkv_failed", Unit::Count, "1 once the engine has stopped granting claims.", |stats| flag(stats.has_failed)),
];

#[rustfmt::skip]
pub(super) const COUNTERS: [Counter; 15] = [
    counter("idemkv_commits_total", Unit::Count, "Group commits.", |stats| stats.commits),
    counter("idemkv_commit_entries_total", Unit::Count, "Entries in all commits.", |stats| stats.committed_entries),
    counter("idemkv_commit_bytes_total", Unit::Bytes, "Bytes in all commits.", |stats| stats.committed_bytes),
    counter("idemkv_commit_microseconds_total", Unit::Microseconds, "Time of writing and syncing, of all commits.",
        |stats| u64::try_from(stats.commit_time_total.as_micros()).unwrap_or(u64::MAX)),
    counter("idemkv_checkpoints_total", Unit::Count, "Checkpoints.", |stats| stats.checkpoints),
    counter("idemkv_compactions_total", Unit::Count, "Compactions of the file.", |stats| stats.compactions),
    counter("idemkv_backups_total", Unit::Count, "Backups.", |stats| stats.backups),
    counter("idemkv_records_read_total", Unit::Count, "Records that had to be read from the file.", |stats| stats.loaded),
    counter("idemkv_failed_reads_total", Unit::Count, "Reads of the file that the operating system refused.", |stats| stats.failed_reads),
    counter("idemkv_expired_keys_total", Unit::Count, "Keys removed from memory after their time.", |stats| stats.expired),
    counter("idemkv_reclaimed_blocks_total", Unit::Count, "Blocks of the file that were reclaimed.", |stats| stats.reclaimed_blocks),
    counter("idemkv_progress_saved_total", Unit::Count, "Times that claims saved their progress.", |stats| stats.progress_saved),
    counter("idemkv_progress_refused_total", Unit::Count, "Times that a limit refused the progress of a claim.", |stats| stats.busy.progress_bytes),
    counter("idemkv_policies_set_total", Unit::Count, "Policies that were set.", |stats| stats.policies_set),
    counter("idemkv_forgotten_keys_total", Unit::Count, "Keys that were forgotten.", |stats| stats.forgotten),
];

/// Describes every metric to the recorder.
pub(super) fn describe() {
    for Metric(name, unit, help) in SCOPED.into_iter().chain(BUCKETS).chain(COUNTERS.map(|counter| counter.0))
    {
        describe_counter!(name, unit, help);
    }
    for Metric(name, unit, help) in GAUGES.map(|gauge| gauge.0).into_iter().chain([PUBLISHED]) {
        describe_gauge!(name, unit, help);
    }
    for Metric(name, unit, help) in HISTOGRAMS {
        describe_histogram!(name, unit, help);
    }
}
