//! The counters of each scope, for a limited number of scopes.

use std::collections::HashMap;

use metrics::{Counter, Histogram, counter, histogram};

use super::catalogue::{
    BEGIN_SECONDS, BEGINS, ENDS, INTERRUPTIONS, OPERATION_SECONDS, RESOLUTIONS, SUPERSEDED, WAITS,
};
use super::scope_label::scope_label;
use crate::sync::{Arc, RwLock};

/// The label of all scopes beyond the limit.
const OTHER: &str = "(other)";

/// The metrics of one scope. Those of refusals are asked for each time, because they are rare.
pub(super) struct ScopeMetrics {
    pub(super) label: String,
    pub(super) fresh: Counter,
    pub(super) rerun: Counter,
    pub(super) replayed: Counter,
    pub(super) in_flight: Counter,
    pub(super) reused: Counter,
    pub(super) expired: Counter,
    pub(super) unresolved: Counter,
    pub(super) waits_replayed: Counter,
    pub(super) waits_vacant: Counter,
    pub(super) waits_interrupted: Counter,
    pub(super) waits_timed_out: Counter,
    pub(super) resolutions: Counter,
    pub(super) completed: Counter,
    pub(super) failed: Counter,
    pub(super) released: Counter,
    pub(super) dropped: Counter,
    pub(super) lease: Counter,
    pub(super) restart: Counter,
    pub(super) superseded: Counter,
    pub(super) begin_seconds: Histogram,
    pub(super) operation_seconds: Histogram,
}

impl ScopeMetrics {
    fn new(engine: &str, label: String) -> Self {
        let labels = |name: &'static str, value: &'static str| {
            [("engine", engine.to_owned()), ("scope", label.clone()), (name, value.to_owned())]
        };
        let plain = || [("engine", engine.to_owned()), ("scope", label.clone())];
        let begins = |answer| counter!(BEGINS.0, &labels("answer", answer));
        let waits = |answer| counter!(WAITS.0, &labels("answer", answer));
        let ends = |kind| counter!(ENDS.0, &labels("kind", kind));
        let interruptions = |cause| counter!(INTERRUPTIONS.0, &labels("cause", cause));
        Self {
            fresh: begins("fresh"),
            rerun: begins("rerun"),
            replayed: begins("replayed"),
            in_flight: begins("in_flight"),
            reused: begins("reused"),
            expired: begins("expired"),
            unresolved: begins("unresolved"),
            waits_replayed: waits("replayed"),
            waits_vacant: waits("vacant"),
            waits_interrupted: waits("interrupted"),
            waits_timed_out: waits("timed_out"),
            resolutions: counter!(RESOLUTIONS.0, &plain()),
            completed: ends("completed"),
            failed: ends("failed"),
            released: ends("released"),
            dropped: interruptions("dropped"),
            lease: interruptions("lease"),
            restart: interruptions("restart"),
            superseded: counter!(SUPERSEDED.0, &plain()),
            begin_seconds: histogram!(BEGIN_SECONDS.0, &plain()),
            operation_seconds: histogram!(OPERATION_SECONDS.0, &plain()),
            label,
        }
    }
}

/// The scopes that were met so far, up to a limit.
pub(super) struct Scopes {
    max: usize,
    /// Never held while the recorder is called: it is application code.
    known: RwLock<HashMap<Box<[u8]>, Arc<ScopeMetrics>>>,
}

impl Scopes {
    pub(super) fn new(max: usize) -> Self {
        Self { max, known: RwLock::default() }
    }

    /// The metrics of a scope, or of all those beyond the limit.
    pub(super) fn of(&self, engine: &str, scope: &[u8]) -> Arc<ScopeMetrics> {
        let known = self.known.read();
        if let Some(metrics) = known.get(scope) {
            return Arc::clone(metrics);
        }
        let is_full = known.len() >= self.max;
        drop(known);
        if is_full {
            return self.other(engine);
        }
        let new = Arc::new(ScopeMetrics::new(engine, scope_label(scope)));
        // Declared after `new`, so that the lock is free before a handle of the recorder is
        // dropped.
        let mut known = self.known.write();
        if known.len() >= self.max && !known.contains_key(scope) {
            drop(known);
            return self.other(engine);
        }
        Arc::clone(known.entry(scope.into()).or_insert_with(|| Arc::clone(&new)))
    }

    /// Those of scopes beyond the limit. They are in the map as well, under a name that no scope
    /// can have: a scope's name has at most 255 bytes.
    fn other(&self, engine: &str) -> Arc<ScopeMetrics> {
        const NAME: &[u8] = &[0; 256];
        let known = self.known.read().get(NAME).map(Arc::clone);
        known.unwrap_or_else(|| {
            let new = Arc::new(ScopeMetrics::new(engine, OTHER.to_owned()));
            Arc::clone(self.known.write().entry(NAME.into()).or_insert_with(|| Arc::clone(&new)))
        })
    }
}
