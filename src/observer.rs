//! The observer: a callback for each event, for logs and traces. Counters and gauges are in
//! `Stats`.

use std::fmt;
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::error::{BeginError, Failure, IoFailure};
use crate::foreign;
use crate::policy::Policy;
use crate::sync::Arc;
use crate::{AttemptInfo, Interruption, KeyHash, Record, Waited};

/// Receives the events that an operator wants to see: replays, and [events](Event) of every other
/// kind. Set with [`Options::observer`](crate::Options::observer).
///
/// The thread on which an event happens calls the method, holds no lock, and waits for it: hand
/// longer work to another thread. A panic in a method is caught.
///
/// The thread may hold claims that its caller does not have yet, and log space for them. A wait
/// for one of them would never end. So a blocking call that would wait for a claim, or for log
/// space, is refused with [`InsideCallback`](BeginError::InsideCallback), on any engine. Futures
/// are not refused, because they do not block. But a method that blocks on one (`block_on`) can
/// hang its thread: hand the wait to another thread or task.
///
/// The engine's own threads tell of leases that end, and of a full or failing disk. A transaction
/// may wait for them. So there [`checkpoint`](crate::Engine::checkpoint) and
/// [`compact`](crate::Engine::compact) do nothing, and a backup and
/// [`complete_in`](crate::Claim::complete_in) are refused.
///
/// ```
/// # use idemkv::{Begin, Engine, Fingerprint, Observer, Record};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// #[derive(Default)]
/// struct Replays(AtomicU64);
///
/// impl Observer for Replays {
///     fn replayed(&self, _record: &Record) {
///         self.0.fetch_add(1, Ordering::Relaxed);
///     }
/// }
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("x.idem");
/// # let request = Fingerprint::of("request");
/// let replays = Arc::new(Replays::default());
/// let engine = Engine::options().observer(Arc::clone(&replays)).open(&path)?;
/// let Begin::Fresh(claim) = engine.default_scope().begin("key", request)? else { panic!() };
/// claim.complete("reply")?;
/// assert!(matches!(engine.default_scope().begin("key", request)?, Begin::Done(_)));
/// assert_eq!(replays.0.load(Ordering::Relaxed), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Observer: Send + Sync {
    /// A begin was answered with this record. It is a separate method, because every replay calls
    /// it. A begin that waits for the claim of another call is answered "in flight" first; the
    /// record that it then gets is in [`Event::Waited`].
    fn replayed(&self, record: &Record) {
        let _ = record;
    }

    /// Any other event that is worth a line in a log, or a count.
    fn event(&self, event: &Event<'_>) {
        let _ = event;
    }
}

/// An observer that is shared with other parts of the program.
impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn replayed(&self, record: &Record) {
        O::replayed(self, record);
    }

    fn event(&self, event: &Event<'_>) {
        O::event(self, event);
    }
}

/// Two observers, told one after the other. If the first panics, the second is told nothing.
///
/// ```
/// # use std::sync::Arc;
/// # use idemkv::{Engine, Observer};
/// # #[derive(Default)] struct Log;
/// # impl Observer for Log {}
/// # #[derive(Default)] struct Counts;
/// # impl Observer for Counts {}
/// let options = Engine::options().observer(Arc::new((Log, Counts)));
/// # let _ = options;
/// ```
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn replayed(&self, record: &Record) {
        self.0.replayed(record);
        self.1.replayed(record);
    }

    fn event(&self, event: &Event<'_>) {
        self.0.event(event);
        self.1.event(event);
    }
}

