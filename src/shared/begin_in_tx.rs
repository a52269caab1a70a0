//! A claim that exists only in a transaction of the caller's: claim, effect and result are
//! committed together. If the transaction ends in any other way, nothing has happened.

use super::complete::Result_;
use super::core::{Core, SharedHandle};
use super::granting::{Asked, NewClaim, Tries, nonce, not_granted};
use super::listener;
use super::open_tx::{OpenTx, Tx};
use super::refusal::Refusal;
use super::row::{KeyRow, RowState};
use super::statements::begin::Terms;
use super::statements::in_tx::{Seen, StoreAsk, Stored, is_of_store, look, store};
use super::statements::look::{LookAsk, Looked};
use super::take_over::{decided_begin, pending, without_grant};
use super::tx_statements::TxStatements;
use crate::attempt::Attempt;
use crate::clock::{Deadline, Stopwatch};
use crate::engine::common::completion::Completion;
use crate::engine::common::end_request::NewResult;
use crate::engine::common::namespace::ScopeInner;
use crate::engine::handles::claim::Begin;
use crate::engine::handles::pending::Pending;
use crate::error::{BeginError, ClaimError, FailureKind, StoreFailure};
use crate::record::{Outcome, Record};
use crate::state::{Decision, Fence};
use crate::sync::Arc;
use crate::{Fingerprint, Status};

/// The answer to a begin in a transaction.
#[derive(Debug)]
#[must_use = "a claim has to be completed"]
pub enum BeginInTx {
    /// Run the operation within the transaction, complete the claim, and commit.
    Fresh(ClaimInTx),
    /// Another caller has the claim. Roll back before you wait for it.
    InFlight(Pending),
    /// The operation has run; this is its result.
    Done(Record),
}

/// A claim that exists only in a transaction.
///
/// It has no lease: the transaction is its limit. A value that is dropped leaves nothing behind.
#[must_use = "complete it, or roll the transaction back"]
pub struct ClaimInTx {
    handle: Arc<SharedHandle>,
    attempt: Box<Attempt>,
    nonce: u128,
    policies: i64,
    /// The transaction keeps its snapshot, which does not show that the tables are another store's.
    keeps_snapshot: bool,
    /// The row that the claim takes over.
    seen: Option<Box<KeyRow>>,
    prepared: Option<TxStatements>,
    watch: Option<Stopwatch>,
}

/// A result that is stored in a transaction which is still open.
#[must_use = "take the record once the transaction was committed"]
pub struct UncommittedRecord {
    claim: ClaimInTx,
    record: Record,
    is_wanted: bool,
}

impl SharedHandle {
    /// Begins within a transaction of the caller's.
    pub(crate) async fn begin_in_tx(
        self: &Arc<Self>,
        mut transaction: Tx<'_>,
        scope: &ScopeInner,
        key: &[u8],
        fingerprint: Fingerprint,
    ) -> Result<BeginInTx, BeginError> {
        let core = &*self.0;
        let watch = core.options.hooks.watch();
        let asked = match Asked::to_grant(scope, key) {
            // What the transaction did is known to its caller alone.
            Ok(asked) => begin(self, &mut transaction, &asked, fingerprint).await.map_err(not_granted),
            Err(error) => Err(error.into()),
        };
        let answer = match asked {
            Ok(BeginInTx::Fresh(claim)) => {
                let prepared = transaction.prepared.cloned();
                return Ok(BeginInTx::Fresh(ClaimInTx { prepared, watch, ..claim }));
            }
            Ok(BeginInTx::InFlight(pending)) => Ok(Begin::InFlight(pending)),
            Ok(BeginInTx::Done(record)) => Ok(Begin::Done(record)),
            Err(error) => Err(error),
        };
        core.note_begin(scope, key, &answer, None);
        answer.map(in_tx)
    }
}

fn in_tx(answer: Begin) -> BeginInTx {
    match answer {
        Begin::InFlight(pending) => BeginInTx::InFlight(pending),
        Begin::Done(record) => BeginInTx::Done(record),
        Begin::Fresh(_) => unreachable!("a begin in a transaction grants no claim outside of it"),
    }
}

