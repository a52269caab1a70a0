//! A grant that is under way: its nonce, its repetitions, and what it becomes.

use std::time::Duration;

use super::core::Core;
use super::refusal::Refusal;
use super::row::{KeyRow, RowState};
use super::statement::Miss;
use super::statements::begin::{BeginAsk, Begun, Terms};
use super::statements::end::{EndAsk, GentleEnd, Standing};
use super::statements::grant::{GrantAsk, Granted};
use super::statements::limited::{LimitedBegin, LimitedGrant};
use crate::attempt::interruption::Earlier;
use crate::attempt::progress::Progress;
use crate::attempt::{Attempt, AttemptParts};
use crate::clock::{Deadline, Stopwatch};
use crate::engine::common::namespace::ScopeInner;
use crate::engine::handles::claim::Begin;
use crate::error::{BeginError, Busy, FailureKind, KeyError, SharedError, StoreFailure};
use crate::key::Digest;
use crate::record::retention::Retention;
use crate::state::Fence;
use crate::sync::Arc;
use crate::{Fingerprint, Timestamp};

/// A key that a call is about.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) scope: Arc<[u8]>,
    pub(super) key: Arc<[u8]>,
    pub(super) digest: Digest,
}

impl Asked {
    /// Any key that a scope can have.
    pub(super) fn of(scope: &ScopeInner, key: &[u8]) -> Result<Self, KeyError> {
        Ok(Self { scope: scope.shared_name(), key: key.into(), digest: scope.digest(key)? })
    }

    /// A key that can be granted a claim.
    pub(super) fn to_grant(scope: &ScopeInner, key: &[u8]) -> Result<Self, KeyError> {
        let asked = Self::of(scope, key)?;
        scope.check_granted(key)?;
        Ok(asked)
    }
}

/// A number that only this call knows. A row with it was granted by this call, even if the answer
/// got lost.
pub(super) fn nonce() -> Result<u128, Refusal> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        let message = format!("the system gave no random bytes: {error}");
        Refusal::unavailable(StoreFailure::new(FailureKind::Options, message))
    })?;
    Ok(u128::from_be_bytes(bytes))
}

/// A grant that may have happened. If it does not reach its caller, it is withdrawn.
pub(super) struct Granting<'a> {
    core: &'a Core,
    asked: Asked,
    pub(super) nonce: u128,
    how: How,
    is_sent: bool,
    /// The session that it was sent for. Once it was sent for two, the row may have either.
    session: Option<i64>,
    is_of_two_sessions: bool,
    /// Since before the last statement about it was sent.
    sent: Stopwatch,
    /// What the memory of this process had lost before.
    losses: u64,
}

/// What the grant does to the key.
#[derive(Clone, Copy)]
pub(super) enum How {
    /// Inserts its row.
    Inserts,
    /// Changes its row. The key gets back the interruption that it had.
    Changes(Option<Standing>),
}

impl<'a> Granting<'a> {
    pub(super) fn new(core: &'a Core, asked: &Asked, how: How) -> Result<Self, Refusal> {
        // While the store is away each grant can leave a withdrawal.
        let max = core.options.max_queued;
        if core.loose_ends.len() >= max {
            return Err(SharedError::Busy { max }.into());
        }
        Ok(Self {
            core,
            asked: asked.clone(),
            nonce: nonce()?,
            how,
            is_sent: false,
            session: None,
            is_of_two_sessions: false,
            sent: Stopwatch::start(),
            losses: core.cache.losses(),
        })
    }

    /// The statement is about to be sent.
    pub(super) fn sends(&mut self, session: i64) {
        self.is_sent = true;
        self.is_of_two_sessions |= self.session.is_some_and(|before| before != session);
        self.session = Some(session);
        self.sent = Stopwatch::start();
        self.losses = self.core.cache.losses();
    }

