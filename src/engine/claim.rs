//! Claims, and handles on those of others.

use std::time::Duration;

use super::Handle;
use super::completion::Completion;
use super::core::{Core, Permit, ended_by};
use super::publisher::Op;
use crate::attempt::{Attempt, AttemptInfo, Ended};
use crate::clock::Deadline;
use crate::codec::{self, CompletionRow, ENTRY_OVERHEAD_MAX, Entry, IntentRow};
use crate::error::{BeginError, CommitError, EndError, EndReason};
use crate::index::{Change, Slot};
use crate::record::{Outcome, Record, RecordParts};
use crate::state::{Event, Fence, decide};
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
    /// `None` once it has ended.
    live: Option<Live>,
    attempt: Arc<Attempt>,
}

#[derive(Debug)]
struct Live {
    permit: Permit,
    /// Whether the log knows of the claim.
    logged: bool,
}

impl Claim {
    pub(super) fn new(attempt: Arc<Attempt>, permit: Permit, logged: bool) -> Self {
        Self { live: Some(Live { permit, logged }), attempt }
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
        self.finish(Outcome::Success, body.as_ref(), completion)
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
        self.finish(Outcome::Failure, body.as_ref(), completion)
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
    pub fn release(mut self) -> Result<(), EndError> {
        let Some(live) = self.live.take() else {
            unreachable!("only ending takes the permit, and ending consumes")
        };
        let attempt = Arc::clone(&self.attempt);
        let core = live.permit.handle.core();
        if let Err(reason) = take_for_ending(core, &attempt) {
            return Err(EndError::new(reason, None));
        }
        // A claim that the log knows nothing of, nor of an attempt before it, leaves nothing to undo there.
        if !live.logged && attempt.earlier.is_none() {
            core.put_back(&attempt, Slot::Vacant);
            attempt.end(Ended::Vacated);
            return Ok(());
        }
        if attempt.earlier.is_none() {
            let entry = super::core::vacated_entry(&attempt, None);
            return self.commit(live, &entry, Op::Vacated(attempt, None));
        }
        // What this claim knows of itself says nothing of the attempt before it.
        let now = core.clock.now();
        let row = IntentRow { returned: true, interrupted_ms: Some(now.as_millis()), ..attempt.row() };
        let mut entry = Vec::new();
        codec::encode_into(&Entry::Intent(row), &mut entry);
        self.commit(live, &entry, Op::Returned(Arc::clone(&attempt), now))
    }

    fn finish(mut self, outcome: Outcome, body: &[u8], completion: Completion) -> Result<Record, EndError> {
        let Some(mut live) = self.live.take() else {
            unreachable!("only ending takes the permit, and ending consumes")
        };
        let attempt = Arc::clone(&self.attempt);
        let handle = Arc::clone(&live.permit.handle);
        let core = handle.core();
        let retention = match completion.retention(attempt.retention) {
            Ok(retention) => retention,
            Err(error) => {
                self.live = Some(live);
                return Err(EndError::new(EndReason::Option(error), Some(self)));
            }
        };
        let body_kept = completion.keeps_body();
        let body = if body_kept { body } else { &[] };
        let max = core.options.max_body_bytes;
        if body.len() > max {
            self.live = Some(live);
            return Err(EndError::new(EndReason::BodyTooLarge { len: body.len(), max }, Some(self)));
        }
        let needed = ENTRY_OVERHEAD_MAX + attempt.scope().len() + attempt.key().len() + body.len();
        if let Err(error) = live.permit.raise(entry_bytes_max(needed) as u64) {
            self.live = Some(live);
            return Err(EndError::new(EndReason::Commit(error), Some(self)));
        }
        if let Err(reason) = take_for_ending(core, &attempt) {
            return Err(EndError::new(reason, None));
        }
        let completed = core.clock.now();
        let record = Record::new(
            &RecordParts {
                digest: attempt.digest,
                scope: attempt.scope(),
                key: attempt.key(),
                fingerprint: attempt.fingerprint,
                fence: attempt.fence,
                attempt: attempt.number,
                outcome,
                started: attempt.started,
                completed,
                lifetime: retention.lifetime(completed),
                body_kept,
                body,
            },
            None,
        );
        let mut entry = Vec::with_capacity(needed);
        codec::encode_into(&Entry::Completion(CompletionRow::from(&record)), &mut entry);
        self.commit(live, &entry, Op::Completed(attempt, record.clone()))?;
        Ok(record)
    }

    /// Commits the entry that ends the claim. Where nothing was written, the claim is as it was, and comes back.
    fn commit(mut self, mut live: Live, entry: &[u8], op: Op) -> Result<(), EndError> {
        let handle = Arc::clone(&live.permit.handle);
        let core = handle.core();
        let cost = entry_bytes_max(entry.len()) as u64;
        let ticket = match core.commit.append(entry, op, cost, core.options.patience) {
            Ok(ticket) => ticket,
            Err(error @ CommitError::Failed(_)) => {
                self.attempt.end(ended_by(&error));
                return Err(EndError::new(EndReason::Commit(error), None));
            }
            Err(error @ (CommitError::Busy(_) | CommitError::Closed)) => {
                core.put_back(&self.attempt, Slot::InFlight(Arc::clone(&self.attempt)));
                self.live = Some(live);
                return Err(EndError::new(EndReason::Commit(error), Some(self)));
            }
        };
        live.permit.spend(cost);
        core.commit.wait(&ticket).map_err(|error| EndError::new(EndReason::Commit(error), None))
    }
}

/// Marks a claim as ending, so that nobody else can end it.
fn take_for_ending(core: &Core, attempt: &Arc<Attempt>) -> Result<(), EndReason> {
    core.index.change(attempt.digest, |slot| {
        match decide(slot.state(core.index.epoch()), Event::End { fence: attempt.fence }).becomes() {
            Some(_ending) => (Change::Set(Slot::Ending(Arc::clone(attempt))), Ok(())),
            None => (Change::Keep, Err(EndReason::Superseded)),
        }
    })
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(live) = self.live.take() else { return };
        abandon(live.permit.handle.core(), &self.attempt);
    }
}

