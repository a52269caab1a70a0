//! Lists of keys without an outcome: those in flight, and those that were interrupted. They read
//! nothing from disk.

use std::fmt;

use super::engine::Engine;
use super::handle::Handle;
use crate::attempt::Attempt;
use crate::attempt::progress::Progress;
use crate::error::ReadError;
#[cfg(feature = "postgres")]
use crate::shared::refusal::carry_checked;
use crate::state::Fence;
use crate::sync::Arc;
#[cfg(feature = "postgres")]
use crate::task::caller::{Caller, block};
use crate::{AttemptInfo, Fingerprint, Timestamp};

/// The most entries of a list, unless [`Listing::limit`] says otherwise.
const LIMIT: usize = 1_000;

/// Where an entry stands in its list: by time, then by fence. Give the last entry's to
/// [`Listing::after`] for the next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListPosition {
    since: Timestamp,
    fence: Fence,
}

impl ListPosition {
    pub(crate) fn new(since: Timestamp, fence: Fence) -> Self {
        Self { since, fence }
    }

    /// The position with these [parts](Self::parts), for a page that is asked for later, or by
    /// another program.
    #[must_use]
    pub fn from_parts(since: Timestamp, fence: u64) -> Self {
        Self { since, fence: Fence::new(fence) }
    }

    /// Time and fence.
    #[must_use]
    pub fn parts(self) -> (Timestamp, u64) {
        (self.since, self.fence.get())
    }
}

/// A key without an outcome, as [`Engine::interrupted`] and [`Engine::in_flight`] list it. Cheap
/// to clone.
#[derive(Clone)]
pub struct OpenKey {
    claim: Arc<Attempt>,
    attempt: AttemptInfo,
    interrupted: Option<Timestamp>,
    lease_until: Option<Timestamp>,
    progress: Option<Progress>,
    position: ListPosition,
}

impl OpenKey {
    /// The key of an attempt that is in this state since the time of `position`.
    pub(crate) fn new(state: OpenState, claim: Arc<Attempt>, position: ListPosition) -> Self {
        let (attempt, interrupted) = match state {
            OpenState::InFlight => (claim.info(), None),
            OpenState::Interrupted => (claim.as_earlier().info, Some(position.since)),
        };
        let has_lease = |until: &Timestamp| *until < Timestamp::from_millis(u64::MAX) && !claim.is_returned();
        let lease_until = Some(claim.lease_until()).filter(has_lease);
        Self { attempt, interrupted, lease_until, progress: claim.progress(), position, claim }
    }

    /// The key's scope; empty for the default scope.
    #[must_use]
    pub fn scope(&self) -> &[u8] {
        self.claim.scope()
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.claim.key()
    }

    /// The request's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.claim.fingerprint
    }

    /// The attempt that is in flight, or that was interrupted: number, fence, start.
    #[must_use]
    pub fn attempt(&self) -> AttemptInfo {
        self.attempt
    }

    /// When the key became interrupted: at the drop of the claim, at the end of its lease, or at
    /// the opening that found it dead. `None` in a list of keys in flight.
    #[must_use]
    pub fn interrupted_at(&self) -> Option<Timestamp> {
        self.interrupted
    }

    /// When the claim's lease ends or ended; `None` without a lease. Also `None` for an
    /// interruption that a later attempt left as it was: only its date is still known.
    #[must_use]
    pub fn lease_until(&self) -> Option<Timestamp> {
        self.lease_until
    }

    /// The progress that was last saved, by this attempt or one before it.
    #[must_use]
    pub fn last_progress(&self) -> Option<&[u8]> {
        self.progress.as_deref()
    }

    /// Where the entry stands in its list.
    #[must_use]
    pub fn position(&self) -> ListPosition {
        self.position
    }
}

/// In short, and without the key, which may be a client's secret.
impl fmt::Debug for OpenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenKey")
            .field("attempt", &self.attempt.attempt())
            .field("fence", &self.attempt.fence())
            .field("interrupted_at", &self.interrupted)
            .finish_non_exhaustive()
    }
}

