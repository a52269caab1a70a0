//! Claims, and handles on those of others.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::Handle;
use super::completion::Completion;
use super::core::{Core, ended_by};
use super::pending::Pending;
use super::permit::Permit;
use super::publisher::Op;
use super::token::ClaimToken;
use crate::attempt::{Attempt, AttemptInfo, Checkpoint, Ended};
use crate::caller::{Caller, block};
use crate::codec::{CheckpointRow, CompletionRow, DetachedRow, ENTRY_OVERHEAD_MAX, Entry, IntentRow};
use crate::commit::Ticket;
use crate::error::{Busy, ClaimError, CommitError, EndError};
use crate::index::{Change, Slot};
use crate::policy::Durability;
use crate::record::{Outcome, Record, RecordParts};
use crate::state::{Event, Fence, decide};
use crate::step_key::StepKey;
use crate::sync::Arc;
use crate::wal::frame::entry_bytes_max;
use crate::{Fingerprint, Timestamp};

/// The answer to a begin.
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
/// Dropped without any of them, in a panic too, it leaves its key *interrupted*: the next begin gets a claim
/// that tells so, because the effect may have happened. The death of the process does the same.
///
/// It is `Send`, and keeps the engine open.
#[derive(Debug)]
#[must_use = "a claim that is dropped leaves its key interrupted"]
pub struct Claim {
    attempt: Arc<Attempt>,
    permit: Permit,
    terms: Terms,
    /// Whether the log may still have an entry about the claim in its queue: whoever waited for it gave up.
    unsettled: bool,
    /// Whether its end is in other hands, or known, so that dropping it says nothing of its key.
    is_over: bool,
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
        Self { attempt, permit, terms, unsettled: false, is_over: false }
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
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// drop(engine.begin("key", request)?); // a worker that lost its way
    /// let Begin::Fresh(claim) = engine.begin("key", request)? else { panic!() };
    /// assert_eq!(claim.attempt(), 2);
    /// assert_eq!(claim.interrupted().unwrap().attempt(), 1);
    /// # claim.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn interrupted(&self) -> Option<AttemptInfo> {
        self.attempt.earlier
    }

    /// The last checkpoint of this attempt, or else of the attempts before it since the key was vacant.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<Checkpoint> {
        self.attempt.checkpoint()
    }

    /// Notes how far the operation has come, durably: should this attempt be interrupted, the next one finds it. A later
    /// checkpoint replaces it.
    ///
    /// # Errors
    ///
    /// When it is longer than a body may be, checkpoints take too much memory already, the claim's lease ran out, the disk stays full, a commit
    /// fails, or the engine is closed.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let Begin::Fresh(mut claim) = engine.begin("key", request)? else { panic!() };
    /// claim.checkpoint("card charged")?;
    /// drop(claim); // the process dies before the receipt is sent
    ///
    /// let Begin::Fresh(claim) = engine.begin("key", request)? else { panic!() };
    /// assert_eq!(claim.last_checkpoint().as_deref(), Some(&b"card charged"[..]));
    /// # claim.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn checkpoint(&mut self, note: impl AsRef<[u8]>) -> Result<(), ClaimError> {
        block(self.checkpoint_as(Caller::Thread, note.as_ref()))
    }

    /// [`checkpoint`](Self::checkpoint) for tasks. A future that is dropped may have made the checkpoint or not.
    ///
    /// # Errors
    ///
    /// As for [`checkpoint`](Self::checkpoint).
    pub async fn checkpoint_async(&mut self, note: impl AsRef<[u8]>) -> Result<(), ClaimError> {
        self.checkpoint_as(Caller::Task, note.as_ref()).await
    }

    async fn checkpoint_as(&mut self, caller: Caller, note: &[u8]) -> Result<(), ClaimError> {
        self.check_body(note.len())?;
        let handle = self.handle();
        let core = handle.core();
        let max = core.options.max_checkpoint_bytes;
        if !core.checkpoint_bytes.has_room(note.len(), max) {
            return Err(CommitError::Busy(Busy::TooManyCheckpointBytes { max }).into());
        }
        let (digest, fence) = (self.attempt.digest, self.attempt.fence);
        let row = CheckpointRow { digest: digest.as_u128(), fence: fence.get(), bytes: note };
        let entry = Entry::Checkpoint(row).encoded();
        let checkpoint = Checkpoint::new(note, &core.checkpoint_bytes);
        // Whoever is granted the key after this moment inherits the checkpoint, and its grant comes behind it in the log.
        let mut ticket =
            self.note(caller, &entry, |attempt, _now| attempt.set_checkpoint(checkpoint)).await?;
        core.commit.settled(caller, &mut ticket).await?;
        self.unsettled = false;
        Ok(())
    }

    /// Waits until no entry about the claim is in the log's queue.
    pub(super) async fn settle(&mut self, caller: Caller) -> Result<(), CommitError> {
        if self.unsettled {
            self.core().commit.flush(caller).await?;
        }
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
        // Where the log knows nothing of the claim that the entry is about.
        let intent = (!self.terms.logged).then(|| Entry::Intent(self.attempt.row()).encoded());
        let cost = |entry: &[u8]| entry_bytes_max(entry.len()) as u64;
        let costs = cost(entry) + intent.as_deref().map_or(0, cost);
        core.promise(caller, costs).await?;
        let granted = intent.as_deref();
        let entries = granted
            .map(|intent| (intent, Op::Granted(Arc::clone(&self.attempt)), cost(intent)))
            .into_iter()
            .chain([(entry, Op::Noted(Arc::clone(&self.attempt)), cost(entry))]);
        let appended = core.commit.append_promised_if(caller, entries, || self.use_now(core, change));
        let Some(ticket) = appended.inspect_err(|_| core.room.withdraw(costs))? else {
            core.room.withdraw(costs);
            return Err(core.superseded(caller, &self.attempt).await);
        };
        self.terms.logged = true;
        self.unsettled = true;
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
    /// let Begin::Fresh(first) = engine.begin("key", request)? else { panic!() };
    /// let charge = first.step_key("charge-card");
    /// assert_ne!(charge, first.step_key("send-receipt"));
    /// drop(first);
    /// let Begin::Fresh(second) = engine.begin("key", request)? else { panic!() };
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
    /// When the claim has no lease, or as for [`checkpoint`](Self::checkpoint). Where nothing was written the error gives the claim
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
        // The lease starts here, and not after the wait for room.
        let until = core.clock.now().saturating_add(lease);
        let (digest, fence) = (attempt.digest, attempt.fence);
        let row = DetachedRow { digest: digest.as_u128(), fence: fence.get(), until_ms: until.as_millis() };
        let entry = Entry::Detached(row).encoded();
        match self.note(caller, &entry, |attempt, _now| attempt.detach(until)).await {
            Ok(mut ticket) => {
                // Nobody holds the claim from here on.
                self.is_over = true;
                core.detach(&attempt, self.permit.take_share());
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
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// # let Begin::Fresh(claim) = engine.begin("key", request)? else { panic!() };
    /// claim.release()?; // the connection to the bank was refused
    /// let Begin::Fresh(claim) = engine.begin("key", request)? else { panic!() };
    /// assert!(claim.interrupted().is_none());
    ///
    /// drop(claim); // lost: nobody knows whether the bank was reached
    /// let Begin::Fresh(second) = engine.begin("key", request)? else { panic!() };
    /// second.release()?; // it reached nobody, but what of the first?
    /// let Begin::Fresh(third) = engine.begin("key", request)? else { panic!() };
    /// assert_eq!(third.interrupted().unwrap().attempt(), 1);
    /// # third.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn release(self) -> Result<(), EndError> {
        let handed = self.hand_over_release(Caller::Thread);
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
        let handed = self.hand_over_release(Caller::Task);
        Ending::slowly(released(Caller::Task, handed))
    }

    #[cfg(feature = "serde")]
    pub(super) async fn end_as(self, caller: Caller, result: Given<'_>) -> Result<Record, EndError> {
        self.start_completing(caller, result).acknowledged(caller).await
    }

    #[cfg(feature = "serde")]
    pub(super) async fn release_as(self, caller: Caller) -> Result<(), EndError> {
        released(caller, self.hand_over_release(caller)).await
    }

    /// Releases without waiting for it; for a claim that its caller never saw.
    pub(super) fn give_up(mut self) {
        // Nobody has said anything of the attempts before it.
        self.terms.resolves = false;
        let handed = self.hand_over_release(Caller::Task);
        // Where it could not be handed over, the error holds the claim, and its end is that of a claim dropped.
        drop(handed);
    }

    /// Ends the claim without a word about its key, for a commit that failed says it all.
    pub(super) fn forfeit(mut self) {
        self.core().leases.forget(&self.attempt);
        self.is_over = true;
    }

    pub(super) fn of(&self) -> &Arc<Attempt> {
        &self.attempt
    }

    pub(super) fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.permit.handle)
    }

    fn core(&self) -> &Core {
        self.permit.handle.core()
    }

    /// Whether the log knows of it, or is to.
    pub(super) fn is_logged(&self) -> bool {
        self.terms.logged
    }

    /// Notes that `bytes` of its room are the commit queue's now.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.permit.spend(bytes);
    }

    /// `None` where the log need not know.
    fn hand_over_release(mut self, caller: Caller) -> Result<Option<Handed>, Refusal> {
        self.start_ending()?;
        let core = self.core();
        let attempt = Arc::clone(&self.attempt);
        let vacates = attempt.earlier.is_none() || self.terms.resolves;
        // A claim that the log knows nothing of, nor of an attempt before it, leaves nothing to undo there.
        if !self.terms.logged && attempt.earlier.is_none() {
            core.put_back(&attempt, Slot::Vacant);
            core.leases.forget(&attempt);
            attempt.end(Ended::Vacated);
            return Ok(None);
        }
        if vacates {
            let entry = super::core::vacated_entry(&attempt, None);
            return self.hand_over(caller, &entry, Op::Vacated(attempt, None)).map(Some);
        }
        // What this claim knows of itself says nothing of the attempt before it.
        let now = core.clock.now();
        let row = IntentRow { returned: true, interrupted_ms: Some(now.as_millis()), ..attempt.row() };
        let entry = Entry::Intent(row).encoded();
        self.hand_over(caller, &entry, Op::Returned(attempt, now)).map(Some)
    }

    fn finish(self, result: Given<'_>) -> Result<Record, EndError> {
        self.start_completing(Caller::Thread, result).wait()
    }

    fn finish_async(self, result: Given<'_>) -> Ending<Record> {
        match self.start_completing(Caller::Task, result) {
            Completing::Handed(handed, record) => Ending(Course::Handed(Some((handed, record)))),
            slow @ (Completing::Waits(..) | Completing::Superseded(..) | Completing::Refused(_)) => {
                Ending::slowly(slow.acknowledged(Caller::Task))
            }
        }
    }

    /// Hands the outcome over, if that needs no waiting.
    pub(super) fn start_completing(mut self, caller: Caller, result: Given<'_>) -> Completing {
        let body_len = result.kept().len();
        if let Err(refused) = self.check(result) {
            return Completing::Refused(EndError::new(refused, Some(self)));
        }
        let needed = self.room_for(body_len);
        if self.permit.lacks(needed) > 0 {
            if caller != Caller::Thread {
                return Completing::Waits(self, result.outcome, result.body.into(), result.completion);
            }
            if let Err(refused) = block(self.secure_room(caller, body_len)) {
                return Completing::Refused(EndError::new(refused, Some(self)));
            }
        }
        match self.hand_over_result(caller, result) {
            Ok((handed, record)) => Completing::Handed(handed, record),
            Err(Refusal::Superseded(handle, attempt)) => Completing::Superseded(handle, attempt),
            Err(Refusal::Other(error)) => Completing::Refused(error),
        }
    }

    /// Whether a result may be stored.
    pub(super) fn check(&self, result: Given<'_>) -> Result<(), ClaimError> {
        result.completion.retention(self.attempt.retention).map_err(ClaimError::Option)?;
        self.check_body(result.kept().len())
    }

    /// Marks the claim as ending, so that nobody else can end it, and so that dropping it does not.
    pub(super) fn start_ending(&mut self) -> Result<(), Refusal> {
        self.is_over = true;
        if take_for_ending(self.core(), &self.attempt) {
            Ok(())
        } else {
            Err(Refusal::Superseded(self.handle(), Arc::clone(&self.attempt)))
        }
    }

    /// Takes back that it is ending: nothing was written.
    pub(super) fn go_on(&mut self) {
        self.is_over = false;
        self.core().put_back(&self.attempt, Slot::InFlight(Arc::clone(&self.attempt)));
    }

    /// Bytes of log that a completion with a body of so many bytes takes.
    fn room_for(&self, body_len: usize) -> u64 {
        let names = self.attempt.scope().len() + self.attempt.key().len();
        entry_bytes_max(ENTRY_OVERHEAD_MAX + names + body_len) as u64
    }

    fn check_body(&self, len: usize) -> Result<(), ClaimError> {
        let max = self.core().options.max_body_bytes;
        if len > max { Err(ClaimError::BodyTooLarge { len, max }) } else { Ok(()) }
    }

    /// Sees to it that a completion with a body of so many bytes has room.
    async fn secure_room(&mut self, caller: Caller, body_len: usize) -> Result<(), ClaimError> {
        let needed = self.room_for(body_len);
        self.permit.raise(caller, needed).await.map_err(ClaimError::Commit)
    }

    /// Hands the outcome to the log. It was checked, and room was made for it.
    fn hand_over_result(mut self, caller: Caller, result: Given<'_>) -> Result<(Handed, Record), Refusal> {
        self.start_ending()?;
        let record = result.record(&self.attempt, self.core().clock.now());
        let entry = Entry::Completion(CompletionRow::from(&record)).encoded();
        // What is flushed later calls nobody now.
        let relaxed = matches!(self.terms.durability, Durability::Relaxed(_));
        let caller = if relaxed { Caller::Thread } else { caller };
        let op = Op::Completed(Arc::clone(&self.attempt), record.clone());
        let handed = self.hand_over(caller, &entry, op)?;
        if let Durability::Relaxed(within) = handed.claim.terms.durability {
            handed.claim.core().commit.flush_within(within);
        }
        Ok((handed, record))
    }

    /// Queues the entry that ends the claim. Where nothing was written, the claim is as it was, and comes back.
    fn hand_over(mut self, caller: Caller, entry: &[u8], op: Op) -> Result<Handed, Refusal> {
        let cost = entry_bytes_max(entry.len()) as u64;
        match self.core().commit.append_promised(caller, entry, op, cost) {
            Ok(ticket) => {
                self.spend(cost);
                self.core().leases.forget(&self.attempt);
                Ok(Handed { claim: self, ticket })
            }
            Err(error @ CommitError::Failed(_)) => {
                self.attempt.end(ended_by(&error));
                Err(Refusal::Other(EndError::new(ClaimError::Commit(error), None)))
            }
            Err(error @ (CommitError::Busy(_) | CommitError::Closed)) => {
                self.go_on();
                Err(Refusal::Other(EndError::new(ClaimError::Commit(error), Some(self))))
            }
        }
    }
}