/// Makes a claim that is gone without an outcome interrupted, whatever ended it.
pub(super) fn abandon(core: &Core, attempt: &Arc<Attempt>) {
    attempt.interrupt(core.clock.now());
    core.index.change(attempt.digest, |slot| {
        match decide(slot.state(core.index.epoch()), Event::Abandon { fence: attempt.fence }).becomes() {
            Some(_interrupted) => (Change::Set(Slot::Interrupted(Arc::clone(attempt))), ()),
            None => (Change::Keep, ()),
        }
    });
    attempt.end(Ended::Interrupted);
}

/// A handle on somebody else's claim.
#[derive(Clone, Debug)]
pub struct Pending {
    attempt: Arc<Attempt>,
    /// Keeps the engine open.
    _handle: Arc<Handle>,
}

/// What became of a claim that was waited for.
#[derive(Clone, Debug)]
pub enum Waited {
    /// It was completed or failed: here is the result.
    Done(Record),
    /// It was released, or the key was forgotten: begin again.
    Vacant,
    /// It ended without an outcome: begin again, and the claim will say so.
    Interrupted,
    /// It is still out.
    TimedOut,
}

impl Pending {
    pub(super) fn new(attempt: Arc<Attempt>, handle: &Arc<Handle>) -> Self {
        Self { attempt, _handle: Arc::clone(handle) }
    }

    /// When the other claim was granted.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.attempt.started
    }

    /// The number of the other attempt.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// Waits until the other claim has ended.
    ///
    /// # Errors
    ///
    /// When a commit failed, or the engine is closed, while the claim was out.
    pub fn wait(&self) -> Result<Waited, BeginError> {
        self.wait_until(Deadline::NEVER)
    }

    /// Waits until the other claim has ended, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Waited};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let Begin::Fresh(claim) = engine.begin("key", request)? else { panic!() };
    /// let Begin::InFlight(pending) = engine.begin("key", request)? else { panic!() };
    /// assert!(matches!(pending.wait_timeout(Duration::from_millis(1))?, Waited::TimedOut));
    /// claim.complete("reply")?;
    /// assert!(matches!(pending.wait()?, Waited::Done(record) if record.body() == b"reply"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Waited, BeginError> {
        self.wait_until(Deadline::after(timeout))
    }

    fn wait_until(&self, deadline: Deadline) -> Result<Waited, BeginError> {
        match self.attempt.wait(deadline) {
            None => Ok(Waited::TimedOut),
            Some(Ended::Done(record)) => Ok(Waited::Done(record)),
            Some(Ended::Vacated) => Ok(Waited::Vacant),
            Some(Ended::Interrupted) => Ok(Waited::Interrupted),
            Some(Ended::Failed(failure)) => Err(BeginError::Failed(failure)),
            Some(Ended::Closed) => Err(BeginError::Closed),
        }
    }
}