    /// Keeps the record of the row that the statement has read, unless it is being forgotten.
    pub(super) fn keeps(&self, answer: &Begin, row: &KeyRow) {
        if let Begin::Done(record) = answer
            && !row.is_leaving
        {
            self.core.cache.keep(record, self.losses);
        }
    }

    /// The session that the row has, if only one can be.
    pub(super) fn session(&self) -> Option<i64> {
        self.session.filter(|_| !self.is_of_two_sessions)
    }

    /// Its row is about to be read.
    pub(super) fn looks(&mut self) {
        self.sent = Stopwatch::start();
    }

    /// The statements that were sent certainly granted nothing, and will not.
    pub(super) fn granted_nothing(&mut self) {
        self.is_sent = false;
    }

    /// Whether this grant made the row what it is. Others may have found it over since.
    pub(super) fn is_of(&self, row: &KeyRow) -> bool {
        row.nonce == self.nonce && matches!(row.state, RowState::InFlight | RowState::Interrupted)
    }

    /// Whether the claim that was granted is still good. Its time counts from before the request.
    pub(super) fn is_good(&self, stands: Stands) -> bool {
        stands.has_lease(&self.sent)
            && (!stands.by_session
                || !self.is_of_two_sessions
                    && self.session.is_some_and(|session| self.core.session.lives(session)))
    }

    /// Withdraws what was granted, for another try.
    pub(super) async fn start_again(&mut self, deadline: Deadline) -> Result<(), Refusal> {
        let next = Self::new(self.core, &self.asked, self.how)?;
        self.withdraw(deadline).await;
        drop(std::mem::replace(self, next));
        Ok(())
    }

    /// Withdraws what was granted. If the store does not say that it did, that is left for a drop.
    pub(super) async fn withdraw(&mut self, deadline: Deadline) {
        let withdrawn = self.core.ask(GentleEnd(self.withdrawal()), deadline).await;
        if withdrawn.is_ok_and(|ended| ended.is_done) {
            self.granted_nothing();
        }
    }

    fn withdrawal(&self) -> EndAsk {
        let standing = match self.how {
            How::Inserts => None,
            How::Changes(standing) => standing,
        };
        EndAsk::withdraw(self.asked.digest, self.nonce, standing, self.core.vacated_ms())
    }

    /// The claim reaches its caller, unless the engine was closed meanwhile.
    pub(super) fn arrives(&mut self) -> Result<u128, Refusal> {
        self.core.check()?;
        self.is_sent = false;
        Ok(self.nonce)
    }
}

impl Drop for Granting<'_> {
    fn drop(&mut self) {
        if !self.is_sent || self.core.is_forked() {
            return;
        }
        let names = match self.how {
            How::Inserts => Some((Arc::clone(&self.asked.scope), Arc::clone(&self.asked.key))),
            How::Changes(_) => None,
        };
        self.core.loose_ends.withdraw(self.withdrawal(), self.core.last_statement(), names);
    }
}

/// How long a claim stands, from before the statement that said so was sent.
#[derive(Clone, Copy)]
pub(super) struct Stands {
    lease: Option<Duration>,
    /// It also ends with its session.
    by_session: bool,
}

impl Stands {
    /// Whether its lease lasts by now. What was said of it was asked for at `since`.
    pub(super) fn has_lease(self, since: &Stopwatch) -> bool {
        self.lease.is_none_or(|lease| since.elapsed() < lease)
    }

    /// A claim that was granted.
    pub(super) fn granted(terms: &Terms) -> Self {
        let lease = terms.policy.get_lease();
        Self { lease, by_session: lease.is_none() }
    }

    /// A claim that was found.
    pub(super) fn found(row: &KeyRow, now: Timestamp) -> Self {
        let until = if row.state == RowState::InFlight { row.lease } else { Timestamp::default() };
        let left = Duration::from_millis(until.as_millis().saturating_sub(now.as_millis()));
        Self { lease: Some(left), by_session: row.lease_for.is_none() }
    }
}

/// How often a statement is tried that did nothing.
const TRIES: u32 = 6;