/// Which keys are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenState {
    InFlight,
    Interrupted,
}

/// What a list is asked for.
#[derive(Clone)]
pub(crate) struct ListRequest {
    pub(crate) state: OpenState,
    pub(crate) scope: Option<Box<[u8]>>,
    pub(crate) after: Option<ListPosition>,
    pub(crate) limit: usize,
}

impl ListRequest {
    pub(crate) fn new(state: OpenState) -> Self {
        Self { state, scope: None, after: None, limit: LIMIT }
    }

    /// Whether an entry is one of those that were asked for.
    pub(crate) fn takes(&self, state: OpenState, position: ListPosition, scope: &[u8]) -> bool {
        state == self.state
            && self.after.is_none_or(|after| position > after)
            && self.scope.as_deref().is_none_or(|wanted| wanted == scope)
    }
}

/// A request for a list; [`get`](Self::get) makes the list.
#[derive(Clone)]
#[must_use = "`get` gives the list"]
pub struct Listing<'e> {
    handle: &'e Handle,
    request: ListRequest,
}

impl fmt::Debug for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing")
            .field("state", &self.request.state)
            .field("after", &self.request.after)
            .field("limit", &self.request.limit)
            .finish_non_exhaustive()
    }
}

impl Listing<'_> {
    /// Only keys of the scope with this name.
    pub fn scope(mut self, name: impl AsRef<[u8]>) -> Self {
        self.request.scope = Some(name.as_ref().into());
        self
    }

    /// Only the entries after this one: the next page.
    pub fn after(mut self, position: ListPosition) -> Self {
        self.request.after = Some(position);
        self
    }

    /// At most so many entries; 1,000 if this is not called.
    pub fn limit(mut self, entries: usize) -> Self {
        self.request.limit = entries;
        self
    }

    /// The list, oldest first. It takes memory only for its entries, and holds each shard's lock
    /// only while it reads that shard.
    ///
    /// It shows each shard of the index at one moment, but different shards at different moments.
    ///
    /// # Errors
    ///
    /// When the engine is closed.
    pub fn get(self) -> Result<Vec<OpenKey>, ReadError> {
        match self.handle {
            Handle::File(file) => file.core().list(&self.request),
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => block(carry_checked(Caller::Thread, shared.list(&self.request))),
        }
    }
}

impl Engine {
    /// Lists the keys that were interrupted and have no outcome yet, the oldest interruption
    /// first.
    ///
    /// It reads only memory, so it takes milliseconds with any number of records. It changes
    /// nothing: no attempt is used up. Each key can then be [resolved](crate::Scope::resolve),
    /// begun again or [forgotten](crate::Scope::forget).
    ///
    /// Over a shared store it reads the table in bounded steps, for claims that are over. That
    /// takes seconds with millions of keys. A row that moves meanwhile can be missed.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let charges = engine.scope("charges");
    /// # let Begin::Fresh(claim) = charges.begin("key", Fingerprint::of("request"))? else { panic!() };
    /// drop(claim); // a worker that lost its way
    /// for lost in engine.interrupted().scope("charges").limit(100).get()? {
    ///     assert_eq!((lost.key(), lost.attempt().attempt()), (&b"key"[..], 1));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn interrupted(&self) -> Listing<'_> {
        Listing { handle: &self.handle, request: ListRequest::new(OpenState::Interrupted) }
    }

    /// Lists the keys that are in flight, the oldest claim first. As
    /// [`interrupted`](Self::interrupted), it reads only memory.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let Begin::Fresh(claim) = engine.default_scope().begin("key", Fingerprint::of("request"))? else { panic!() };
    /// let out = engine.in_flight().get()?;
    /// assert_eq!((out[0].key(), out[0].attempt().fence()), (&b"key"[..], claim.fence()));
    /// # drop(claim);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_flight(&self) -> Listing<'_> {
        Listing { handle: &self.handle, request: ListRequest::new(OpenState::InFlight) }
    }
}
