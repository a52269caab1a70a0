//! When compacting the file pays; `compact.rs` does it.
//!
//! redb doubles its file when it needs more, and never shrinks it by much. Compacting costs in proportion to what is live, and the next
//! commit may double the file again. So it pays where nearly half of the file is free, and not again until more is free than that.

use std::time::Duration;

use crate::Timestamp;

/// Compacting more than this takes more than a moment, for which readers of records on disk would have to wait.
const LIVE_MAX: u64 = 1 << 30;
/// Bytes that are not worth giving back.
const SLACK: u64 = 4 << 20;

/// Bytes of the file, and those of them that are live.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Space {
    pub(crate) live: u64,
    pub(crate) file: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Compaction {
    /// How much work was done when it was last looked at, and when so much was first seen. `None` before the first look.
    last: Option<(u64, Timestamp)>,
    /// What the last compaction left, of this opening or an earlier one.
    left: Option<Space>,
}

impl Compaction {
    /// Of an engine that was just opened.
    pub(in crate::engine) fn after_opening(left: Option<Space>) -> Self {
        Self { last: None, left }
    }

    /// Whether the engine, which has done so much work by now, has done none for so long. An engine that was just opened is busy.
    pub(in crate::engine) fn is_idle(&mut self, done: u64, now: Timestamp, long: Duration) -> bool {
        let since = self.last.filter(|&(seen, _)| seen == done).map_or(now, |(_, since)| since);
        self.last = Some((done, since));
        now.saturating_since(since) >= long
    }

    /// Whether the file gets shorter by much.
    pub(in crate::engine) fn pays(&self, space: Space) -> bool {
        let Space { live, file } = space;
        let is_long = live <= LIVE_MAX && file > live.saturating_mul(7) / 4 + SLACK;
        // What the last one could not give back this one can't either, and what the next commit took it would take again.
        let is_new = self.left.is_none_or(|left| {
            let doubled = left.file.max(left.live.saturating_mul(2));
            live.saturating_mul(5) < left.live.saturating_mul(4)
                || file > doubled.saturating_mul(5) / 4 + SLACK
        });
        is_long && is_new
    }

    /// A compaction is over, with the commit of the store that follows it.
    pub(in crate::engine) fn is_over(&mut self, left: Space) {
        self.left = Some(left);
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
        let new = Compaction::default();
        assert!(!new.pays(space(0, 4)) && new.pays(space(0, 5)));
        assert!(!new.pays(space(100, 179)) && new.pays(space(100, 180)));
        assert!(new.pays(space(1_024, 4_000)) && !new.pays(space(1_025, 1 << 20)));
    }

    #[test]
    fn it_is_not_tried_again_until_there_is_as_much_to_be_had() {
        let mut compaction = Compaction::default();
        // A commit has doubled the file again, and more.
        compaction.is_over(space(100, 300));
        assert!(!compaction.pays(space(100, 300)) && !compaction.pays(space(81, 300)));
        assert!(compaction.pays(space(79, 300)), "much has expired since");
        assert!(!compaction.pays(space(100, 379)) && compaction.pays(space(100, 380)), "the file has grown");
    }

    #[test]
    fn a_file_that_was_doubled_since_is_not_tried_again_after_a_restart_either() {
        let compaction = Compaction::after_opening(Some(space(100, 101)));
        assert!(!compaction.pays(space(100, 202)) && !compaction.pays(space(100, 254)));
        assert!(compaction.pays(space(100, 255)), "it was doubled twice");
        assert!(compaction.pays(space(79, 202)), "much has expired since");
    }

    #[test]
    fn an_engine_is_idle_when_it_has_not_written_for_a_while() {
        let mut compaction = Compaction::default();
        let at = Timestamp::from_millis;
        let long = Duration::from_secs(10);
        assert!(!compaction.is_idle(0, at(90_000), long), "it was just opened");
        assert!(!compaction.is_idle(1, at(100_000), long));
        assert!(!compaction.is_idle(1, at(109_999), long) && compaction.is_idle(1, at(110_000), long));
        assert!(!compaction.is_idle(2, at(110_000), long));
    }
}
