//! `TracingObserver`: an engine's events, for the crate `tracing`.

use tracing::{Level, debug, error, event, field, info, trace, warn};

use super::scope_label::scope_label;
use crate::{BeginError, Event, KeyHash, Observer, Record};

/// Writes the events of an engine with the crate `tracing`, target `idemkv`.
///
/// | level | events |
/// |---|---|
/// | error | a full disk, a failed read or close, a failed engine, a damaged record, faults of the program |
/// | warn | interruptions, superseded claims, begins refused by a limit, failure or interruption |
/// | info | opened, connected, closed, policies, backups, room again |
/// | debug | grants, ends, claims found in flight, waits, begins refused because of the request |
/// | trace | replays |
///
/// An event about a key has its short hash (`key.hash`), which the command `idemkv` accepts. It
/// never has a body, and no key unless [`with_keys`](Self::with_keys) says so.
///
/// ```
/// # use std::sync::Arc;
/// # use idemkv::{Engine, TracingObserver};
/// let options = Engine::options().observer(Arc::new(TracingObserver::new()));
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingObserver {
    has_keys: bool,
}

impl TracingObserver {
    /// An observer that shows no key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows keys too, in a field `key`: lossily, if they are not UTF-8. Keys can be secrets of
    /// clients.
    #[must_use]
    pub fn with_keys(mut self) -> Self {
        self.has_keys = true;
        self
    }

    fn key(self, key: &[u8]) -> Option<String> {
        self.has_keys.then(|| String::from_utf8_lossy(key).into_owned())
    }

    fn refused(self, call: &str, scope: &[u8], key: &[u8], hash: Option<KeyHash>, error: &BeginError) {
        macro_rules! write {
            ($level:expr) => {
                event!(
                    target: "idemkv",
                    $level,
                    scope = scope_label(scope),
                    key = self.key(key),
                    key.hash = hash.map(field::display),
                    error = %error,
                    "{call} refused"
                )
            };
        }
        match error {
            BeginError::Damaged(_)
            | BeginError::Io(_)
            | BeginError::InsideCallback
            | BeginError::InsideTransaction
            | BeginError::OwnKey
            | BeginError::BatchTooLong { .. } => write!(Level::ERROR),
            BeginError::Unresolved(_) | BeginError::Busy(_) | BeginError::Failed(_) => write!(Level::WARN),
            BeginError::Key(_)
            | BeginError::Expired(_)
            | BeginError::KeyReused
            | BeginError::DuplicateInBatch { .. }
            | BeginError::Closed => write!(Level::DEBUG),
            #[cfg(feature = "postgres")]
            BeginError::Shared(_) => write!(Level::WARN),
        }
    }
}

/// Writes an event about the claim of a key.
macro_rules! of_claim {
    ($observer:ident, $level:ident, ($scope:ident, $key:ident, $hash:ident, $claim:ident),
     $($field:ident = $value:expr,)* $message:literal) => {
        $level!(
            target: "idemkv",
            scope = scope_label($scope),
            key = $observer.key($key),
            key.hash = %$hash,
            attempt = $claim.attempt(),
            fence = $claim.fence().get(),
            $($field = $value,)*
            $message
        )
    };
}

impl Observer for TracingObserver {
    fn replayed(&self, record: &Record) {
        trace!(
            target: "idemkv",
            scope = scope_label(record.scope()),
            key = self.key(record.key()),
            key.hash = %record.key_hash(),
            attempt = record.attempt(),
            fence = record.fence().get(),
            "replayed"
        );
    }

    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Granted { scope, key, key_hash, attempt, resolves, took, .. } => {
                of_claim!(
                    self,
                    debug,
                    (scope, key, key_hash, attempt),
                    resolves = resolves,
                    took = field::debug(took),
                    "claim granted"
                );
            }
            Event::InFlight { scope, key, key_hash, attempt, .. } => {
                of_claim!(self, debug, (scope, key, key_hash, attempt), "found in flight");
            }
            Event::Waited { scope, key, key_hash, answer: Err(error), .. } => {
                self.refused("wait", scope, key, Some(*key_hash), error);
            }
            Event::Waited { scope, key, key_hash, attempt, answer: Ok(answer), took, .. } => {
                of_claim!(
                    self,
                    debug,
                    (scope, key, key_hash, attempt),
                    answer = field::display(answer),
                    took = field::debug(took),
                    "waited"
                );
            }
            Event::Ended { scope, key, key_hash, attempt, end, took, body_len, .. } => {
                of_claim!(
                    self,
                    debug,
                    (scope, key, key_hash, attempt),
                    end = field::debug(end),
                    took = field::debug(took),
                    body_bytes = body_len,
                    "claim ended"
                );
            }
            Event::Interrupted { scope, key, key_hash, interruption, cause, .. } => {
                of_claim!(
                    self,
                    warn,
                    (scope, key, key_hash, interruption),
                    cause = field::debug(cause),
                    "claim interrupted"
                );
            }
            Event::Superseded { scope, key, key_hash, attempt, .. } => {
                of_claim!(self, warn, (scope, key, key_hash, attempt), "claim superseded");
            }
            Event::Refused { scope, key, key_hash, error, .. } => {
                self.refused("begin", scope, key, *key_hash, error);
            }
            Event::Opened { .. }
            | Event::PolicySet { .. }
            | Event::DiskFull { .. }
            | Event::RoomAgain {}
            | Event::ReadFailed { .. }
            | Event::Failed { .. }
            | Event::BackedUp { .. }
            | Event::Closed { .. } => of_engine(event),
            #[cfg(feature = "postgres")]
            Event::Connected { .. } => of_engine(event),
        }
    }
}

/// Writes an event about the engine as a whole.
fn of_engine(event: &Event<'_>) {
    match event {
        Event::Opened { keys, replayed, interrupted, took, .. } => {
            info!(target: "idemkv", keys, commits_replayed = replayed, interrupted, ?took, "opened");
        }
        #[cfg(feature = "postgres")]
        Event::Connected { took, .. } => info!(target: "idemkv", ?took, "connected"),
        Event::PolicySet { scope, policy, .. } => {
            info!(target: "idemkv", scope = scope_label(scope), ?policy, "policy set");
        }
        Event::DiskFull { failure, .. } => error!(target: "idemkv", error = %failure, "the disk is full"),
        Event::RoomAgain {} => info!(target: "idemkv", "the disk has room again"),
        Event::ReadFailed { failure, .. } => error!(target: "idemkv", error = %failure, "a read failed"),
        Event::Failed { failure, .. } => {
            error!(target: "idemkv", error = %failure, "the engine has stopped granting claims");
        }
        Event::BackedUp { bytes, took, .. } => info!(target: "idemkv", bytes, ?took, "backed up"),
        Event::Closed { failure: Some(failure), took, .. } => {
            error!(target: "idemkv", error = %failure, ?took, "closed with an error");
        }
        Event::Closed { claims_left, took, .. } => {
            info!(target: "idemkv", claims_left, ?took, "closed");
        }
        // About keys.
        Event::Granted { .. }
        | Event::InFlight { .. }
        | Event::Waited { .. }
        | Event::Ended { .. }
        | Event::Interrupted { .. }
        | Event::Superseded { .. }
        | Event::Refused { .. } => {}
    }
}
