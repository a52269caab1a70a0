//! When compacting the file pays; `compact.rs` does it.
//!
//! redb doubles its file when it needs more, and never shrinks it by much. Compacting moves all
//! live data, and the next commit may double the file again. So it pays if nearly half of the
//! file is free, and if it moves no more bytes than were written or dropped since the last time.

use std::ops::Range;
use std::time::Duration;

use crate::Timestamp;

/// Compacting more live data than this takes too long, because readers of records on disk have to
/// wait.
const LIVE_MAX: u64 = 1 << 30;
/// Fewer free bytes than this are not worth a compaction.
const SLACK: u64 = 4 << 20;

/// The bytes of the file, and the live bytes among them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Space {
    pub(crate) live: u64,
    pub(crate) file: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Compaction {
    /// The number of entries in the log at the last check, and when that number was first seen.
    /// `None` before the first check.
    last: Option<(u64, Timestamp)>,
    /// Live bytes when the file was last compacted, in this opening or an earlier one.
    live: Option<u64>,
    /// Bytes of entries that the log had taken by then.
    logged: u64,
}

impl Compaction {
    /// Of an engine that was just opened.
    pub(in crate::engine) fn after_opening(live: Option<u64>) -> Self {
        Self { last: None, live, logged: 0 }
    }

    /// Whether the engine has committed nothing for the given time. It had committed so many
    /// `entries` at some moment of `looked`. An engine that was just opened is busy.
    pub(in crate::engine) fn is_idle(
        &mut self,
        entries: u64,
        looked: Range<Timestamp>,
        long: Duration,
    ) -> bool {
        let since = self.last.filter(|&(seen, _)| seen == entries).map_or(looked.end, |(_, since)| since);
        self.last = Some((entries, since));
        looked.start.saturating_since(since) >= long
    }

    /// Whether a compaction would free enough for the bytes that it moves. The log has taken so
    /// many bytes of entries so far.
    pub(in crate::engine) fn pays(&self, space: Space, logged: u64) -> bool {
        let Space { live, file } = space;
        let is_long = live <= LIVE_MAX && file > live.saturating_mul(7) / 4 + SLACK;
        let written = logged.saturating_sub(self.logged);
        let is_paid =
            self.live.is_none_or(|before| written.saturating_add(before.saturating_sub(live)) >= live);
        is_long && is_paid
    }

    /// A compaction is over, of so many live bytes.
    pub(in crate::engine) fn is_over(&mut self, live: u64, logged: u64) {
        (self.live, self.logged) = (Some(live), logged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn space(live: u64, file: u64) -> Space {
        Space { live: live * MIB, file: file * MIB }
    }

    #[test]
    fn it_pays_where_much_is_free_and_what_is_live_can_be_moved_in_a_moment() {
        let pays = |live, file| Compaction::default().pays(space(live, file), 0);
        assert!(!pays(0, 4) && pays(0, 5));
        assert!(!pays(100, 179) && pays(100, 180));
        assert!(pays(1_024, 4_000) && !pays(1_025, 1 << 20));
    }

    #[test]
    fn no_more_is_moved_than_was_written_or_dropped_since_the_last_time_after_a_restart_too() {
        let mut compaction = Compaction::default();
        compaction.is_over(100 * MIB, 7 * MIB);
        let logged = |mebibytes: u64| (7 + mebibytes) * MIB;
        // A commit has doubled the file again, and more.
        assert!(
            !compaction.pays(space(100, 300), logged(99)) && compaction.pays(space(100, 300), logged(100))
        );
        assert!(!compaction.pays(space(51, 300), logged(1)) && compaction.pays(space(50, 300), logged(0)));
        assert!(compaction.pays(space(60, 300), logged(20)));
        let restarted = Compaction::after_opening(Some(100 * MIB));
        assert!(!restarted.pays(space(100, 300), 0) && restarted.pays(space(50, 300), 0));
    }

    #[test]
    fn an_engine_is_idle_when_it_has_not_written_for_a_while() {
        let mut compaction = Compaction::default();
        let at = |ms| Timestamp::from_millis(ms)..Timestamp::from_millis(ms);
        let long = Duration::from_secs(10);
        assert!(!compaction.is_idle(0, at(90_000), long), "it was just opened");
        assert!(!compaction.is_idle(1, at(100_000), long));
        assert!(!compaction.is_idle(1, at(109_999), long) && compaction.is_idle(1, at(110_000), long));
        assert!(!compaction.is_idle(2, at(110_000), long));
        // A look may take its time.
        let slow = |from, to| Timestamp::from_millis(from)..Timestamp::from_millis(to);
        assert!(!compaction.is_idle(3, slow(120_000, 140_000), long), "its entry may be of the end");
        assert!(
            !compaction.is_idle(3, slow(149_999, 160_000), long) && compaction.is_idle(3, at(150_000), long)
        );
    }
}
