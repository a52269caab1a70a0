//! Answers over the last hour: the engine's counters, noted every ten seconds in a bounded ring.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Handle;

use crate::Stats;
use crate::sync::{AtomicBool, Mutex};

pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// An hour, and the sample before it.
const SAMPLES: usize = 361;

/// Counters of answers since the file was opened.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    at_ms: u64,
    fresh: u64,
    replayed: u64,
    waited: u64,
    refused: u64,
}

impl Sample {
    pub(super) fn of(at_ms: u64, stats: &Stats) -> Self {
        let answered = stats.fresh + stats.replayed + stats.waited;
        let refused = stats.begins().saturating_sub(answered);
        Self { at_ms, fresh: stats.fresh, replayed: stats.replayed, waited: stats.waited, refused }
    }
}

#[derive(Default)]
pub(super) struct Samples {
    ring: Mutex<VecDeque<Sample>>,
    is_running: AtomicBool,
}

impl Samples {
    pub(super) fn note(&self, sample: Sample) {
        let mut ring = self.ring.lock();
        if ring.len() >= SAMPLES {
            ring.pop_front();
        }
        ring.push_back(sample);
    }

    pub(super) fn all(&self) -> Vec<Sample> {
        self.ring.lock().iter().copied().collect()
    }

    /// The runtime to take samples on; `None` if that is done already, or there is no runtime yet.
    pub(super) fn start_on(&self) -> Option<Handle> {
        let runtime = Handle::try_current().ok()?;
        (!self.is_running.swap(true, Ordering::Relaxed)).then_some(runtime)
    }
}