/// What whoever ends a claim gives.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) outcome: Outcome,
    pub(super) body: &'a [u8],
    pub(super) completion: Completion,
}

impl<'a> Given<'a> {
    pub(super) fn new(outcome: Outcome, body: &'a [u8]) -> Self {
        Self { outcome, body, completion: Completion::new() }
    }

    /// What is kept of the body.
    pub(super) fn kept(&self) -> &'a [u8] {
        if self.completion.keeps_body() { self.body } else { &[] }
    }

    /// The record that comes of it. Its times were checked.
    pub(super) fn record(&self, attempt: &Attempt, completed: Timestamp) -> Record {
        let retention = self.completion.retention(attempt.retention).unwrap_or(attempt.retention);
        let parts = RecordParts {
            digest: attempt.digest,
            scope: attempt.scope(),
            key: attempt.key(),
            fingerprint: attempt.fingerprint,
            fence: attempt.fence,
            attempt: attempt.number,
            outcome: self.outcome,
            started: attempt.started,
            completed,
            lifetime: retention.lifetime(completed),
            body_kept: self.completion.keeps_body(),
            body: self.kept(),
        };
        Record::new(&parts, None)
    }
}

/// A completion on its way.
#[derive(Debug)]
pub(super) enum Completing {
    /// The log has it.
    Handed(Handed, Record),
    /// It needs more room than was promised.
    Waits(Claim, Outcome, Box<[u8]>, Completion),
    /// The claim is not the current one.
    Superseded(Arc<Handle>, Arc<Attempt>),
    Refused(EndError),
}

