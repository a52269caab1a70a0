//! `MetricsObserver`: counts and times an engine's events, and publishes its gauges.

use std::fmt;

use metrics::{counter, gauge};

use super::catalogue::{BEGINS, COMMITS_BY_ENTRIES, COMMITS_BY_SECONDS, COUNTERS, GAUGES, describe};
use super::scopes::{ScopeMetrics, Scopes};
use crate::sync::Mutex;
use crate::{BeginError, Busy, Cause, EndKind, Engine, Event, Observer, Record, Stats};

/// Scopes that have labels of their own, unless told otherwise.
const SCOPES_MAX: usize = 32;

/// Counts and times the events of one engine, on the facade of the crate `metrics`.
///
/// Events are counted as they happen, by scope. The engine's gauges and its other counters are
/// written by [`publish`](Self::publish): call it before each scrape, or every few seconds.
/// `docs/monitoring.md` lists every metric. Install the recorder of your exporter before you make
/// the observer, or what it counts is lost.
///
/// A key never becomes a label, and scopes do up to a limit: 32 by default. Scopes that come later
/// are counted together as `(other)`.
///
/// ```
/// # use std::sync::Arc;
/// # use idemkv::{Engine, MetricsObserver};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("charges.idem");
/// let observer = Arc::new(MetricsObserver::new("charges"));
/// let engine = Engine::options().observer(Arc::clone(&observer)).open(&path)?;
/// // In the handler of a scrape, or on a timer:
/// observer.publish(&engine);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MetricsObserver {
    engine: String,
    scopes: Scopes,
    /// What the counters of the opened file were when they were published last.
    published: Mutex<Vec<u64>>,
}

impl MetricsObserver {
    /// Upper bounds in seconds for the two histograms of times, from a fast sync to a slow call to
    /// another service. An exporter that needs buckets can be given these.
    pub const BUCKETS_SECONDS: &'static [f64] =
        &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

    /// An observer of one engine. The name tells its metrics from those of other engines, as the
    /// label `engine`. An engine that is opened again can have the same observer.
    #[must_use]
    pub fn new(engine: impl Into<String>) -> Self {
        describe();
        Self { engine: engine.into(), scopes: Scopes::new(SCOPES_MAX), published: Mutex::default() }
    }

    /// The most scopes that have labels of their own.
    #[must_use]
    pub fn scopes_max(mut self, scopes: usize) -> Self {
        self.scopes = Scopes::new(scopes);
        self
    }

    /// Writes the engine's gauges and counters, as [`Engine::stats`] has them now.
    pub fn publish(&self, engine: &Engine) {
        let mut published = self.published.lock();
        let stats = engine.stats();
        let now = counts(&stats);
        let before = std::mem::replace(&mut *published, now.iter().map(|count| count.value).collect());
        drop(published);
        let labels = [("engine", self.engine.clone())];
        for gauge in &GAUGES {
            gauge!(gauge.0.0, &labels).set((gauge.1)(&stats));
        }
        for (at, Count { name, bound, value }) in now.into_iter().enumerate() {
            // A count that is lower than before is of another opening of the file.
            let last = before.get(at).copied().filter(|last| *last <= value).unwrap_or(0);
            let counter = match bound {
                None => counter!(name, &labels),
                Some(le) => counter!(name, &[("engine", self.engine.clone()), ("le", le)]),
            };
            counter.increment(value - last);
        }
    }

    fn refused(&self, scope: &ScopeMetrics, error: &BeginError) {
        let reason = match error {
            BeginError::KeyReused => return scope.reused.increment(1),
            BeginError::Expired(_) => return scope.expired.increment(1),
            BeginError::Unresolved(_) => return scope.unresolved.increment(1),
            // It was counted as in flight.
            BeginError::DuplicateInBatch { .. } => return,
            BeginError::Busy(busy) => busy_reason(busy),
            BeginError::Key(_) => "key",
            BeginError::OwnKey => "own_key",
            BeginError::InsideCallback => "inside_callback",
            BeginError::InsideTransaction => "inside_transaction",
            BeginError::BatchTooLong { .. } => "batch_too_long",
            BeginError::Failed(_) => "failed",
            BeginError::Closed => "closed",
            BeginError::Damaged(_) => "damaged",
            BeginError::Io(_) => "io",
            #[cfg(feature = "postgres")]
            BeginError::Shared(_) => "shared",
        };
        let labels = [
            ("engine", self.engine.clone()),
            ("scope", scope.label.clone()),
            ("answer", "refused".to_owned()),
            ("reason", reason.to_owned()),
        ];
        counter!(BEGINS.0, &labels).increment(1);
    }
}

