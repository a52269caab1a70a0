//! What is counted of the calls on a shared store, and told to the observer. Nothing is told under
//! a lock.

use super::core::Core;
use super::lists::attempt_of;
use super::row::KeyRow;
use crate::attempt::Attempt;
use crate::clock::Stopwatch;
use crate::engine::common::counters::Counters;
use crate::engine::common::namespace::ScopeInner;
use crate::engine::handles::claim::Begin;
use crate::error::{BeginError, ClaimError, Failure};
use crate::key::Digest;
use crate::observer::{Cause, EndKind, Event};
use crate::record::{Outcome, Record};
use crate::sync::Ordering;
use crate::{Status, Timestamp};

impl Core {
    /// Counts and tells the answer to a begin.
    pub(super) fn note_begin(
        &self,
        scope: &ScopeInner,
        key: &[u8],
        answer: &Result<Begin, BeginError>,
        watch: Option<&Stopwatch>,
    ) {
        match answer {
            Ok(Begin::Fresh(claim)) => self.note_grant(claim.of(), false, watch),
            Ok(Begin::InFlight(pending)) => self.note_in_flight(pending.of()),
            Ok(Begin::Done(record)) => {
                self.answers.replayed.fetch_add(1, Ordering::Relaxed);
                self.options.hooks.call(|observer| observer.replayed(record));
            }
            Err(error) => {
                self.counters.count_refusal(error);
                self.options.hooks.refused(scope, key, error);
            }
        }
    }

    /// The same of a claim that its caller gets.
    pub(super) fn note_grant(&self, attempt: &Attempt, resolves: bool, watch: Option<&Stopwatch>) {
        self.counters.count_grant(attempt, resolves);
        self.options.hooks.granted(attempt, resolves, watch);
    }

    /// The same of a begin that found the claim of another call.
    pub(super) fn note_in_flight(&self, attempt: &Attempt) {
        self.answers.waited.fetch_add(1, Ordering::Relaxed);
        self.options.hooks.in_flight(attempt);
    }

    /// Counts and tells a result that the store has.
    pub(super) fn note_result(&self, attempt: &Attempt, record: &Record) {
        let end = match record.outcome() {
            Outcome::Success => EndKind::Completed,
            Outcome::Failure => EndKind::Failed,
        };
        self.note_end(attempt, end, record.completed(), record.body().len());
    }

    /// Counts and tells an end that the store has, which it noted at this time.
    pub(super) fn note_end(&self, attempt: &Attempt, end: EndKind, at: Timestamp, body_len: usize) {
        self.counters.count_end(end);
        self.options.hooks.ended(attempt, end, || at, body_len);
    }

    /// Counts and tells that a claim of this process was dropped, and its key interrupted.
    pub(super) fn note_drop(&self, attempt: &Attempt) {
        Counters::count(&self.counters.dropped);
        self.options.hooks.interrupted(attempt, Cause::Dropped);
    }

    /// Counts and tells that this process found a claim over, of itself or of another, and has
    /// made its key interrupted. Of all processes one does.
    pub(super) fn note_lapse(&self, row: &KeyRow, digest: Digest) {
        Counters::count(&self.counters.found_interrupted);
        if self.options.hooks.is_heard() {
            let attempt = attempt_of(self, row, digest);
            attempt.interrupt(row.as_earlier().interrupted_at);
            let cause = if row.lease_for.is_some() { Cause::Lease } else { Cause::Restart };
            self.options.hooks.interrupted(&attempt, cause);
        }
    }

    /// Counts and tells that a call on a claim came too late; the error for it.
    pub(super) fn superseded(&self, attempt: &Attempt, now: Status) -> ClaimError {
        Counters::count(&self.counters.superseded);
        self.options.hooks.superseded(attempt);
        ClaimError::Superseded(Box::new(now))
    }

    pub(super) fn tell_of_connection(&self) {
        self.options.hooks.tell(|| Event::Connected { took: self.opened.elapsed() });
    }

    /// Another process took this one's name, so this one grants nothing more.
    pub(super) fn tell_of_replacement(&self) {
        self.options.hooks.tell(|| Event::Failed { failure: &Failure::Replaced });
    }

    pub(super) fn tell_of_close(&self, watch: &Stopwatch) {
        let claims_left = *self.left.get_or_init(|| self.held.load(Ordering::Relaxed));
        self.options.hooks.tell(|| Event::Closed { claims_left, failure: None, took: watch.elapsed() });
    }
}
