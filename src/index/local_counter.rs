//! Counts of replays, one for each thread with a copy of a record, so that no two threads write
//! to the same cache line.

use crossbeam::utils::CachePadded;

use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};

#[derive(Debug)]
struct Count {
    replays: AtomicU64,
    /// Whether a thread has it.
    taken: AtomicBool,
}

/// A count that only its thread writes. After its drop another thread continues it.
#[derive(Debug)]
pub(super) struct LocalCounter(Arc<CachePadded<Count>>);

impl LocalCounter {
    #[inline]
    pub(super) fn count(&mut self) {
        let replays = &self.0.replays;
        // Needs no instruction that locks, for nobody else writes it.
        replays.store(replays.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl Drop for LocalCounter {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

/// All counts of an index: as many as the most threads that had one at the same time.
#[derive(Debug, Default)]
pub(super) struct LocalCounters(Mutex<Vec<Arc<CachePadded<Count>>>>);

impl LocalCounters {
    pub(super) fn take(&self) -> LocalCounter {
        let mut all = self.0.lock();
        // The next owner sees how far it has come.
        if let Some(free) = all.iter().find(|count| !count.taken.swap(true, Ordering::Acquire)) {
            return LocalCounter(Arc::clone(free));
        }
        let count = Count { replays: AtomicU64::new(0), taken: AtomicBool::new(true) };
        let count = Arc::new(CachePadded::new(count));
        all.push(Arc::clone(&count));
        LocalCounter(count)
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.lock().iter().map(|count| count.replays.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_that_is_given_back_counts_on_and_one_that_is_in_use_is_given_to_nobody() {
        let tallies = LocalCounters::default();
        let (mut one, mut other) = (tallies.take(), tallies.take());
        assert_eq!(tallies.0.lock().len(), 2);
        one.count();
        other.count();
        drop(one);
        tallies.take().count();
        assert_eq!((tallies.sum(), tallies.0.lock().len()), (3, 2));
    }
}
