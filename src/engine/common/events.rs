//! Events of claims, as both cores tell them to the observer. Nothing is told under a lock.

use std::time::Duration;

use super::namespace::ScopeInner;
use crate::Timestamp;
use crate::attempt::Attempt;
use crate::attempt::waited::Waited;
use crate::clock::Stopwatch;
use crate::error::BeginError;
use crate::key::Digest;
use crate::observer::{Cause, EndKind, Event, Hooks};

impl Hooks {
    /// A caller gets the claim of this attempt.
    pub(crate) fn granted(&self, attempt: &Attempt, resolves: bool, watch: Option<&Stopwatch>) {
        self.tell(|| Event::Granted {
            scope: attempt.scope(),
            key: attempt.key(),
            key_hash: attempt.digest.key_hash(),
            attempt: attempt.info(),
            interrupted: attempt.interruption_before(),
            resolves,
            took: elapsed(watch),
        });
    }

    /// A begin found the claim of another call.
    pub(crate) fn in_flight(&self, attempt: &Attempt) {
        self.tell(|| Event::InFlight {
            scope: attempt.scope(),
            key: attempt.key(),
            key_hash: attempt.digest.key_hash(),
            attempt: attempt.info(),
        });
    }

    /// A begin was refused.
    pub(crate) fn refused(&self, scope: &ScopeInner, key: &[u8], error: &BeginError) {
        self.tell(|| {
            let key_hash = scope.digest(key).ok().map(Digest::key_hash);
            Event::Refused { scope: scope.name(), key, key_hash, error }
        });
    }

    /// A wait for the end of this attempt is over.
    pub(crate) fn waited(
        &self,
        attempt: &Attempt,
        answer: Result<&Waited, &BeginError>,
        watch: Option<&Stopwatch>,
    ) {
        self.tell(|| Event::Waited {
            scope: attempt.scope(),
            key: attempt.key(),
            key_hash: attempt.digest.key_hash(),
            attempt: attempt.info(),
            answer,
            took: elapsed(watch),
        });
    }

    /// The claim has ended, at the time that `at` gives.
    pub(crate) fn ended(
        &self,
        attempt: &Attempt,
        end: EndKind,
        at: impl FnOnce() -> Timestamp,
        body_len: usize,
    ) {
        self.tell(|| Event::Ended {
            scope: attempt.scope(),
            key: attempt.key(),
            key_hash: attempt.digest.key_hash(),
            attempt: attempt.info(),
            end,
            took: at().saturating_since(attempt.started),
            body_len,
        });
    }

    /// The claim ended without an outcome.
    pub(crate) fn interrupted(&self, attempt: &Attempt, cause: Cause) {
        self.tell(|| {
            let (scope, key, key_hash) = (attempt.scope(), attempt.key(), attempt.digest.key_hash());
            Event::Interrupted { scope, key, key_hash, interruption: attempt.interruption(), cause }
        });
    }

    /// A call on the claim came too late.
    pub(crate) fn superseded(&self, attempt: &Attempt) {
        self.tell(|| {
            let (scope, key, key_hash) = (attempt.scope(), attempt.key(), attempt.digest.key_hash());
            Event::Superseded { scope, key, key_hash, attempt: attempt.info() }
        });
    }
}

fn elapsed(watch: Option<&Stopwatch>) -> Duration {
    watch.map(Stopwatch::elapsed).unwrap_or_default()
}