fn busy_reason(busy: &Busy) -> &'static str {
    match busy {
        Busy::QueueFull { .. } => "queue_full",
        Busy::TooManyClaims { .. } => "too_many_claims",
        Busy::DiskFull(_) => "disk_full",
        Busy::FileNotReady(_) => "file_not_ready",
        Busy::LeaseTooShort { .. } => "lease_too_short",
        Busy::TooManyWaiters { .. } => "too_many_waiters",
        Busy::TooManyProgressBytes { .. } => "too_many_progress_bytes",
    }
}

/// One counter of an engine, as it is now.
struct Count {
    name: &'static str,
    /// The upper bound of a bucket.
    bound: Option<String>,
    value: u64,
}

/// All of them, in the same order each time.
fn counts(stats: &Stats) -> Vec<Count> {
    let plain =
        COUNTERS.iter().map(|counter| Count { name: counter.0.0, bound: None, value: (counter.1)(stats) });
    let bucket = |name, bound, value| Count { name, bound: Some(bound), value };
    let times = stats.commits_by_time.iter();
    let times = times.map(|(time, n)| bucket(COMMITS_BY_SECONDS.0, time.as_secs_f64().to_string(), *n));
    let sizes = stats.commits_by_entries.iter();
    let sizes = sizes.map(|(entries, n)| bucket(COMMITS_BY_ENTRIES.0, entries.to_string(), *n));
    let all = [COMMITS_BY_SECONDS.0, COMMITS_BY_ENTRIES.0];
    let all = all.map(|name| bucket(name, "+Inf".to_owned(), stats.commits));
    plain.chain(all).chain(times).chain(sizes).collect()
}

impl Observer for MetricsObserver {
    fn replayed(&self, record: &Record) {
        self.scopes.of(&self.engine, record.scope()).replayed.increment(1);
    }

    fn event(&self, event: &Event<'_>) {
        let scope = |scope| self.scopes.of(&self.engine, scope);
        match event {
            // The counters of the file start anew.
            Event::Opened { .. } => self.published.lock().clear(),
            Event::Granted { scope: name, resolves, interrupted, took, .. } => {
                let scope = scope(name);
                match (resolves, interrupted) {
                    (true, _) => &scope.resolutions,
                    (false, None) => &scope.fresh,
                    (false, Some(_)) => &scope.rerun,
                }
                .increment(1);
                scope.begin_seconds.record(took.as_secs_f64());
            }
            Event::InFlight { scope: name, .. } => scope(name).in_flight.increment(1),
            Event::Ended { scope: name, end, took, .. } => {
                let scope = scope(name);
                match end {
                    EndKind::Completed => &scope.completed,
                    EndKind::Failed => &scope.failed,
                    EndKind::Released => &scope.released,
                }
                .increment(1);
                scope.operation_seconds.record(took.as_secs_f64());
            }
            Event::Interrupted { scope: name, cause, .. } => {
                let scope = scope(name);
                match cause {
                    Cause::Dropped => &scope.dropped,
                    Cause::Lease => &scope.lease,
                    Cause::Restart => &scope.restart,
                }
                .increment(1);
            }
            Event::Refused { scope: name, error, .. } => self.refused(&scope(name), error),
            Event::Superseded { scope: name, .. } => scope(name).superseded.increment(1),
            // `publish` has these.
            Event::PolicySet { .. }
            | Event::DiskFull { .. }
            | Event::RoomAgain {}
            | Event::ReadFailed { .. }
            | Event::Failed { .. }
            | Event::BackedUp { .. }
            | Event::Closed { .. } => {}
        }
    }
}

impl fmt::Debug for MetricsObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsObserver").field("engine", &self.engine).finish_non_exhaustive()
    }
}
