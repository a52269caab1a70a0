//! Engine-wide limits: counts claims, waiting calls and saved progress, and refuses more than the
//! options allow.

use crate::attempt::progress::{Budget, Progress};
use crate::error::{BeginError, Busy};
use crate::sync::{Arc, AtomicUsize, Ordering};

#[derive(Debug)]
pub(crate) struct Limits {
    /// Claims in flight.
    in_flight: AtomicUsize,
    max_in_flight: usize,
    /// Calls that wait for claims of others.
    waiters: AtomicUsize,
    max_waiters: usize,
    /// Bytes of saved progress in memory.
    progress: Arc<Budget>,
    max_progress_bytes: usize,
}

/// The highest values of the limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitsMax {
    pub(crate) in_flight: usize,
    pub(crate) waiters: usize,
    pub(crate) progress_bytes: usize,
}

impl Limits {
    /// The limits of an opening that found so many claims in flight.
    pub(crate) fn new(max: LimitsMax, in_flight: usize, progress: Arc<Budget>) -> Self {
        Self {
            in_flight: AtomicUsize::new(in_flight),
            max_in_flight: max.in_flight,
            waiters: AtomicUsize::new(0),
            max_waiters: max.waiters,
            progress,
            max_progress_bytes: max.progress_bytes,
        }
    }

    /// Takes a place among the claims that may be in flight.
    pub(crate) fn enter(&self) -> Result<(), BeginError> {
        let max = self.max_in_flight;
        if count_one_more(&self.in_flight, max) {
            Ok(())
        } else {
            Err(BeginError::Busy(Busy::TooManyClaims { max }))
        }
    }

    /// Gives a place among the claims back.
    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a place among the calls that wait for claims of others.
    pub(crate) fn wait(&self) -> Result<Waiter<'_>, BeginError> {
        Waiter::within(&self.waiters, self.max_waiters)
    }

    /// Progress to be saved, if its memory is within the limit.
    pub(crate) fn keep_progress(&self, bytes: &[u8]) -> Result<Progress, Busy> {
        let max = self.max_progress_bytes;
        Progress::within(bytes, &self.progress, max).ok_or(Busy::TooManyProgressBytes { max })
    }

    /// The counter from which the drop of a `Progress` subtracts its bytes.
    pub(crate) fn progress(&self) -> &Arc<Budget> {
        &self.progress
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiters.load(Ordering::Relaxed)
    }
}

/// Counts one more, unless the limit is reached. A refused caller is never counted, not even for
/// a moment: another caller would be refused because of it.
fn count_one_more(count: &AtomicUsize, max: usize) -> bool {
    let one_more = |counted: usize| (counted < max).then(|| counted + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

/// A call that waits, counted until it is dropped.
pub(crate) struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    /// One more, if the limit is not reached.
    pub(crate) fn within(count: &'a AtomicUsize, max: usize) -> Result<Self, BeginError> {
        if count_one_more(count, max) {
            Ok(Self(count))
        } else {
            Err(BeginError::Busy(Busy::TooManyWaiters { max }))
        }
    }

    /// One more.
    pub(crate) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
