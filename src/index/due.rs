//! When a pass of the sweeper over a shard pays: its work follows the keys that fall due, not the
//! number of keys.

use std::time::Duration;

use crate::Timestamp;

/// A pass comes once this part of the cells may hold expired keys. So at most sixteen cells are
/// passed for each key.
const PART: usize = 16;
/// The least cost of a pass, in cells.
const FEW: usize = 64;
/// The longest that an expired key waits for a pass in a small shard,
const WAIT_MIN: Duration = Duration::from_secs(60);
/// and in a large shard, a second for each so many cells.
const CELLS_PER_SECOND: u64 = 64;
/// The first window is of two seconds, and each is as long as all before it. The last one is
/// longer than any wait.
const WINDOWS: usize = 24;

/// When a shard's keys fall due, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// The time of the next pass, even if nothing was counted.
    horizon: Timestamp,
    /// Keys set since the last pass that fall due before the horizon.
    early: usize,
    /// Keys that the current pass leaves, by the window in which they fall due.
    left: [usize; WINDOWS],
}

impl Due {
    /// A key is remembered until then.
    #[inline]
    pub(super) fn add(&mut self, until: Timestamp) {
        self.early += usize::from(until <= self.horizon);
    }

    /// Whether a pass over so many cells pays.
    pub(super) fn is_pass_due(&self, now: Timestamp, cells: usize) -> bool {
        now >= self.horizon || self.early.saturating_mul(PART) >= cells.max(FEW)
    }

    /// Counts a key that the pass leaves, which is remembered until then.
    pub(super) fn leave(&mut self, now: Timestamp, until: Timestamp) {
        let window = until.saturating_since(now).as_secs().max(1).ilog2() as usize;
        if let Some(left) = self.left.get_mut(window) {
            *left += 1;
        }
    }

    /// Ends the pass: sets when the next one comes, unless new keys fall due before.
    pub(super) fn pass_is_over(&mut self, now: Timestamp, cells: usize) {
        let most = cells / PART;
        let mut sum = 0;
        // The start of the first window in which more would be due than may wait.
        let full = self.left.iter().position(|left| {
            sum += left;
            sum > most
        });
        let wait = Duration::from_secs(1 << full.unwrap_or(WINDOWS));
        let wait_max = WAIT_MIN.max(Duration::from_secs(cells as u64 / CELLS_PER_SECOND));
        *self = Self { horizon: now.saturating_add(wait.min(wait_max)), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    /// A shard after a pass that left keys with these times.
    fn after(cells: usize, left: impl IntoIterator<Item = u64>) -> Due {
        let mut due = Due::default();
        left.into_iter().for_each(|until| due.leave(at(100), at(until)));
        due.pass_is_over(at(100), cells);
        due
    }

    #[test]
    fn the_first_pass_is_due_at_once() {
        assert!(Due::default().is_pass_due(at(0), 0));
    }

    #[test]
    fn nothing_is_passed_where_nothing_falls_due_but_for_a_pass_now_and_then() {
        let cells = 64 * 3_600;
        let due = after(cells, std::iter::repeat_n(1_000_000, 1_000));
        assert!(!due.is_pass_due(at(100 + 3_599), cells));
        assert!(due.is_pass_due(at(100 + 3_600), cells));
        let small = after(100, []);
        assert!(!small.is_pass_due(at(159), 100) && small.is_pass_due(at(160), 100));
    }

    #[test]
    fn a_pass_is_due_when_a_sixteenth_of_what_it_left_is() {
        let cells = 64_000;
        let few = after(cells, std::iter::repeat_n(108, 4_000));
        assert!(!few.is_pass_due(at(120), cells));
        let many = after(cells, std::iter::repeat_n(108, 4_001));
        assert!(!many.is_pass_due(at(107), cells) && many.is_pass_due(at(108), cells));
        let at_once = after(cells, std::iter::repeat_n(100, 4_001));
        assert!(!at_once.is_pass_due(at(100), cells) && at_once.is_pass_due(at(101), cells));
    }

    #[test]
    fn a_pass_is_due_when_a_sixteenth_of_the_cells_got_keys_that_fall_due_early() {
        let cells = 64_000;
        let mut due = after(cells, []);
        (0..100_000).for_each(|_| due.add(at(100 + 1_001)));
        assert!(!due.is_pass_due(at(101), cells), "they fall due after the next pass");
        (0..3_999).for_each(|_| due.add(at(101)));
        assert!(!due.is_pass_due(at(101), cells));
        due.add(at(101));
        assert!(due.is_pass_due(at(101), cells));
    }
}
