//! Claims, and handles on those of others.

use super::Handle;
use super::completion::Completion;
use super::core::{Core, Counters};
use super::detached::Left;
use super::ending::{Ending, Given, released};
use super::pending::Pending;
use super::permit::Permit;
use super::publisher::Op;
use super::token::ClaimToken;
use crate::attempt::{Attempt, Ended, HandOver, Progress};
use crate::caller::{Caller, block};
use crate::codec::{DetachedRow, Entry, ProgressRow};
use crate::commit::Ticket;
use crate::error::{Busy, ClaimError, CommitError, EndError};
use crate::index::{Change, Slot};
use crate::key::KeyHash;
use crate::observer::Cause;
use crate::policy::Durability;
use crate::record::{Outcome, Record};
use crate::state::{Event, Fence, decide};
use crate::step_key::StepKey;
use crate::sync::Arc;
use crate::wal::Reservation;
use crate::wal::frame::entry_bytes_max;
use crate::{Fingerprint, Interruption, Timestamp};

/// The answer to a begin.
///
/// There will be no fourth, so that a `match` on it needs no arm for what nobody knows: all else is a [`BeginError`](crate::BeginError).
#[derive(Debug)]
#[must_use = "a claim that is dropped leaves its key interrupted"]
pub enum Begin {
    /// Run the operation, then end the claim.
    Fresh(Claim),
    /// Somebody else has the claim: tell the client so, or wait.
    InFlight(Pending),
    /// The operation has run: answer with its result.
    Done(Record),
}

/// The right to run an operation, and the duty to say how it ended.
///
/// Ends by value, in one of three ways: [`complete`](Self::complete), [`fail`](Self::fail), [`release`](Self::release).
/// Dropped without any of them, in a panic too, it leaves its key *interrupted*: the effect may have happened, so the next begin
/// is refused, or is told, as the scope's [`Recovery`](crate::Recovery) says. The death of the process does the same.
///
/// A web framework drops the handler of a request whose client hangs up, and with it the claim. So run the operation in a task
/// of its own: [`Scope::run_async`](crate::Scope::run_async) does.
///
/// It is `Send`, and keeps the engine open.
#[must_use = "a claim that is dropped leaves its key interrupted"]
pub struct Claim {
    pub(super) attempt: Arc<Attempt>,
    pub(super) permit: Permit,
    pub(super) terms: Terms,
    /// Whether its end is in other hands, or known, so that dropping it says nothing of its key.
    pub(super) is_over: bool,
}

/// On what terms a claim was granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Whether the log knows of the claim.
    pub(super) logged: bool,
    /// Whether it speaks for the attempts before it as well.
    pub(super) resolves: bool,
    pub(super) durability: Durability,
}

impl Claim {
    pub(super) fn new(attempt: Arc<Attempt>, permit: Permit, terms: Terms) -> Self {
        Self { attempt, permit, terms, is_over: false }
    }