/// The repetitions of one call.
pub(super) struct Tries {
    deadline: Deadline,
    left: u32,
    /// Until the deadline it is tried again while the store is away, or has too many calls.
    insists: bool,
    /// Rounds so far that found nothing to be done.
    rounds: u32,
    /// The row as it was when the statement did nothing with it.
    refused: Option<(Fence, RowState)>,
    /// A statement of the call may have happened.
    pub(super) unknown: Option<StoreFailure>,
}

impl Tries {
    pub(super) fn new(deadline: Deadline) -> Self {
        Self { deadline, left: TRIES, insists: false, rounds: 0, refused: None, unknown: None }
    }

    pub(super) fn insisting(deadline: Deadline) -> Self {
        Self { insists: true, ..Self::new(deadline) }
    }

    /// After a miss: whether to try again. An unknown outcome is found out by trying again, and
    /// what was not read is read again; a statement that did nothing is tried again if that may
    /// help at once.
    pub(super) async fn again(&mut self, core: &Core, miss: Miss) -> Result<(), Refusal> {
        let is_over = self.deadline.has_passed();
        match miss {
            Miss::Unknown(failure) => {
                self.unknown = Some(failure.clone());
                if is_over || failure.kind() == FailureKind::Damaged {
                    return Err(SharedError::Unknown(failure).into());
                }
            }
            Miss::Unread(failure) => {
                if is_over || failure.kind() == FailureKind::Damaged {
                    return Err(self.refusal(Miss::Unread(failure)));
                }
            }
            Miss::NotDone(failure) => {
                self.left = self.left.saturating_sub(1);
                let is_tried = failure.is_passing() && self.left > 0;
                if is_over || !(is_tried || self.insists && failure.is_of_an_absence()) {
                    return Err(self.refusal(Miss::NotDone(failure)));
                }
            }
            Miss::Busy(_) if self.insists && !is_over => self.left = self.left.saturating_sub(1),
            Miss::Busy(_) | Miss::Closed => return Err(self.refusal(miss)),
        }
        let pause = Duration::from_millis(5 << (TRIES - self.left));
        core.sleep(Deadline::after(pause)).await;
        Ok(())
    }

    fn refusal(&self, miss: Miss) -> Refusal {
        match &self.unknown {
            Some(failure) => SharedError::Unknown(failure.clone()).into(),
            None => Core::refusal(miss),
        }
    }

    /// The same after a statement that did nothing with the row that the call decided on. If the row
    /// is as it was, a transaction has it.
    pub(super) async fn round_of(&mut self, core: &Core, row: &KeyRow) -> Result<(), Refusal> {
        let seen = Some((row.fence, row.state));
        if std::mem::replace(&mut self.refused, seen) == seen {
            return self.round_of_locked(core).await;
        }
        self.round(core).await
    }

    /// The same before one for a row that a transaction has.
    pub(super) async fn round_of_locked(&mut self, core: &Core) -> Result<(), Refusal> {
        if self.deadline.has_passed() {
            return Err(self.refusal(Miss::NotDone(StoreFailure::held())));
        }
        self.round(core).await
    }

    /// Before another round: refused once the time is up. The first comes at once, for it mostly
    /// finds what a twin has done.
    pub(super) async fn round(&mut self, core: &Core) -> Result<(), Refusal> {
        if self.deadline.has_passed() {
            return Err(self.refusal(Miss::NotDone(core.failure())));
        }
        if self.rounds > 0 {
            let pause = Duration::from_millis(5 << (self.rounds - 1).min(5));
            core.sleep(Deadline::after(pause)).await;
        }
        self.pauses();
        Ok(())
    }

    /// The next round does not come at once.
    pub(super) fn pauses(&mut self) {
        self.rounds = self.rounds.saturating_add(1);
    }
}

