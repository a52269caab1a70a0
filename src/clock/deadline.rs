//! Spans of real time: stopwatches, and deadlines of waits.

use std::time::{Duration, Instant};

#[cfg(idemkv_shuttle)]
use crate::sync::time::now;

#[cfg(not(idemkv_shuttle))]
#[expect(clippy::disallowed_methods, reason = "this module owns the clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// A running stopwatch, for statistics only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.0)
    }
}

/// A deadline in real time, for bounded waits of threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(span: Duration) -> Self {
        Self(now().checked_add(span))
    }

    pub(crate) const NEVER: Self = Self(None);

    pub(crate) fn later_by(self, span: Duration) -> Self {
        Self(self.0.and_then(|at| at.checked_add(span)))
    }

    pub(crate) fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    pub(crate) fn min(self, other: Self) -> Self {
        Self(self.0.into_iter().chain(other.0).min())
    }

    pub(crate) fn is_before(self, other: Self) -> bool {
        self.0.is_some_and(|at| other.0.is_none_or(|other| at < other))
    }

    /// The instant to wait until; `None` means for ever.
    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }

    pub(crate) fn has_passed(self) -> bool {
        self.0.is_some_and(|at| now() >= at)
    }
}

/// How long one call may wait: one limit for all its waits, counted from the first.
#[derive(Debug)]
pub(crate) struct QueueTimeout {
    span: Duration,
    until: Option<Deadline>,
}

impl QueueTimeout {
    pub(crate) fn new(span: Duration) -> Self {
        Self { span, until: None }
    }

    /// Until when the call waits. The first wait sets it.
    pub(crate) fn until(&mut self) -> Deadline {
        *self.until.get_or_insert_with(|| Deadline::after(self.span))
    }

    pub(crate) fn span(&self) -> Duration {
        self.span
    }

    /// The remaining time, for a part of the call. It runs from now on.
    pub(crate) fn rest(&mut self) -> Self {
        Self { span: self.span, until: Some(self.until()) }
    }
}