/// An event for an [`Observer`]. Kinds of events, and fields, may be added.
#[non_exhaustive]
pub enum Event<'e> {
    /// The file was opened, and calls are about to be answered.
    #[non_exhaustive]
    Opened {
        /// Keys in the index.
        keys: usize,
        /// Group commits that were replayed from the log.
        replayed: u64,
        /// Claims that were found dead. Each also has its own event.
        interrupted: usize,
        /// How long it took.
        took: Duration,
    },
    /// The engine is connected to a shared store, and calls are about to be answered.
    #[cfg(feature = "postgres")]
    #[non_exhaustive]
    Connected {
        /// How long it took.
        took: Duration,
    },
    /// A claim was granted, and its call is about to return. If its lease runs out, or the engine
    /// fails, while observers are told, the call does not return it: it tells of another claim, or
    /// of an error.
    #[non_exhaustive]
    Granted {
        /// The key's scope.
        scope: &'e [u8],
        /// The key.
        key: &'e [u8],
        /// Its short name for logs.
        key_hash: KeyHash,
        /// The claim.
        attempt: AttemptInfo,
        /// The attempt before it that was interrupted, if there was one.
        interrupted: Option<Interruption>,
        /// Whether [`resolve`](crate::Scope::resolve) gave it.
        resolves: bool,
        /// How long the call took, its waits for room and for the commit included. All claims of
        /// a batch took the time of the whole batch.
        took: Duration,
    },
    /// A begin found the claim of another call, for which it can wait.
    #[non_exhaustive]
    InFlight {
        /// The key's scope.
        scope: &'e [u8],
        /// The key.
        key: &'e [u8],
        /// Its short name for logs.
        key_hash: KeyHash,
        /// The claim of the other call.
        attempt: AttemptInfo,
    },
    /// A call that waited for the claim of another one has its answer, or was refused. A wait whose
    /// future was dropped is not reported.
    #[non_exhaustive]
    Waited {
        /// The key's scope.
        scope: &'e [u8],
        /// The key.
        key: &'e [u8],
        /// Its short name for logs.
        key_hash: KeyHash,
        /// The claim of the other call.
        attempt: AttemptInfo,
        /// The answer, such as the record.
        answer: Result<&'e Waited, &'e BeginError>,
        /// How long the call took.
        took: Duration,
    },
    /// A claim has ended. Its end is queued for the log, and soon durable. On a shared store it is
    /// durable.
    #[non_exhaustive]
    Ended {
        /// The key's scope.
        scope: &'e [u8],
        /// The key.
        key: &'e [u8],
        /// Its short name for logs.
        key_hash: KeyHash,
        /// The claim.
        attempt: AttemptInfo,
        /// How it ended.
        end: EndKind,
        /// How long it was in flight, by the engine's clock.
        took: Duration,
        /// Bytes of the body that is kept.
        body_len: usize,
    },
    /// A claim ended without an outcome. On a shared store, one process tells of it: the one that
    /// dropped the claim, or the one that found it over.
    #[non_exhaustive]
    Interrupted {
        /// The key's scope.
        scope: &'e [u8],
        /// The key.
        key: &'e [u8],
        /// Its short name for logs.
        key_hash: KeyHash,
        /// The attempt that may have had an effect.
        interruption: Interruption,
        /// What ended it.
        cause: Cause,
    },
    /// A begin was refused.
    #[non_exhaustive]
    Refused {
        /// The key's scope.
        scope: &'e [u8],
        /// The key.
        key: &'e [u8],
        /// Its short name for logs; `None` for bytes that can't be a key.
        key_hash: Option<KeyHash>,
        /// Why.
        error: &'e BeginError,
    },
    /// A call on a claim was refused, because the claim is no longer the current one.
    #[non_exhaustive]
    Superseded {
        /// The key's scope.
        scope: &'e [u8],
        /// The key.
        key: &'e [u8],
        /// Its short name for logs.
        key_hash: KeyHash,
        /// The claim.
        attempt: AttemptInfo,
    },
    /// A scope was given a policy, and its entry is queued. The policy is in force once the entry
    /// is durable.
    #[non_exhaustive]
    PolicySet {
        /// The scope.
        scope: &'e [u8],
        /// Its policy from now on.
        policy: Policy,
    },
    /// The disk was full. Claims in flight still complete.
    #[non_exhaustive]
    DiskFull {
        /// What was refused.
        failure: &'e IoFailure,
    },
    /// The disk has room again.
    #[non_exhaustive]
    RoomAgain {},
    /// A read of the file failed. The engine tries its write again, without a block that can't be
    /// read. Further failures within a minute are reported as one, after that minute.
    #[non_exhaustive]
    ReadFailed {
        /// What the operating system said.
        failure: &'e IoFailure,
    },
    /// The engine has stopped granting claims. Reported once.
    #[non_exhaustive]
    Failed {
        /// Why.
        failure: &'e Failure,
    },
    /// A backup was made.
    #[non_exhaustive]
    BackedUp {
        /// Its bytes.
        bytes: u64,
        /// How long it took.
        took: Duration,
    },
    /// The file was closed.
    #[non_exhaustive]
    Closed {
        /// Claims that were still in flight.
        claims_left: usize,
        /// The error, if there was one. `claims_left` is zero then.
        failure: Option<&'e Failure>,
        /// How long it took.
        took: Duration,
    },
}

/// How a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndKind {
    /// With a result.
    Completed,
    /// With a failure, which is replayed as well.
    Failed,
    /// The operation certainly did not happen.
    Released,
    /// Nothing was done with the claim, and the key is as it was before the grant: vacant, or
    /// interrupted. [`Stats::released`](crate::Stats::released) counts these as well.
    PutBack,
}

/// What ended a claim that has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// It was dropped, by a panic for example.
    Dropped,
    /// Its lease ran out.
    Lease,
    /// The process that had it died, or closed the file. The next opening finds it. On a shared
    /// store: its session is over, and another process finds it.
    Restart,
}

impl Event<'_> {
    /// The kind of event, as a short name for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            #[cfg(feature = "postgres")]
            Self::Connected { .. } => "connected",
            Self::Granted { .. } => "granted",
            Self::InFlight { .. } => "in flight",
            Self::Waited { .. } => "waited",
            Self::Ended { .. } => "ended",
            Self::Interrupted { .. } => "interrupted",
            Self::Refused { .. } => "refused",
            Self::Superseded { .. } => "superseded",
            Self::PolicySet { .. } => "policy set",
            Self::DiskFull { .. } => "disk full",
            Self::RoomAgain {} => "room again",
            Self::ReadFailed { .. } => "read failed",
            Self::Failed { .. } => "failed",
            Self::BackedUp { .. } => "backed up",
            Self::Closed { .. } => "closed",
        }
    }
}

/// Without keys, which may be clients' secrets.
impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// The observer, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Hooks(Option<Arc<dyn Observer>>);

impl Hooks {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self(Some(observer))
    }

    /// Whether there is an observer.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    /// Reports an event, which is made only if there is an observer.
    #[inline]
    pub(crate) fn tell<'e>(&self, event: impl FnOnce() -> Event<'e>) {
        if self.0.is_some() {
            self.told(event);
        }
    }

    /// A separate function, so that a call without an observer has a small stack frame.
    #[inline(never)]
    fn told<'e>(&self, event: impl FnOnce() -> Event<'e>) {
        self.call(|observer| observer.event(&event()));
    }

    /// Times a call whose time is told to an observer, if there is one.
    pub(crate) fn watch(&self) -> Option<Stopwatch> {
        self.0.is_some().then(Stopwatch::start)
    }

    #[inline]
    pub(crate) fn call(&self, hook: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.0 {
            foreign::call(|| hook(&**observer));
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hooks").field(&self.0.is_some()).finish()
    }
}