async fn begin(
    handle: &Arc<SharedHandle>,
    transaction: &mut Tx<'_>,
    asked: &Asked,
    fingerprint: Fingerprint,
) -> Result<BeginInTx, BeginError> {
    let core = &*handle.0;
    let deadline = core.deadline();
    let mut tries = Tries::new(deadline);
    loop {
        core.check()?;
        let seen = look(core, transaction, asked.digest).await.map_err(Refusal::unavailable)?;
        if !seen.is_of_this_store {
            return Err(Refusal::unavailable(elsewhere()).into());
        }
        let (policies, sees_more) = (seen.policies, seen.sees_more);
        let Some(fence) = seen.fence else {
            return Err(Refusal::unavailable(StoreFailure::locked()).into());
        };
        core.catch_up(true, policies, deadline).await?;
        let (policy, version) = core.policies.of(&asked.scope);
        if version == policies {
            let terms = Terms { session: NO_SESSION, policy, policies };
            if let Some(answer) = answer(handle, asked, fingerprint, (seen, fence), &terms, deadline).await? {
                return Ok(answer);
            }
        }
        if !sees_more {
            return Err(Refusal::unavailable(old_snapshot()).into());
        }
        tries.round(core).await?;
    }
}

fn old_snapshot() -> StoreFailure {
    let message = "the transaction's snapshot is older than a policy, or than the end of a claim: \
                   roll back, and begin again";
    StoreFailure::new(FailureKind::Locked, message)
}

/// The claim stands by its transaction alone.
const NO_SESSION: i64 = 0;

/// `None` if the key has to be looked up again.
async fn answer(
    handle: &Arc<SharedHandle>,
    asked: &Asked,
    fingerprint: Fingerprint,
    (seen, fence): (Seen, Fence),
    terms: &Terms,
    deadline: Deadline,
) -> Result<Option<BeginInTx>, BeginError> {
    let decided = match &seen.row {
        Some(row) => {
            row.check_names(&asked.scope, &asked.key).map_err(Refusal::unavailable)?;
            decided_begin(row, &fingerprint, seen.now, &terms.policy)
        }
        None => (Decision::Grant { attempt: 1 }, false),
    };
    match (decided, &seen.row) {
        ((Decision::Grant { .. }, true), Some(row)) => found_over(handle, asked, row, deadline).await,
        ((Decision::Grant { attempt }, _), row) => {
            let earlier = row.as_ref().filter(|_| attempt > 1).map(KeyRow::as_earlier);
            let claim = NewClaim::granted(terms, fingerprint, fence, seen.now);
            let claim = NewClaim { number: attempt, earlier, lease: None, ..claim };
            Ok(Some(BeginInTx::Fresh(ClaimInTx {
                handle: Arc::clone(handle),
                attempt: Box::new(claim.attempt(asked)),
                nonce: nonce()?,
                policies: terms.policies,
                keeps_snapshot: !seen.sees_more,
                seen: seen.row.map(Box::new),
                prepared: None,
                watch: None,
            })))
        }
        (decided, Some(row)) => Ok(without_grant(handle, asked, row, decided, deadline).await?.map(in_tx)),
        (_, None) => unreachable!("a begin on a vacant key is granted"),
    }
}

/// A claim that seems to be over. A snapshot shows neither a renewal since, nor that a transaction has
/// the row, so the store is asked by another connection to make the key interrupted. If it does, the
/// key is looked up again. If not, the claim stands.
async fn found_over(
    handle: &Arc<SharedHandle>,
    asked: &Asked,
    row: &KeyRow,
    deadline: Deadline,
) -> Result<Option<BeginInTx>, BeginError> {
    let is_over = handle.0.lapses(row, asked.digest, deadline).await.map_err(Core::refusal)?;
    Ok((!is_over).then(|| in_tx(pending(handle, asked, row))))
}

fn elsewhere() -> StoreFailure {
    let message = "the transaction is on another store than the engine: begin it on the engine's database";
    StoreFailure::new(FailureKind::Options, message)
}

