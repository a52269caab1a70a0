//! The counters and gauges of a file-backed engine, read at one moment.

use std::time::Duration;

use crate::engine::core::Core;
use crate::engine::handles::stats::{BusyStats, Stats};
use crate::sync::{AtomicU64, Ordering};

impl Core {
    pub(in crate::engine) fn stats(&self) -> Stats {
        if self.health.is_forked() {
            return Stats::default();
        }
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (sizes, hits, commit) = (self.index.sizes(), self.index.hits(), self.commit.stats());
        let (interrupted, now, is_open) = (self.interruptions(), self.clock.now(), self.health.is_open());
        Stats {
            entries: sizes.keys,
            in_flight: self.limits.in_flight(),
            interrupted: sizes.interrupted,
            interrupted_longest: now.saturating_since(interrupted.oldest.unwrap_or(now)),
            unresolved_keys: interrupted.unresolved,
            unresolved_longest: now.saturating_since(interrupted.oldest_unresolved.unwrap_or(now)),
            waiting: self.limits.waiting(),
            waiting_for_room: self.counters.waiting_for_room.load(Ordering::Relaxed),
            queued: self.commit.queued(),
            index_bytes: sizes.table_bytes,
            cached_bytes: sizes.cached_bytes,
            progress_bytes: self.limits.progress().bytes(),
            file_bytes: self.store.file_bytes(),
            log_bytes: self.space.file_bytes(),
            log_used_bytes: self.space.used_bytes(),
            log_bytes_max: self.options.log_bytes_max(),
            checkpoint_lag: self.checkpoint_lag(),
            clock_lag_ms: self.clock.wall_ahead_ms(),
            commit_running: self.commit.running(),
            opening: self.opening,
            is_open,
            open_for: if is_open { now.saturating_since(self.opened_at) } else { Duration::ZERO },
            is_disk_full: self.health.disk().any().is_some(),
            is_file_not_ready: self.health.file_not_ready().is_some(),
            has_failed: self.health.trouble().is_some(),
            fresh: load(&self.counters.fresh),
            rerun: load(&self.counters.rerun),
            replayed: hits.replayed,
            waited: hits.waited,
            reused: load(&self.counters.reused),
            too_late: load(&self.counters.too_late),
            unresolved: load(&self.counters.unresolved),
            busy: BusyStats::of(&self.counters),
            refused: load(&self.counters.refused),
            resolved: load(&self.counters.resolved),
            token_claims: load(&self.counters.token_claims),
            handed_over: load(&self.counters.handed_over),
            completed: load(&self.counters.completed),
            failed: load(&self.counters.failed),
            released: load(&self.counters.released),
            dropped: load(&self.counters.dropped),
            lease_expired: load(&self.counters.lease_expired),
            found_interrupted: load(&self.counters.found_interrupted),
            superseded: load(&self.counters.superseded),
            progress_saved: load(&self.counters.progress_saved),
            forgotten: load(&self.counters.forgotten),
            policies_set: load(&self.counters.policies_set),
            backups: load(&self.counters.backups),
            loaded: hits.loaded,
            failed_reads: self.store.failed_reads(),
            commits: commit.commits,
            committed_entries: commit.entries,
            committed_bytes: commit.bytes,
            commit_entries_max: commit.group_max,
            commit_time_total: commit.time_total,
            commit_time_max: commit.time_max,
            commits_by_time: commit.by_time,
            commits_by_entries: commit.by_entries,
            checkpoints: load(&self.counters.checkpoints),
            compactions: load(&self.counters.compactions),
            expired: load(&self.counters.expired),
            reclaimed_blocks: load(&self.counters.reclaimed_blocks),
        }
    }
}
