//! `Claim`: the right to run an operation.

use super::handle::Handle;
use super::pending::Pending;
use crate::attempt::Attempt;
use crate::attempt::progress::Progress;
#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
use crate::engine::common::running::Marker;
use crate::engine::file::claim::FileClaim;
use crate::key::KeyHash;
use crate::key::step_key::StepKey;
use crate::record::Record;
#[cfg(feature = "postgres")]
use crate::shared::claim::SharedClaim;
use crate::state::Fence;
use crate::sync::Arc;
use crate::{Fingerprint, Interruption, Timestamp};

/// The answer to a begin.
///
/// There will be no fourth variant, so a `match` needs no wildcard arm. Every other answer is a
/// [`BeginError`](crate::BeginError).
#[derive(Debug)]
#[must_use = "a claim that is dropped leaves its key interrupted"]
pub enum Begin {
    /// Run the operation, then end the claim.
    Fresh(Claim),
    /// Another caller has the claim: tell the client so, or wait.
    InFlight(Pending),
    /// The operation has run: answer with its result.
    Done(Record),
}

/// The right to run an operation, and the duty to report its outcome.
///
/// Three calls end it, and consume it: [`complete`](Self::complete), [`fail`](Self::fail),
/// [`release`](Self::release). A claim that is lost without any of them (by a drop, a panic, the
/// death of the process) leaves its key *interrupted*: the effect may have happened. The scope's
/// [`Recovery`](crate::Recovery) then decides whether the next begin is refused, or gets a claim
/// that knows of it.
///
/// A web framework drops the handler of a request whose client hangs up, and with it the claim.
/// So run the operation in its own task, as [`Scope::run_async`](crate::Scope::run_async) does.
///
/// A claim is `Send`, and keeps the engine open.
#[must_use = "a claim that is dropped leaves its key interrupted"]
pub struct Claim {
    pub(super) inner: ClaimInner,
}

/// The claim, as its core has it. Its drop without an end leaves the key interrupted.
pub(super) enum ClaimInner {
    File(FileClaim),
    #[cfg(feature = "postgres")]
    Shared(SharedClaim),
}

impl From<FileClaim> for Claim {
    fn from(claim: FileClaim) -> Self {
        Self { inner: ClaimInner::File(claim) }
    }
}

#[cfg(feature = "postgres")]
impl From<SharedClaim> for Claim {
    fn from(claim: SharedClaim) -> Self {
        Self { inner: ClaimInner::Shared(claim) }
    }
}

impl Claim {
    /// For running the claim's operation as a task.
    #[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
    pub(crate) fn marker(&self) -> Marker {
        Marker { attempt: Arc::clone(self.of()), origin: self.handle().origin() }
    }

    /// A handle on the claim, for a layer that lends it.
    #[cfg(feature = "http")]
    pub(crate) fn pending(&self) -> Pending {
        Pending::new(Arc::clone(self.of()), self.handle())
    }

    /// The claim. Its end waits longer for a shared store that is away, because no caller is left
    /// to end it later.
    #[cfg(any(feature = "http", feature = "queue"))]
    pub(crate) fn insisting(mut self) -> Self {
        match &mut self.inner {
            ClaimInner::File(_) => {}
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(claim) => claim.insist(),
        }
        self
    }

    /// The attempt that the claim is for.
    pub(crate) fn of(&self) -> &Arc<Attempt> {
        match &self.inner {
            ClaimInner::File(claim) => claim.of(),
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(claim) => claim.of(),
        }
    }

    fn handle(&self) -> Handle {
        match &self.inner {
            ClaimInner::File(claim) => Handle::File(claim.handle()),
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(claim) => Handle::Shared(claim.handle()),
        }
    }

    /// The number of the attempt: 1 for the first claim of a key, one more after each
    /// interruption.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.of().number
    }

    /// The attempt before this one, if it ended without an outcome. Its effect may have happened:
    /// find out before you act again, or act in a way that can be repeated.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Recovery};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let reports = engine.set_policy("reports", engine.policy().recovery(Recovery::Rerun))?;
    /// drop(reports.begin("key", request)?); // a worker that lost its way
    /// let Begin::Fresh(claim) = reports.begin("key", request)? else { panic!() };
    /// assert_eq!(claim.attempt(), 2);
    /// assert_eq!(claim.interrupted().unwrap().attempt(), 1);
    /// # claim.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn interrupted(&self) -> Option<Interruption> {
        self.of().interruption_before()
    }

    /// The progress that was last saved by this attempt, or else by an earlier one since the key
    /// was vacant. `None` in a forked child.
    #[must_use]
    pub fn last_progress(&self) -> Option<Progress> {
        // In a forked child it may be locked for ever.
        if self.handle().is_forked() { None } else { self.of().progress() }
    }

    /// When the lease ends; `None` without a lease.
    #[must_use]
    pub fn lease_until(&self) -> Option<Timestamp> {
        self.of().lease.map(|_| self.of().lease_until())
    }

    /// A key for a step of the operation, to be sent to a downstream service as its idempotency
    /// key. The same in every attempt, and after a restart: it depends only on the file, the
    /// scope, the key, the fingerprint and the step's name.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let orders = engine.scope("orders");
    /// let Begin::Fresh(first) = orders.begin("key", request)? else { panic!() };
    /// let charge = first.step_key("charge-card");
    /// assert_ne!(charge, first.step_key("send-receipt"));
    /// drop(first);
    /// let second = orders.resolve("key")?;
    /// assert_eq!(second.step_key("charge-card"), charge);
    /// assert_eq!(charge.to_string().len(), 36); // in the form of a UUID
    /// # second.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn step_key(&self, step: impl AsRef<[u8]>) -> StepKey {
        let attempt = self.of();
        StepKey::new(
            self.handle().secret(),
            attempt.scope(),
            attempt.key(),
            &attempt.fingerprint,
            step.as_ref(),
        )
    }

    /// The claim's fence: higher than that of every claim that this file, or this shared store,
    /// granted before. Hand it to downstream systems that can refuse a lower one.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.of().fence
    }

    /// When the claim was granted.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.of().started
    }

    /// The idempotency key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.of().key()
    }

    /// The name of the key's scope; empty for the default scope.
    #[must_use]
    pub fn scope(&self) -> &[u8] {
        self.of().scope()
    }

    /// A short name of the key for logs, which reveals nothing about the key.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        self.of().digest.key_hash()
    }

    /// The fingerprint of the request.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.of().fingerprint
    }
}

/// In short, and without the key.
impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim")
            .field("key", &self.key_hash())
            .field("attempt", &self.attempt())
            .field("fence", &self.fence().get())
            .finish_non_exhaustive()
    }
}