impl ClaimInTx {
    /// Which attempt this is: 1 unless earlier ones, in claims of their own, were interrupted.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// The fence of this claim: it grows with every claim of the store, whether or not its
    /// transaction is committed.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.attempt.fence
    }

    /// Stores the result, within the same transaction. Then commit without delay: until then,
    /// begins of the same key by other callers are refused as [`FailureKind::Locked`].
    ///
    /// # Errors
    ///
    /// When the body is too long; when the key is no longer as it was at the begin
    /// ([`ClaimError::Superseded`]), because another caller was faster; when the statement fails.
    /// Roll back then: your rows must not be committed.
    pub async fn complete(
        self,
        transaction: &mut impl OpenTx,
        body: impl AsRef<[u8]>,
    ) -> Result<UncommittedRecord, ClaimError> {
        self.end(transaction.tx(), Outcome::Success, body.as_ref()).await
    }

    /// Stores that the operation has failed for good, as [`complete`](Self::complete) does. If your
    /// rows must not be committed, roll back to a savepoint from before them first.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    pub async fn fail(
        self,
        transaction: &mut impl OpenTx,
        body: impl AsRef<[u8]>,
    ) -> Result<UncommittedRecord, ClaimError> {
        self.end(transaction.tx(), Outcome::Failure, body.as_ref()).await
    }

    async fn end(
        self,
        transaction: Tx<'_>,
        outcome: Outcome,
        body: &[u8],
    ) -> Result<UncommittedRecord, ClaimError> {
        let (core, attempt) = (&*self.handle.0, &self.attempt);
        core.check()?;
        let result = Result_::new(core, attempt, NewResult { outcome, body, completion: Completion::new() })?;
        let asked =
            Asked { scope: attempt.scope().into(), key: attempt.key().into(), digest: attempt.digest };
        let ask = StoreAsk {
            asked: &asked,
            nonce: self.nonce,
            fence: attempt.fence,
            attempt: attempt.number,
            fingerprint: attempt.fingerprint,
            started: attempt.started,
            retention: result.retention,
            outcome,
            body: &result.body,
            policies: self.policies,
            seen: self.seen.as_ref().map(|row| (row.fence, row.state)),
        };
        let mut transaction = transaction.with(self.prepared.as_ref());
        match store(core, &mut transaction, &ask).await.map_err(Refusal::unavailable)? {
            Stored::Done { at, is_wanted } => {
                // The statement holds the tables now: until the transaction ends, no copy renames them.
                if self.keeps_snapshot && !is_of_store(core).await.map_err(Core::refusal)? {
                    return Err(Refusal::unavailable(elsewhere()).into());
                }
                let record = result.record(attempt, at);
                Ok(UncommittedRecord { claim: self, record, is_wanted })
            }
            Stored::Not { is_of_this_store: false, .. } => Err(Refusal::unavailable(elsewhere()).into()),
            Stored::Not { policies, .. } if policies != self.policies => {
                let message = "the policy of a scope was set meanwhile: roll back, and begin again";
                Err(Refusal::unavailable(StoreFailure::new(FailureKind::Locked, message)).into())
            }
            Stored::Not { .. } => Err(why_not(core, attempt, ask.seen).await),
        }
    }
}

async fn why_not(core: &Core, attempt: &Attempt, seen: Option<(Fence, RowState)>) -> ClaimError {
    let digest = attempt.digest;
    match core.ask(LookAsk { digest }, core.deadline()).await {
        // It is as it was, so a transaction had it.
        Ok(Looked { row: Some(row), .. }) if seen == Some((row.fence, row.state)) => {
            Refusal::unavailable(StoreFailure::locked()).into()
        }
        Ok(looked) => {
            let status = |row: KeyRow| row.status(digest, looked.now, &core.budget);
            core.superseded(attempt, looked.row.map_or(Status::Vacant, status))
        }
        Err(miss) => Core::refusal(miss).into(),
    }
}

impl UncommittedRecord {
    /// The record, after the transaction was committed. If the commit failed and its outcome is
    /// unknown, begin again: the answer tells.
    #[must_use]
    pub fn committed(self) -> Record {
        let Self { claim, record, is_wanted } = self;
        let core = &*claim.handle.0;
        core.note_grant(&claim.attempt, false, claim.watch.as_ref());
        core.note_result(&claim.attempt, &record);
        if is_wanted {
            listener::tell(&claim.handle.0, claim.attempt.digest);
        }
        record
    }
}

/// In short.
impl std::fmt::Debug for ClaimInTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimInTx")
            .field("key", &self.attempt.digest.key_hash())
            .field("attempt", &self.attempt.number)
            .field("fence", &self.attempt.fence.get())
            .finish_non_exhaustive()
    }
}

/// In short.
impl std::fmt::Debug for UncommittedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UncommittedRecord").field("record", &self.record).finish_non_exhaustive()
    }
}