impl Completing {
    /// Has it written soon.
    pub(super) fn call_leader(&self) {
        if let Self::Handed(handed, _) = self {
            handed.claim.core().commit.call();
        }
    }

    /// Waits until it may be acknowledged, as a thread.
    pub(super) fn wait(self) -> Result<Record, EndError> {
        match self {
            Self::Handed(handed, record) => handed.wait().map(|()| record),
            slow @ (Self::Waits(..) | Self::Superseded(..) | Self::Refused(_)) => {
                block(slow.acknowledged(Caller::Thread))
            }
        }
    }

    /// Waits until it may be acknowledged.
    pub(super) async fn acknowledged(self, caller: Caller) -> Result<Record, EndError> {
        let handed = match self {
            Self::Handed(handed, record) => Ok((handed, record)),
            Self::Waits(mut claim, outcome, body, completion) => {
                let result = Given { outcome, body: &body, completion };
                match claim.secure_room(caller, result.kept().len()).await {
                    Ok(()) => claim.hand_over_result(caller, result),
                    Err(refused) => Err(Refusal::Other(EndError::new(refused, Some(claim)))),
                }
            }
            Self::Superseded(handle, attempt) => Err(Refusal::Superseded(handle, attempt)),
            Self::Refused(error) => Err(Refusal::Other(error)),
        };
        match handed {
            Ok((handed, record)) => handed.acknowledged(caller).await.map(|()| record),
            Err(refusal) => Err(refusal.explained(caller).await),
        }
    }
}

