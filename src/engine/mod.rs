//! The engine: joins index, log, store and clock, and owns the background work.

use std::path::Path;

use crate::Fingerprint;
use crate::Timestamp;
use crate::attempt::AttemptInfo;
use crate::error::{BeginError, Failure, ForgetError, IoFailure, OpenError, ReadError};
use crate::record::Record;
use crate::sync::{Arc, JoinHandle, Mutex, spawn};
use crate::tombstone::Tombstone;

mod claim;
mod completion;
mod core;
mod entries;
mod entropy;
mod follow;
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "public with the feature `sim`"))]
mod maintain;
mod open;
mod options;
mod publisher;
mod scope;
mod stats;

use self::core::Core;
use self::scope::ScopeInner;
pub use claim::{Begin, Claim, Pending, Waited};
pub use completion::Completion;
pub use entries::{Entries, KeyEntry};
#[cfg(feature = "sim")]
pub use maintain::Stepped;
pub use options::{CommitMode, Intents, Options, Verify};
pub use scope::Scope;
pub use stats::Stats;

/// What is known of a key.
#[derive(Clone, Debug)]
pub enum Status {
    /// Nothing: a begin would be granted a first claim.
    Vacant,
    /// A claim is out.
    InFlight(AttemptInfo),
    /// The last claim ended without an outcome.
    Interrupted(AttemptInfo),
    /// There is a result.
    Done(Record),
    /// There was a result. It is no longer replayed, but the key is not free yet.
    Expired(Tombstone),
}

/// What is shared by all handles on an open file. Closes it when the last one is dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    core: Arc<Core>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    #[inline]
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Stops the worker and closes the file; the second call finds nothing left to do.
    fn close(&self) -> Result<usize, Failure> {
        let closed = self.core.shut_down();
        self.core.nudge();
        let worker = self.worker.lock().take();
        if let Some(worker) = worker
            && worker.join().is_err()
        {
            return Err(Failure::Panicked);
        }
        closed
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Errors have nobody to go to here; `Engine::close` reports them. Nothing acknowledged is lost.
        drop(self.close());
    }
}

/// An open idempotency file.
///
/// Cheap to clone and to share among threads. The file is closed when the last clone, scope, claim and pending is gone, or by
/// [`close`](Self::close), which reports what a drop can't.
///
/// See the [front page](crate) for an example.
#[derive(Clone, Debug)]
pub struct Engine {
    handle: Arc<Handle>,
    /// The default scope: the one with the empty name.
    default: Scope,
}

/// What closing found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Claims that were still out. Their keys are interrupted when the file is opened again, where intents are durable.
    pub claims_left: usize,
}

impl Engine {
    /// Opens the file at `path` with default options, or makes it.
    ///
    /// # Errors
    ///
    /// As for [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().open(path)
    }

    /// Options to open a file with.
    pub fn options() -> Options {
        Options::default()
    }

    fn open_with(path: &Path, options: Options) -> Result<Self, OpenError> {
        // One wake-up that waits is enough, however many ask for it.
        let (nudge, nudges) = crossbeam::channel::bounded(1);
        let workers = options.workers;
        let core = Arc::new(Core::open(path, options, nudge)?);
        let handle = Arc::new(Handle { core: Arc::clone(&core), worker: Mutex::new(None) });
        if workers {
            let worker = spawn("idemkv-worker", move || maintain::work(&core, &nudges))
                .map_err(|error| IoFailure::new(path, "starting the worker for", error))?;
            *handle.worker.lock() = Some(worker);
        }
        let default = Self::scope_of(&handle, b"");
        Ok(Self { handle, default })
    }

    fn scope_of(handle: &Arc<Handle>, name: &[u8]) -> Scope {
        let core = handle.core();
        let inner = ScopeInner::new(&core.secret, name, core.options.retention(), core.options.max_key_bytes);
        Scope { handle: Arc::clone(handle), inner: Arc::new(inner) }
    }

    /// The scope with this name; scopes need no declaration.
    ///
    /// A name longer than 255 bytes is refused by every call on the scope. Make a scope once and keep it: that saves
    /// deriving its hash key again.
    #[must_use]
    pub fn scope(&self, name: impl AsRef<[u8]>) -> Scope {
        Self::scope_of(&self.handle, name.as_ref())
    }

    /// [`Scope::begin`] in the default scope.
    ///
    /// # Errors
    ///
    /// As for [`Scope::begin`].
    #[inline]
    pub fn begin(&self, key: impl AsRef<[u8]>, fingerprint: Fingerprint) -> Result<Begin, BeginError> {
        self.default.begin(key, fingerprint)
    }

    /// [`Scope::get`] in the default scope.
    ///
    /// # Errors
    ///
    /// As for [`Scope::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Status, ReadError> {
        self.default.get(key)
    }

    /// [`Scope::forget`] in the default scope.
    ///
    /// # Errors
    ///
    /// As for [`Scope::forget`].
    pub fn forget(&self, key: impl AsRef<[u8]>) -> Result<bool, ForgetError> {
        self.default.forget(key)
    }

    /// Iterates over all live keys of all scopes, for tools: it reads every record that isn't in memory.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let charges = engine.scope("charges");
    /// # let Begin::Fresh(claim) = charges.begin("key", Fingerprint::of("request"))? else { panic!() };
    /// claim.complete("reply")?;
    /// for entry in engine.entries() {
    ///     let entry = entry?;
    ///     assert_eq!((entry.scope(), entry.key()), (&b"charges"[..], &b"key"[..]));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn entries(&self) -> Entries {
        Entries::new(&self.handle)
    }

    /// Counters and sizes. Walks over the shards, so not for the hot path.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.core().stats()
    }

    /// The engine's time now. Records' times are on the same clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.handle.core().clock.now()
    }

    /// Moves what the log holds to the file now, instead of when the log is full. Nothing needs this to be safe; it
    /// shortens the next opening.
    ///
    /// # Errors
    ///
    /// When an earlier commit or checkpoint failed, or this one does.
    pub fn checkpoint(&self) -> Result<(), Failure> {
        self.handle.core().checkpoint_on_request()
    }

    /// Closes the file: no more claims are granted, what is queued is committed, the log is moved to the file.
    ///
    /// Other clones, scopes and claims may still be around; their calls fail with "closed" from now on. Claims that are out
    /// can't be completed any more: their keys are interrupted when the file is opened again, and the number of them is
    /// given here. To lose none, end them first.
    ///
    /// # Errors
    ///
    /// When an earlier commit failed, or the file can't be brought up to date. Nothing acknowledged is lost by that: the next
    /// opening finds it in the log.
    pub fn close(self) -> Result<Closed, Failure> {
        self.handle.close().map(|claims_left| Closed { claims_left })
    }

    /// Does the work of the background that is due: checkpoints, room in the log, expiry. For engines opened with
    /// [`Options::stepped`].
    #[cfg(feature = "sim")]
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn step(&self) -> Stepped {
        self.handle.core().step()
    }
}