/// What a claim is made of, besides its key.
pub(super) struct NewClaim {
    pub(super) fence: Fence,
    pub(super) number: u32,
    pub(super) fingerprint: Fingerprint,
    pub(super) started: Timestamp,
    pub(super) retention: Retention,
    pub(super) lease: Option<Duration>,
    pub(super) unresolved: Option<Duration>,
    pub(super) earlier: Option<Earlier>,
    pub(super) progress: Option<Progress>,
}

impl NewClaim {
    pub(super) fn granted(terms: &Terms, fingerprint: Fingerprint, fence: Fence, started: Timestamp) -> Self {
        Self {
            fence,
            number: 1,
            fingerprint,
            started,
            retention: terms.policy.retention(),
            lease: terms.policy.get_lease(),
            unresolved: terms.policy.get_unresolved_ttl(),
            earlier: None,
            progress: None,
        }
    }

    /// Of a row that was found to be this caller's, or that of another.
    pub(super) fn found(row: &KeyRow, core: &Core) -> Self {
        Self {
            fence: row.fence,
            number: row.attempt,
            fingerprint: row.fingerprint,
            started: row.started,
            retention: row.retention,
            lease: row.lease_for,
            unresolved: row.unresolved,
            earlier: row.stands_on(),
            progress: row.progress.as_deref().map(|bytes| Progress::new(bytes, &core.budget)),
        }
    }

    pub(super) fn attempt(self, asked: &Asked) -> Attempt {
        Attempt::new(AttemptParts {
            digest: asked.digest,
            scope: &asked.scope,
            key: &asked.key,
            fence: self.fence,
            number: self.number,
            fingerprint: self.fingerprint,
            started: self.started,
            retention: self.retention,
            lease: self.lease,
            unresolved_ttl: self.unresolved,
            earlier: self.earlier,
            progress: self.progress,
            replaced: None,
            undelivered_bytes: 0,
        })
    }
}

/// A begin without an answer granted nothing: what may have been granted is withdrawn.
pub(super) fn not_granted(error: BeginError) -> BeginError {
    if let BeginError::Shared(SharedError::Unknown(failure)) = error {
        return SharedError::Unavailable(failure).into();
    }
    error
}

/// As many claims of the scope are in flight as its policy allows.
pub(super) fn full(terms: &Terms) -> BeginError {
    let max = terms.policy.get_max_in_flight().unwrap_or_default();
    BeginError::Busy(Busy::TooManyClaims { max: usize::try_from(max).unwrap_or(usize::MAX) })
}

impl Core {
    /// Begins in the way of the scope: with a place, if it limits its claims.
    pub(super) async fn ask_begin(&self, ask: BeginAsk, deadline: Deadline) -> Result<Begun, Miss> {
        match ask.terms.most() {
            None => self.ask(ask, deadline).await,
            Some(_) => self.ask(LimitedBegin(ask), deadline).await,
        }
    }

    /// The same of a grant.
    pub(super) async fn ask_grant(&self, ask: GrantAsk, deadline: Deadline) -> Result<Granted, Miss> {
        match ask.terms.most() {
            None => self.ask(ask, deadline).await,
            Some(_) => self.ask(LimitedGrant(ask), deadline).await,
        }
    }

    /// On what terms a claim on a key of this scope is granted now.
    pub(super) async fn terms(&self, scope: &[u8], deadline: Deadline) -> Result<Terms, Refusal> {
        let session = self.session(deadline).await?;
        let (policy, policies) = self.policies.of(scope);
        Ok(Terms { session, policy, policies })
    }

    /// Renews what the store found out of date.
    pub(super) async fn catch_up(
        &self,
        is_alive: bool,
        policies: i64,
        deadline: Deadline,
    ) -> Result<(), Refusal> {
        if !is_alive {
            // The answer has no version.
            self.renewed(deadline).await;
            return Ok(());
        }
        if policies != self.policies.version() {
            self.catch_up_with_policies(deadline).await.map_err(Self::refusal)?;
        }
        Ok(())
    }
}