/// Why the end of a claim was not handed over.
pub(super) enum Refusal {
    /// The claim is not the current one.
    Superseded(Arc<Handle>, Arc<Attempt>),
    Other(EndError),
}

impl Refusal {
    pub(super) async fn explained(self, caller: Caller) -> EndError {
        match self {
            Self::Superseded(handle, attempt) => {
                EndError::new(handle.core().superseded(caller, &attempt).await, None)
            }
            Self::Other(error) => error,
        }
    }
}

/// The end of a claim, for tasks: a future that is ready once it is durable. Where the log has it already, which is nearly
/// always, it is carried out whether or not this is polled; see [`Claim::complete_async`].
#[must_use = "a claim has ended once this was awaited"]
pub struct Ending<T>(Course<T>);

enum Course<T> {
    /// The log has it, and this is what is given once it is durable; `None` once it was given. By hand, for a future would be moved
    /// onto the heap for every claim.
    Handed(Option<(Handed, T)>),
    /// Anything else.
    Slow(Pin<Box<dyn Future<Output = Result<T, EndError>> + Send>>),
}

impl<T> Ending<T> {
    fn slowly(future: impl Future<Output = Result<T, EndError>> + Send + 'static) -> Self {
        Self(Course::Slow(Box::pin(future)))
    }
}

