//! Fencing tokens: numbers that grow with every claim that the file grants, also over kills and
//! restored backups.
//!
//! The file has a limit that no fence has reached. A checkpoint moves the limit ahead, past all
//! fences that may be granted until the next checkpoint, and an opening continues from it. A
//! restored backup has an earlier limit. So an opening also starts no lower than the wall clock
//! requires: 2,048 fences a millisecond since 2020, which is more than an engine grants. Fences
//! stay below 2^53 for 139 years, so JSON and JavaScript can represent them.

use crate::Timestamp;
use crate::state::Fence;
use crate::sync::{AtomicU64, Ordering};

/// How many claims may be granted between two checkpoints. Half of them are left when the worker
/// is asked for a checkpoint.
const AHEAD: u64 = 1 << 22;
/// Fences a millisecond, as a power of two.
const PER_MS_LOG2: u32 = 11;
/// 2020-01-01T00:00:00Z, in ms. A wall clock before this was never set.
const FIRST_MS: u64 = 1_577_836_800_000;
/// 2100-01-01T00:00:00Z, in ms. A wall clock after this is wrong.
const LAST_MS: u64 = 4_102_444_800_000;
/// The highest number up to which a double represents every whole number.
const MAX: u64 = (1 << 53) - 1;

/// The fences of an open file.
#[derive(Debug)]
pub(crate) struct Fences {
    /// The next one to grant.
    next: AtomicU64,
    /// No fence at or above this is granted before a checkpoint moves it.
    limit: AtomicU64,
}

/// No fence may be granted before the next checkpoint.
pub(super) struct Exhausted;

impl Fences {
    /// The fences of a file with this `limit`, opened at the wall clock's time `wall`.
    pub(in crate::engine) fn open(limit: u64, wall: Timestamp) -> Self {
        let next = limit.max(floor(wall));
        Self { next: AtomicU64::new(next), limit: AtomicU64::new(ahead_of(next)) }
    }

    /// Draws the next one.
    pub(super) fn draw(&self) -> Result<Fence, Exhausted> {
        let fence = self.next.fetch_add(1, Ordering::Relaxed);
        if fence < self.limit.load(Ordering::Acquire) { Ok(Fence::new(fence)) } else { Err(Exhausted) }
    }

    /// Whether a checkpoint should move the limit soon.
    pub(in crate::engine) fn are_short(&self) -> bool {
        self.limit.load(Ordering::Acquire).saturating_sub(self.next()) < AHEAD / 2
    }

    /// No fence at or above this was granted.
    pub(in crate::engine) fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// The limit that the next checkpoint writes.
    pub(in crate::engine) fn next_limit(&self) -> u64 {
        ahead_of(self.next())
    }

    /// The limit in the file.
    pub(in crate::engine) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// Notes that the file has this limit, durably.
    pub(in crate::engine) fn move_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Release);
    }

    #[cfg(test)]
    pub(in crate::engine) fn exhaust(&self) {
        self.limit.store(self.next(), Ordering::Release);
    }
}

fn ahead_of(next: u64) -> u64 {
    next.saturating_add(AHEAD).min(MAX)
}

/// The lowest fence that an opening at this time starts with.
fn floor(wall: Timestamp) -> u64 {
    let ms = wall.as_millis();
    if (FIRST_MS..LAST_MS).contains(&ms) { (ms - FIRST_MS) << PER_MS_LOG2 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn an_opening_starts_above_all_that_was_granted_before_it_by_the_file_and_by_a_sane_clock() {
        for (limit, ms, next) in [
            (7, 0, 7),
            (7, FIRST_MS - 1, 7),
            (7, FIRST_MS + 10, 10 << PER_MS_LOG2),
            (u64::from(u32::MAX), FIRST_MS + 10, u64::from(u32::MAX)),
            (7, LAST_MS, 7),
            (7, u64::MAX, 7),
        ] {
            assert_eq!(Fences::open(limit, wall(ms)).next(), next, "{limit}, {ms}");
        }
    }

    #[test]
    fn fences_stay_below_what_javascript_counts_to_and_a_kill_costs_two_seconds_of_them() {
        let century = LAST_MS - 1;
        assert!(Fences::open(1, wall(century)).limit() <= MAX / 2 + MAX / 8);
        let fences = Fences::open(1, wall(NOW));
        let killed = Fences::open(fences.limit(), wall(NOW));
        assert_eq!(killed.next() - fences.next(), AHEAD);
        assert_eq!(AHEAD >> PER_MS_LOG2, 2_048, "milliseconds");
        let last = Fences::open(MAX - 1, wall(NOW));
        assert!(last.draw().is_ok_and(|fence| fence.get() == MAX - 1));
        assert!(last.draw().is_err(), "there is no fence above");
    }

    #[test]
    fn a_checkpoint_is_wanted_when_half_of_the_fences_are_left() {
        let fences = Fences::open(1, wall(0));
        assert!(!fences.are_short());
        fences.next.store(AHEAD / 2 + 2, Ordering::Release);
        assert!(fences.are_short() && fences.draw().is_ok());
        fences.move_limit(fences.next_limit());
        assert!(!fences.are_short());
    }
}