    /// 1 for the first claim of a key, one more for each that follows an interruption.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// What is known of the attempt before this one, if it ended without an outcome. Its effect may have happened: find
    /// out before acting again, or act in a way that can be repeated.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Recovery};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let reports = engine.declare("reports", engine.policy().recovery(Recovery::Rerun))?;
    /// drop(reports.begin("key", request)?); // a worker that lost its way
    /// let Begin::Fresh(claim) = reports.begin("key", request)? else { panic!() };
    /// assert_eq!(claim.attempt(), 2);
    /// assert_eq!(claim.interrupted().unwrap().attempt(), 1);
    /// # claim.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn interrupted(&self) -> Option<Interruption> {
        self.attempt.interruption_before()
    }

    /// The progress that was last saved, by this attempt or else by the attempts before it since the key was vacant. `None` in a forked child.
    #[must_use]
    pub fn last_progress(&self) -> Option<Progress> {
        // In a forked child it may be locked for ever.
        if self.core().gate.is_forked() { None } else { self.attempt.progress() }
    }

    /// Notes how far the operation has come, durably: should this attempt be interrupted, the next one finds it. A later
    /// progress replaces it.
    ///
    /// # Errors
    ///
    /// When it is longer than a body may be, the progress of claims takes too much memory already, the claim's lease ran out, the disk stays full, a commit
    /// fails, or the engine is closed.
    ///
    /// ```
    /// # use idemkv::{Begin, BeginError, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let Begin::Fresh(mut claim) = engine.begin("key", request)? else { panic!() };
    /// claim.save_progress("card charged")?;
    /// drop(claim); // the process dies before the receipt is sent
    ///
    /// let Err(BeginError::Unresolved(lost)) = engine.begin("key", request) else { panic!() };
    /// assert_eq!(lost.last_progress().unwrap()[..], *b"card charged");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save_progress(&mut self, note: impl AsRef<[u8]>) -> Result<(), ClaimError> {
        block(self.save_progress_as(Caller::Thread, note.as_ref()))
    }

    /// [`save_progress`](Self::save_progress) for tasks. A future that is dropped may have saved the progress or not.
    ///
    /// # Errors
    ///
    /// As for [`save_progress`](Self::save_progress).
    pub async fn save_progress_async(&mut self, note: impl AsRef<[u8]>) -> Result<(), ClaimError> {
        self.save_progress_as(Caller::Task, note.as_ref()).await
    }

    async fn save_progress_as(&mut self, caller: Caller, note: &[u8]) -> Result<(), ClaimError> {
        self.check_body(note.len())?;
        let handle = self.handle();
        let core = handle.core();
        core.gate.check_process().map_err(CommitError::Failed)?;
        let max = core.options.max_progress_bytes;
        if !core.progress_bytes.has_room(note.len(), max) {
            return Err(CommitError::Busy(Busy::TooManyProgressBytes { max }).into());
        }
        let (digest, fence) = (self.attempt.digest, self.attempt.fence);
        let row = ProgressRow { digest: digest.as_u128(), fence: fence.get(), bytes: note };
        let entry = Entry::Progress(row).encoded();
        let progress = Progress::new(note, &core.progress_bytes);
        // Whoever is granted the key after this moment inherits the progress, and its grant comes behind it in the log.
        let mut ticket = self.note(caller, &entry, |attempt, _now| attempt.set_progress(progress)).await?;
        core.commit.settled(caller, &mut ticket).await?;
        Counters::count(&core.counters.noted);
        Ok(())
    }

    /// Logs something about a claim that is good. `change` is made at once, under the lock of the key's shard: it must not show
    /// before the entry is durable. Nothing is changed where this fails.
    async fn note(
        &mut self,
        caller: Caller,
        entry: &[u8],
        change: impl FnOnce(&Attempt, Timestamp),
    ) -> Result<Ticket, ClaimError> {
        let handle = self.handle();
        let core = handle.core();
        core.check_blocking(caller)?;
        // Where the log knows nothing of the claim that the entry is about.
        let intent = (!self.terms.logged).then(|| Entry::Intent(self.attempt.row()).encoded());
        let cost = |entry: &[u8]| entry_bytes_max(entry.len()) as u64;
        let costs = cost(entry) + intent.as_deref().map_or(0, cost);
        let mut reservation = core.reserve_for_claim(caller, costs).await?;
        let granted = intent.as_deref();
        let entries = granted
            .map(|intent| (intent, Op::Granted(Arc::clone(&self.attempt))))
            .into_iter()
            .chain([(entry, Op::Noted(Arc::clone(&self.attempt)))]);
        let may = |_: &mut _| self.use_now(core, change);
        let Some(ticket) = core.commit.append_if(caller, entries, &mut reservation, may)? else {
            return Err(core.superseded(caller, &self.attempt).await);
        };
        self.terms.logged = true;
        Ok(ticket)
    }

    /// Changes the claim, if it is good; whether it is.
    fn use_now(&self, core: &Core, change: impl FnOnce(&Attempt, Timestamp)) -> bool {
        core.index.change(self.attempt.digest, |slot| {
            let now = core.clock.now();
            let event = Event::Use { fence: self.attempt.fence, now };
            let good = decide(slot.state(core.index.epoch()), event).becomes().is_some();
            if good {
                change(&self.attempt, now);
            }
            (Change::Keep, good)
        })
    }

    /// Starts the claim's lease anew, for a worker that is alive and takes longer. Without a lease there is nothing to renew,
    /// and it succeeds. It touches no disk, unless the lease has run out and the winner's record is on disk alone.
    ///
    /// # Errors
    ///
    /// When the lease has run out: the key is interrupted, or somebody else's by now.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let jobs = engine.declare("jobs", engine.policy().lease(Duration::from_secs(30)))?;
    /// let Begin::Fresh(claim) = jobs.begin("key", request)? else { panic!() };
    /// claim.renew()?;
    /// # claim.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn renew(&self) -> Result<(), ClaimError> {
        let core = self.core();
        core.gate.check_process().map_err(CommitError::Failed)?;
        if self.use_now(core, Attempt::renew) {
            return Ok(());
        }
        Err(block(core.superseded(Caller::Thread, &self.attempt)))
    }

    /// [`renew`](Self::renew) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`renew`](Self::renew).
    pub async fn renew_async(&self) -> Result<(), ClaimError> {
        let core = self.core();
        core.gate.check_process().map_err(CommitError::Failed)?;
        if self.use_now(core, Attempt::renew) {
            return Ok(());
        }
        Err(core.superseded(Caller::Task, &self.attempt).await)
    }

    /// When the lease ends; `None` without one.
    #[must_use]
    pub fn lease_until(&self) -> Option<Timestamp> {
        self.attempt.lease.map(|_| self.attempt.lease_until())
    }

    /// A key for a step of the operation, to be sent to a downstream service as its idempotency key. The same in every attempt, and
    /// after a restart: it depends on the file, the scope, the key, the fingerprint and the step's name alone.
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
        let attempt = &self.attempt;
        StepKey::new(&self.core().secret, attempt.scope(), attempt.key(), &attempt.fingerprint, step.as_ref())
    }

    /// Hands the claim over as a token, which another process can keep while it does the work. The claim stays out, also across
    /// a restart of this process, until [`Scope::resume`](crate::Scope::resume) takes it up again or its lease, which starts anew here, runs out.
    ///
    /// # Errors
    ///
    /// When the claim has no lease, or as for [`save_progress`](Self::save_progress). Where nothing was written the error gives the claim
    /// back.
    ///
    /// ```
    /// # use idemkv::{Begin, ClaimToken, Engine, Fingerprint};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let jobs = engine.declare("jobs", engine.policy().lease(Duration::from_secs(30)))?;
    /// let Begin::Fresh(claim) = jobs.begin("key", request)? else { panic!() };
    /// let token = claim.into_token()?;
    /// let message = token.as_bytes().to_vec(); // to a worker, and back with its result
    /// jobs.resume(&ClaimToken::from_bytes(message))?.complete("reply")?;
    /// assert!(matches!(jobs.begin("key", request)?, Begin::Done(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_token(self) -> Result<ClaimToken, EndError> {
        block(self.into_token_as(Caller::Thread))
    }

    /// [`into_token`](Self::into_token) for tasks. A future that is dropped before the log has the hand-over is a claim dropped; after
    /// that it leaves the key in flight until the lease runs out.
    ///
    /// # Errors
    ///
    /// As for [`into_token`](Self::into_token).
    pub async fn into_token_async(self) -> Result<ClaimToken, EndError> {
        self.into_token_as(Caller::Task).await
    }

    async fn into_token_as(mut self, caller: Caller) -> Result<ClaimToken, EndError> {
        let attempt = Arc::clone(&self.attempt);
        let Some(lease) = attempt.lease else { return Err(EndError::new(ClaimError::NoLease, Some(self))) };
        let handle = self.handle();
        let core = handle.core();
        if let Err(forked) = core.gate.check_process() {
            return Err(EndError::new(CommitError::Failed(forked).into(), Some(self)));
        }
        // The lease starts here, and not after the wait for room.
        let until = core.clock.now().saturating_add(lease);
        let (digest, fence) = (attempt.digest, attempt.fence);
        let hand_over = HandOver { until, opening: core.opening };
        let row = DetachedRow {
            digest: digest.as_u128(),
            fence: fence.get(),
            until_ms: until.as_millis(),
            opening: core.opening,
        };
        let entry = Entry::Detached(row).encoded();
        match self.note(caller, &entry, |attempt, _now| attempt.detach(hand_over)).await {
            Ok(mut ticket) => {
                // Nobody holds the claim from here on.
                self.is_over = true;
                let left = Left { share: self.permit.take_share(), durability: self.terms.durability };
                core.detach(&attempt, left);
                let settled = core.commit.settled(caller, &mut ticket).await;
                settled.map_err(|error| EndError::new(error.into(), None))?;
                Ok(core.token(&attempt))
            }
            Err(error) => {
                self.is_over =
                    matches!(error, ClaimError::Superseded(_) | ClaimError::Commit(CommitError::Failed(_)));
                let claim = (!self.is_over).then_some(self);
                Err(EndError::new(error, claim))
            }
        }
    }

    /// A number greater than that of every claim that this file granted before this one was asked for. Hand it to downstream systems that can refuse a
    /// lower one.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.attempt.fence
    }

    /// When the claim was granted.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.attempt.started
    }

    /// The idempotency key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.attempt.key()
    }

    /// The name of the key's scope; empty for the default scope.
    #[must_use]
    pub fn scope(&self) -> &[u8] {
        self.attempt.scope()
    }

    /// A short name of the key for logs, which gives nothing of it away.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        self.attempt.digest.key_hash()
    }

    /// The fingerprint of the request.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.attempt.fingerprint
    }

    /// Stores the reply of an operation that succeeded. Durable when it returns, and every retry gets it.
    ///
    /// # Errors
    ///
    /// When the body is too long, the queue or the disk stays full, a commit fails, or the engine is closed. Where nothing was
    /// written, the error gives the claim back: see [`EndError::into_claim`].
    pub fn complete(self, body: impl AsRef<[u8]>) -> Result<Record, EndError> {
        self.complete_with(body, Completion::new())
    }

    /// [`complete`](Self::complete) with a say in what is kept of it, and for how long.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete), and when a time of `completion` is out of range; the claim comes back then.
    ///
    /// ```
    /// # use idemkv::{Begin, Completion, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// # let Begin::Fresh(claim) = engine.begin("key", request)? else { panic!() };
    /// claim.complete_with("a video of three gigabytes", Completion::new().discard_body())?;
    /// let Begin::Done(record) = engine.begin("key", request)? else { panic!() };
    /// assert!(!record.is_body_kept()); // it ran; where its result is, somebody else has to know
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn complete_with(self, body: impl AsRef<[u8]>, completion: Completion) -> Result<Record, EndError> {
        self.finish(Given { outcome: Outcome::Success, body: body.as_ref(), completion })
    }

    /// Stores the reply of an operation that failed for good. It is replayed as faithfully as a success.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Outcome};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// # let Begin::Fresh(claim) = engine.begin("key", request)? else { panic!() };
    /// claim.fail("card declined")?;
    /// let Begin::Done(record) = engine.begin("key", request)? else { panic!() };
    /// assert_eq!((record.outcome(), record.body()), (Outcome::Failure, &b"card declined"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fail(self, body: impl AsRef<[u8]>) -> Result<Record, EndError> {
        self.fail_with(body, Completion::new())
    }

    /// [`fail`](Self::fail) with a say in what is kept of it, and for how long.
    ///
    /// # Errors
    ///
    /// As for [`complete_with`](Self::complete_with).
    pub fn fail_with(self, body: impl AsRef<[u8]>, completion: Completion) -> Result<Record, EndError> {
        self.finish(Given { outcome: Outcome::Failure, body: body.as_ref(), completion })
    }

    /// Says that this attempt certainly did nothing. The key is vacant again, durably when this returns; but where an earlier
    /// attempt was [interrupted](Self::interrupted), that stands, and the next claim is told of it again: this attempt can't
    /// speak for the one before. (To say that nothing ever happened, forget the key then.)
    ///
    /// # Errors
    ///
    /// When the queue stays full, a commit fails, or the engine is closed; see [`EndError::into_claim`].
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Recovery};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let reports = engine.declare("reports", engine.policy().recovery(Recovery::Rerun))?;
    /// # let Begin::Fresh(claim) = reports.begin("key", request)? else { panic!() };
    /// claim.release()?; // the connection to the printer was refused
    /// let Begin::Fresh(claim) = reports.begin("key", request)? else { panic!() };
    /// assert!(claim.interrupted().is_none());
    ///
    /// drop(claim); // lost: nobody knows whether the printer was reached
    /// let Begin::Fresh(second) = reports.begin("key", request)? else { panic!() };
    /// second.release()?; // it reached nobody, but what of the first?
    /// let Begin::Fresh(third) = reports.begin("key", request)? else { panic!() };
    /// assert_eq!(third.interrupted().unwrap().attempt(), 1);
    /// # third.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn release(self) -> Result<(), EndError> {
        let handed = self.start_releasing(Caller::Thread);
        block(released(Caller::Thread, handed))
    }

    /// [`complete`](Self::complete) for tasks.
    ///
    /// The result is handed over before this returns, where the body is within
    /// [`Options::reserve_bytes`](crate::Options::reserve_bytes): then it becomes durable whether or not
    /// the future is polled. A longer body may have to wait for room in the log; a future dropped meanwhile is a claim dropped.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// # futures_executor::block_on(async {
    /// let Begin::Fresh(claim) = engine.begin_async("key", request).await? else { panic!() };
    /// claim.complete_async("reply").await?;
    /// let Begin::Done(record) = engine.begin_async("key", request).await? else { panic!() };
    /// assert_eq!(record.body(), b"reply");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn complete_async(self, body: impl AsRef<[u8]>) -> Ending<Record> {
        self.finish_async(Given::new(Outcome::Success, body.as_ref()))
    }

    /// [`fail`](Self::fail) for tasks; see [`complete_async`](Self::complete_async).
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    pub fn fail_async(self, body: impl AsRef<[u8]>) -> Ending<Record> {
        self.finish_async(Given::new(Outcome::Failure, body.as_ref()))
    }

    /// [`complete_with`](Self::complete_with) for tasks; see [`complete_async`](Self::complete_async).
    ///
    /// # Errors
    ///
    /// As for [`complete_with`](Self::complete_with).
    pub fn complete_with_async(self, body: impl AsRef<[u8]>, completion: Completion) -> Ending<Record> {
        self.finish_async(Given { outcome: Outcome::Success, body: body.as_ref(), completion })
    }

    /// [`fail_with`](Self::fail_with) for tasks; see [`complete_async`](Self::complete_async).
    ///
    /// # Errors
    ///
    /// As for [`complete_with`](Self::complete_with).
    pub fn fail_with_async(self, body: impl AsRef<[u8]>, completion: Completion) -> Ending<Record> {
        self.finish_async(Given { outcome: Outcome::Failure, body: body.as_ref(), completion })
    }

    /// [`release`](Self::release) for tasks. Handed over before this returns: it becomes durable whether or not the future is
    /// polled.
    ///
    /// # Errors
    ///
    /// As for [`release`](Self::release).
    pub fn release_async(self) -> Ending<()> {
        let handed = self.start_releasing(Caller::Task);
        Ending::slowly(released(Caller::Task, handed))
    }

    #[cfg(feature = "serde")]
    pub(super) async fn end_as(self, caller: Caller, result: Given<'_>) -> Result<Record, EndError> {
        self.start_completing(caller, result).acknowledged(caller).await
    }

    #[cfg(feature = "serde")]
    pub(super) async fn release_as(self, caller: Caller) -> Result<(), EndError> {
        released(caller, self.start_releasing(caller)).await
    }

    /// Notes that nobody but this claim's owner decides from here on how it ends; `false` where it was withdrawn on its way.
    pub(super) fn arrives(&mut self) -> bool {
        let bytes = self.attempt.take_coming();
        self.permit.reservation().take_back(bytes.unwrap_or(0));
        bytes.is_some()
    }

    /// Ends the claim without a word about its key, for a commit that failed says it all.
    pub(super) fn forfeit(mut self) {
        if self.core().gate.is_forked() {
            return;
        }
        self.core().leases.forget(&self.attempt);
        self.is_over = true;
    }

    pub(super) fn of(&self) -> &Arc<Attempt> {
        &self.attempt
    }

    pub(super) fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.permit.handle)
    }

    pub(super) fn core(&self) -> &Core {
        self.permit.handle.core()
    }

    /// Whether it was given by `resolve`.
    pub(super) fn resolves(&self) -> bool {
        self.terms.resolves
    }

    /// Whether the log knows of it, or is to.
    pub(super) fn is_logged(&self) -> bool {
        self.terms.logged
    }

    /// The log space that it has.
    pub(super) fn reservation(&mut self) -> &mut Reservation {
        self.permit.reservation()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // A forked child drops a copy: the claim is the parent's.
        if !self.is_over && !self.core().gate.is_forked_for_sure() {
            abandon(self.core(), &self.attempt);
        }
    }
}

/// Makes a claim that is gone without an outcome interrupted, whatever ended it.
pub(super) fn abandon(core: &Core, attempt: &Arc<Attempt>) {
    attempt.interrupt(core.clock.now());
    let interrupted = core.index.change(attempt.digest, |slot| {
        match decide(slot.state(core.index.epoch()), Event::Abandon { fence: attempt.fence }).becomes() {
            Some(_interrupted) => (Change::Set(Slot::Interrupted(Arc::clone(attempt))), true),
            None => (Change::Keep, false),
        }
    });
    core.leases.forget(attempt);
    attempt.end(Ended::Interrupted);
    if interrupted {
        core.tell_of_interruption(attempt, Cause::Dropped);
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