/// What it gives is never pinned.
impl<T> Unpin for Ending<T> {}

impl<T> Future for Ending<T> {
    type Output = Result<T, EndError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Course::Slow(future) => future.as_mut().poll(context),
            Course::Handed(waits) => {
                let Some((handed, _)) = waits else { unreachable!("it was polled after it was ready") };
                let acknowledged = ready!(handed.poll_acknowledged(context));
                let given = waits.take().map(|(_, given)| given);
                Poll::Ready(acknowledged.map(|()| given.unwrap_or_else(|| unreachable!("it is there"))))
            }
        }
    }
}

impl<T> std::fmt::Debug for Ending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").finish_non_exhaustive()
    }
}

/// The end of a claim, in the hands of the log. Dropped, it is carried out all the same.
#[derive(Debug)]
pub(super) struct Handed {
    /// It is over. Held to the end, so that who made the attempt frees it and not who committed it: allocators are quicker so.
    claim: Claim,
    ticket: Ticket,
}

impl Handed {
    /// Whether the scope's policy wants it durable before it is acknowledged.
    fn is_awaited(&self) -> bool {
        match self.claim.terms.durability {
            Durability::Full | Durability::Completions => true,
            Durability::Relaxed(_) => false,
        }
    }

    /// Waits until it may be acknowledged, as a thread.
    fn wait(self) -> Result<(), EndError> {
        if self.is_awaited() {
            self.claim.core().commit.wait(&self.ticket).map_err(not_committed)
        } else {
            Ok(())
        }
    }

    /// Waits until it may be acknowledged, as a task.
    fn poll_acknowledged(&mut self, context: &Context<'_>) -> Poll<Result<(), EndError>> {
        if !self.is_awaited() {
            return Poll::Ready(Ok(()));
        }
        let Self { claim, ticket } = self;
        claim.core().commit.poll_settled(ticket, context).map_err(not_committed)
    }

    /// Waits until it may be acknowledged.
    async fn acknowledged(self, caller: Caller) -> Result<(), EndError> {
        if self.is_awaited() { self.settled(caller).await } else { Ok(()) }
    }

    /// Waits until it is durable.
    async fn settled(mut self, caller: Caller) -> Result<(), EndError> {
        self.claim.core().commit.settled(caller, &mut self.ticket).await.map_err(not_committed)
    }
}

fn not_committed(error: CommitError) -> EndError {
    EndError::new(ClaimError::Commit(error), None)
}

async fn released(caller: Caller, handed: Result<Option<Handed>, Refusal>) -> Result<(), EndError> {
    match handed {
        Ok(Some(handed)) => handed.settled(caller).await,
        Ok(None) => Ok(()),
        Err(refusal) => Err(refusal.explained(caller).await),
    }
}

/// Marks a claim as ending, so that nobody else can end it; `false` where it is not the current one.
fn take_for_ending(core: &Core, attempt: &Arc<Attempt>) -> bool {
    core.index.change(attempt.digest, |slot| {
        let event = Event::End { fence: attempt.fence, now: core.clock.now() };
        match decide(slot.state(core.index.epoch()), event).becomes() {
            Some(_ending) => (Change::Set(Slot::Ending(Arc::clone(attempt))), true),
            None => (Change::Keep, false),
        }
    })
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_over {
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
        core.tell_of_interruption(attempt);
    }
}
