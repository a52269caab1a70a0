//! `MetricsObserver`: counts and times an engine's events, and publishes its gauges.

use std::fmt;
use std::time::Duration;

use metrics::{counter, gauge};

use super::catalogue::{
    BEGINS, COMMITS_BY_ENTRIES, COMMITS_BY_SECONDS, COUNTERS, GAUGES, PUBLISHED, WAITS, describe,
};
use super::scopes::{ScopeMetrics, Scopes};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::{BeginError, Busy, Cause, EndKind, Engine, Event, Observer, Record, Stats, Waited};

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
    published: Mutex<Published>,
    /// How often a file was closed.
    closings: AtomicU64,
}

/// What the counters of each opening were when they were published last. The most recent is last.
#[derive(Default)]
struct Published(Vec<(u64, Vec<u64>)>);

/// The most openings whose counters are known, as the documentation of `publish` says.
const OPENINGS_MAX: usize = 16;

impl Published {
    /// Notes the counters of an opening; gives those from before, none if it is new.
    fn replace(&mut self, opening: u64, counts: Vec<u64>) -> Vec<u64> {
        let known = self.0.iter().position(|(other, _)| *other == opening);
        let before = known.map(|at| self.0.remove(at).1).unwrap_or_default();
        if self.0.len() >= OPENINGS_MAX {
            drop(self.0.remove(0));
        }
        self.0.push((opening, counts));
        before
    }
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
        Self {
            engine: engine.into(),
            scopes: Scopes::new(SCOPES_MAX),
            published: Mutex::default(),
            closings: AtomicU64::new(0),
        }
    }

    /// The most scopes that have labels of their own.
    #[must_use]
    pub fn scopes_max(mut self, scopes: usize) -> Self {
        self.scopes = Scopes::new(scopes);
        self
    }

    /// Writes the engine's gauges and counters, as [`Engine::stats`] has them now.
    ///
    /// Once the engine is closed, its gauges are zero; the observer sees to that by itself. Call
    /// this once more after the close, with a clone of the engine: its counters have what was
    /// counted since the last call.
    ///
    /// If two engines share an observer, their counters add up, and the gauges are those of the
    /// one that was published last. The observer knows the last 16 openings that were published.
    /// If more engines than that take turns, their counters are added once more.
    ///
    /// On a shared store, gauges and counters are those of this process. The gauges of interrupted
    /// keys are those of the store, as this process last counted them. Those of a file or a log
    /// stay zero.
    pub fn publish(&self, engine: &Engine) {
        loop {
            let closings = self.closings.load(Ordering::Acquire);
            let stats = self.publish_counters(engine);
            let closed = Stats::default();
            self.write_gauges(if stats.is_open { &stats } else { &closed });
            let wall_ms = engine.now().as_millis().saturating_add_signed(stats.clock_lag_ms);
            gauge!(PUBLISHED.0, &self.labels()).set(Duration::from_millis(wall_ms).as_secs_f64());
            // A close that came meanwhile wrote zeros, perhaps before these gauges.
            if self.closings.load(Ordering::Acquire) == closings {
                return;
            }
        }
    }

    fn labels(&self) -> [(&'static str, String); 1] {
        [("engine", self.engine.clone())]
    }

    fn write_gauges(&self, stats: &Stats) {
        for gauge in &GAUGES {
            gauge!(gauge.0.0, &self.labels()).set((gauge.1)(stats));
        }
    }

    /// Writes by how much the counters have grown.
    fn publish_counters(&self, engine: &Engine) -> Stats {
        // Asked under the lock: of two calls the later one has the greater counts.
        let mut published = self.published.lock();
        let stats = engine.stats();
        let now = counts(&stats);
        let before = published.replace(stats.opening, now.iter().map(|count| count.value).collect());
        drop(published);
        for (at, Count { name, bound, value }) in now.into_iter().enumerate() {
            let counter = match bound {
                None => counter!(name, &self.labels()),
                Some(le) => counter!(name, &[("engine", self.engine.clone()), ("le", le)]),
            };
            counter.increment(value.saturating_sub(before.get(at).copied().unwrap_or(0)));
        }
        stats
    }

    fn waited(&self, scope: &ScopeMetrics, answer: Result<&Waited, &BeginError>) {
        match answer {
            Ok(Waited::Done(_)) => scope.waits_replayed.increment(1),
            Ok(Waited::Vacant) => scope.waits_vacant.increment(1),
            Ok(Waited::Interrupted) => scope.waits_interrupted.increment(1),
            Ok(Waited::TimedOut) => scope.waits_timed_out.increment(1),
            Err(error) => self.count_refusal(WAITS.0, scope, error),
        }
    }

    fn refused(&self, scope: &ScopeMetrics, error: &BeginError) {
        match error {
            BeginError::KeyReused => scope.reused.increment(1),
            BeginError::Expired(_) => scope.expired.increment(1),
            BeginError::Unresolved(_) => scope.unresolved.increment(1),
            // It was counted as in flight.
            BeginError::DuplicateInBatch { .. } => {}
            BeginError::Busy(_)
            | BeginError::Key(_)
            | BeginError::OwnKey
            | BeginError::InsideCallback
            | BeginError::InsideTransaction
            | BeginError::BatchTooLong { .. }
            | BeginError::Failed(_)
            | BeginError::Closed
            | BeginError::Damaged(_)
            | BeginError::Io(_) => self.count_refusal(BEGINS.0, scope, error),
            #[cfg(feature = "postgres")]
            BeginError::Shared(_) => self.count_refusal(BEGINS.0, scope, error),
        }
    }

    fn count_refusal(&self, metric: &'static str, scope: &ScopeMetrics, error: &BeginError) {
        let labels = [
            ("engine", self.engine.clone()),
            ("scope", scope.label.clone()),
            ("answer", "refused".to_owned()),
            ("reason", reason(error).to_owned()),
        ];
        counter!(metric, &labels).increment(1);
    }
}

fn reason(error: &BeginError) -> &'static str {
    match error {
        BeginError::KeyReused => "reused",
        BeginError::Expired(_) => "expired",
        BeginError::Unresolved(_) => "unresolved",
        BeginError::DuplicateInBatch { .. } => "duplicate_in_batch",
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
            Event::Waited { scope: name, answer, .. } => self.waited(&scope(name), *answer),
            Event::Ended { scope: name, end, took, .. } => {
                let scope = scope(name);
                match end {
                    EndKind::Completed => &scope.completed,
                    EndKind::Failed => &scope.failed,
                    EndKind::Released | EndKind::PutBack => &scope.released,
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
            Event::Closed { .. } => {
                self.closings.fetch_add(1, Ordering::Release);
                self.write_gauges(&Stats::default());
            }
            // `publish` has these.
            Event::Opened { .. }
            | Event::PolicySet { .. }
            | Event::DiskFull { .. }
            | Event::RoomAgain {}
            | Event::ReadFailed { .. }
            | Event::Failed { .. }
            | Event::BackedUp { .. } => {}
            #[cfg(feature = "postgres")]
            Event::Connected { .. } => {}
        }
    }
}

impl fmt::Debug for MetricsObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsObserver").field("engine", &self.engine).finish_non_exhaustive()
    }
}
