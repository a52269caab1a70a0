//! The fixed cost of a store commit, and how much work makes a commit worth it.
//!
//! Each commit has quick repair, so that an opening after a kill costs the same at any size. For
//! that redb writes the state of its allocator with every commit: a bit or two for each page of
//! the file. So a large file gets fewer commits, and each does more.

use std::time::Duration;

/// Bytes that a commit writes at any length of the file: the pages of redb's tables that lead to
/// the new rows.
const COMMIT_BYTES_MIN: u64 = 64 << 10;
/// And this part of the file, at most: the state of the allocator.
const FILE_SHARE: u64 = 2_048;
/// How often expired blocks leave the file, if the [bound](RECLAIM_BYTES_AN_HOUR) allows. With a
/// short default TTL, they leave forty times in a TTL.
const RECLAIM_EVERY: Duration = Duration::from_secs(600);
/// The most bytes an hour that commits for expiry may write, if they drop less than they cost.
const RECLAIM_BYTES_AN_HOUR: u64 = 64 << 20;
/// The least time between commits for expiry, if the expired blocks are worth a commit at any
/// time.
const RECLAIM_MORE: Duration = Duration::from_secs(10);
/// A commit for expiry comes no sooner than so many times what the last checkpoint took: meanwhile
/// applications that commit in the file, backups and compactions have the file.
const RESTS_PER_CHECKPOINT: u32 = 10;
/// But it does not wait for longer. The machine may have slept during the checkpoint.
const REST_MAX: Duration = Duration::from_secs(3_600);
/// The least bytes of blocks that one commit drops, if there are that many.
pub(in crate::engine) const RECLAIM_MIN: u64 = 4 << 20;
/// Blocks with so many times the bytes that a commit costs are worth one.
const RECLAIM_PER_COST: u64 = 8;
/// A commit for the log moves so many times the bytes that it costs.
const MOVED_PER_COST: u64 = 4;
/// But it does not wait for more than this part of the log's limit.
const LOG_SHARE: u64 = 8;

/// The upkeep of a file of some length.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommitCost {
    /// The most bytes that a commit writes besides its rows.
    commit_bytes: u64,
}

impl CommitCost {
    pub(super) fn of(file_bytes: u64) -> Self {
        Self { commit_bytes: COMMIT_BYTES_MIN + file_bytes / FILE_SHARE }
    }

    /// How long after a commit the next one for expiry may come if it
    /// [pays](Self::reclaim_pays_at), and when it comes in any case.
    pub(super) fn reclaim_after(self, ttl: Duration) -> (Duration, Duration) {
        let wanted = (ttl / 40).min(RECLAIM_EVERY);
        (wanted.min(RECLAIM_MORE), wanted.max(self.within_bound()))
    }

    /// How far apart commits are that keep the bound.
    fn within_bound(self) -> Duration {
        let millis = self.commit_bytes.saturating_mul(3_600_000) / RECLAIM_BYTES_AN_HOUR;
        Duration::from_millis(millis)
    }

    /// Bytes of blocks that are worth a commit that drops them.
    pub(super) fn reclaim_pays_at(self) -> u64 {
        self.commit_bytes.saturating_mul(RECLAIM_PER_COST)
    }

    /// Bytes of blocks that one commit drops, if so many are due.
    pub(super) fn reclaim_bytes(self) -> u64 {
        self.reclaim_pays_at().max(RECLAIM_MIN)
    }

    /// Bytes of full segments for which a commit is worth its cost, in a log of `log_bytes_max` at
    /// most.
    pub(super) fn log_bytes(self, log_bytes_max: u64) -> u64 {
        self.commit_bytes.saturating_mul(MOVED_PER_COST).min(log_bytes_max / LOG_SHARE)
    }
}

/// How long commits for expiry rest after a checkpoint that took so long.
pub(super) fn rest_after(checkpoint: Duration) -> Duration {
    checkpoint.saturating_mul(RESTS_PER_CHECKPOINT).min(REST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const DAY: Duration = Duration::from_secs(86_400);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_expires_leaves_every_ten_minutes_and_in_a_longer_file_as_often_as_the_bound_allows() {
        let after = |gibibytes, ttl| CommitCost::of(gibibytes * GIB).reclaim_after(ttl).1;
        assert_eq!((after(0, DAY), after(21, DAY)), (600 * SECOND, 600 * SECOND));
        assert!(after(100, DAY) > 2_700 * SECOND && after(100, DAY) < 2_900 * SECOND);
        assert_eq!(after(0, 400 * SECOND), 10 * SECOND);
        assert!(after(10, 400 * SECOND) > 280 * SECOND);
        assert!(after(0, SECOND / 2) > 3 * SECOND);
        for gibibytes in [0, 1, 10, 20, 100, 1_000] {
            for ttl in [SECOND / 100, 60 * SECOND, DAY] {
                let bytes = u128::from(CommitCost::of(gibibytes * GIB).commit_bytes);
                let an_hour = bytes * 3_600_000 / (after(gibibytes, ttl).as_millis() + 1);
                assert!(an_hour <= RECLAIM_BYTES_AN_HOUR.into(), "{gibibytes} GiB: {an_hour} bytes");
            }
        }
    }

    #[test]
    fn where_much_is_due_each_commit_drops_many_times_what_it_costs() {
        for gibibytes in [0, 1, 10, 100] {
            let upkeep = CommitCost::of(gibibytes * GIB);
            assert!(upkeep.reclaim_bytes() >= 8 * upkeep.commit_bytes);
            assert_eq!(upkeep.reclaim_after(DAY).0, 10 * SECOND);
        }
        assert_eq!(CommitCost::of(GIB / 4).reclaim_bytes(), RECLAIM_MIN);
        assert_eq!(CommitCost::of(16 * GIB).reclaim_bytes(), 8 * (8 << 20) + 8 * COMMIT_BYTES_MIN);
        assert_eq!(CommitCost::of(0).reclaim_after(SECOND).0, SECOND / 40);
    }

    #[test]
    fn a_full_segment_is_moved_at_once_where_the_file_is_short_or_the_log_small() {
        assert!(CommitCost::of(3 * GIB).log_bytes(512 << 20) < 8 << 20);
        assert!(CommitCost::of(20 * GIB).log_bytes(512 << 20) > 32 << 20);
        assert_eq!(CommitCost::of(1_000 * GIB).log_bytes(512 << 20), 64 << 20);
    }
}
