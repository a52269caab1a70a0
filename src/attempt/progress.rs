//! Progress of an operation, as its claim saved it.

use crate::sync::{Arc, AtomicUsize, Ordering};

/// How far an operation had come, as its claim saved it; see
/// [`Claim::save_progress`](crate::Claim::save_progress). Cheap to clone.
#[derive(Clone)]
pub struct Progress(Arc<Kept>);

struct Kept {
    bytes: Box<[u8]>,
    budget: Arc<Budget>,
}

/// Bytes of all saved progress in memory.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts so many bytes more, if that is within `max`.
    fn take(&self, bytes: usize, max: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= max);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

impl Progress {
    /// Progress that was read from a file, even beyond the limit.
    pub(crate) fn new(bytes: &[u8], budget: &Arc<Budget>) -> Self {
        budget.0.fetch_add(bytes.len(), Ordering::Relaxed);
        Self::counted(bytes, budget)
    }

    /// Progress to be saved, if all progress then takes at most `max` bytes.
    pub(crate) fn within(bytes: &[u8], budget: &Arc<Budget>, max: usize) -> Option<Self> {
        budget.take(bytes.len(), max).then(|| Self::counted(bytes, budget))
    }

    fn counted(bytes: &[u8], budget: &Arc<Budget>) -> Self {
        Self(Arc::new(Kept { bytes: bytes.into(), budget: Arc::clone(budget) }))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl std::ops::Deref for Progress {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// The same bytes.
impl PartialEq for Progress {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Progress {}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("len", &self.len()).finish_non_exhaustive()
    }
}
