//! This process's figures about its use of a shared store, for `Stats`.

use std::time::Duration;

use super::core::Core;
use super::session::SessionState;
use crate::engine::handles::stats::{BusyStats, Stats};
use crate::sync::{AtomicU64, Ordering};

impl Core {
    /// What is known here. No process knows how many keys the store has, and what a file or a log
    /// would have is zero. Interrupted keys are those of the store, when they were last counted.
    pub(super) fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (counters, is_open) = (&self.counters, self.check().is_ok());
        let (interrupted, now) = (self.interrupted.last(), self.now());
        Stats {
            opening: self.opening,
            is_open,
            open_for: if is_open { self.opened.elapsed() } else { Duration::ZERO },
            in_flight: self.held.load(Ordering::Relaxed),
            interrupted: interrupted.keys,
            interrupted_longest: now.saturating_since(interrupted.oldest.unwrap_or(now)),
            unresolved_keys: interrupted.unresolved,
            unresolved_longest: now.saturating_since(interrupted.oldest_unresolved.unwrap_or(now)),
            waiting: self.waiting.load(Ordering::Relaxed),
            progress_bytes: self.budget.bytes(),
            has_failed: matches!(self.session.state(), SessionState::Replaced | SessionState::OtherStore),
            fresh: get(&counters.fresh),
            rerun: get(&counters.rerun),
            replayed: self.answers.replayed.load(Ordering::Relaxed) + self.cache.replayed(),
            cached_bytes: self.cache.bytes(),
            waited: self.answers.waited.load(Ordering::Relaxed),
            reused: get(&counters.reused),
            too_late: get(&counters.too_late),
            unresolved: get(&counters.unresolved),
            busy: BusyStats::of(counters),
            refused: get(&counters.refused),
            resolved: get(&counters.resolved),
            token_claims: get(&counters.token_claims),
            handed_over: get(&counters.handed_over),
            found_interrupted: get(&counters.found_interrupted),
            completed: get(&counters.completed),
            failed: get(&counters.failed),
            released: get(&counters.released),
            dropped: get(&counters.dropped),
            lease_expired: get(&counters.lease_expired),
            superseded: get(&counters.superseded),
            progress_saved: get(&counters.progress_saved),
            forgotten: get(&counters.forgotten),
            policies_set: get(&counters.policies_set),
            expired: self.traffic.swept.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }
}
