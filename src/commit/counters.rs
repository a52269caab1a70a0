//! Counts of commits, for statistics.

use std::time::Duration;

use crate::sync::{AtomicU64, Ordering, UnseenU64};

/// Commits up to 64 µs, 128 µs and so on to 16.8 s.
const TIME_BOUNDS: usize = 19;
const FIRST_TIME_BOUND_MICROS: u64 = 64;
/// Commits of up to 1, 2, 4 and so on to 65,536 entries.
const ENTRIES_BOUNDS: usize = 17;

#[derive(Debug, Default)]
pub(super) struct Counters {
    commits: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    group_max: AtomicU64,
    micros_total: AtomicU64,
    micros_max: AtomicU64,
    by_time: Histogram<TIME_BOUNDS>,
    by_entries: Histogram<ENTRIES_BOUNDS>,
}

/// Counts values by a bound that doubles. A value above the last bound is not in it. No scheduler
/// sees it: nothing is decided by it.
#[derive(Debug)]
struct Histogram<const N: usize>([UnseenU64; N]);

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| UnseenU64::new(0)))
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts a value at the least bound that it does not exceed, where `first` is the first bound.
    fn note(&self, value: u64, first: u64) {
        let doublings = u64::BITS - (value.saturating_sub(1) / first).leading_zeros();
        if let Some(count) = self.0.get(doublings as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For each bound, given as a multiple of the first, how many values are not above it.
    fn at_most(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..).zip(&self.0).scan(0, |sum, (doublings, count)| {
            *sum += count.load(Ordering::Relaxed);
            Some((1 << doublings, *sum))
        })
    }
}

/// The result of [`Commit::stats`](super::Commit::stats).
#[derive(Debug)]
pub(crate) struct CommitStats {
    pub(crate) commits: u64,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) group_max: u64,
    pub(crate) time_total: Duration,
    pub(crate) time_max: Duration,
    /// Commits that took at most so long, for several times.
    pub(crate) by_time: Vec<(Duration, u64)>,
    /// Commits of at most so many entries, for several numbers.
    pub(crate) by_entries: Vec<(u64, u64)>,
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
        self.by_time.note(micros, FIRST_TIME_BOUND_MICROS);
        self.by_entries.note(entries, 1);
    }

    pub(super) fn stats(&self) -> CommitStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let first = Duration::from_micros(FIRST_TIME_BOUND_MICROS);
        // Buckets come before the total, so that no bucket exceeds it.
        CommitStats {
            by_time: self.by_time.at_most().map(|(firsts, commits)| (first * firsts, commits)).collect(),
            by_entries: self.by_entries.at_most().map(|(bound, commits)| (bound.into(), commits)).collect(),
            commits: load(&self.commits),
            entries: load(&self.entries),
            bytes: load(&self.bytes),
            group_max: load(&self.group_max),
            time_total: Duration::from_micros(load(&self.micros_total)),
            time_max: Duration::from_micros(load(&self.micros_max)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_at_the_first_bound_that_it_does_not_exceed_and_at_all_later_ones() {
        let histogram = Histogram::<4>::default();
        for value in [0, 64, 65, 128, 129, 512, 513, u64::MAX] {
            histogram.note(value, 64);
        }
        assert_eq!(histogram.at_most().collect::<Vec<_>>(), [(1, 2), (2, 4), (4, 5), (8, 6)]);
    }

    #[test]
    fn times_go_from_a_fast_sync_to_a_disk_that_hangs_and_entries_to_a_full_queue() {
        let counters = Counters::default();
        counters.note(3, 100, Duration::from_millis(2));
        let CommitStats { by_time: times, by_entries: entries, .. } = counters.stats();
        assert_eq!(times.first(), Some(&(Duration::from_micros(64), 0)));
        assert_eq!(times.last(), Some(&(Duration::from_micros(64 << 18), 1)));
        assert_eq!(times.iter().filter(|(_, commits)| *commits == 0).count(), 5);
        assert_eq!(
            (entries.first(), entries.get(2), entries.last()),
            (Some(&(1, 0)), Some(&(4, 1)), Some(&(65_536, 1)))
        );
    }
}
