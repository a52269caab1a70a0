//! A grant that is under way: its nonce, its repetitions, and what it becomes.

use super::core::Core;
use super::refusal::Refusal;
use super::row::KeyRow;
use super::statement::Miss;
use super::statements::begin::Terms;
use super::statements::end::{EndAsk, Standing};
use crate::attempt::interruption::Earlier;
use crate::attempt::progress::Progress;
use crate::attempt::{Attempt, AttemptParts};
use crate::clock::Deadline;
use crate::engine::common::namespace::ScopeInner;
use crate::error::{BeginError, FailureKind, KeyError, SharedError, StoreFailure};
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
    digest: Digest,
    pub(super) nonce: u128,
    /// The interruption that the key gets back.
    standing: Option<Standing>,
    is_sent: bool,
}

impl<'a> Granting<'a> {
    pub(super) fn new(core: &'a Core, digest: Digest, standing: Option<Standing>) -> Result<Self, Refusal> {
        Ok(Self { core, digest, nonce: nonce()?, standing, is_sent: false })
    }

    /// The statement is about to be sent.
    pub(super) fn sends(&mut self) {
        self.is_sent = true;
    }

    /// The statements that were sent certainly granted nothing, and will not.
    pub(super) fn granted_nothing(&mut self) {
        self.is_sent = false;
    }

    /// The claim reaches its caller.
    pub(super) fn arrives(mut self) -> u128 {
        self.is_sent = false;
        self.nonce
    }
}

impl Drop for Granting<'_> {
    fn drop(&mut self) {
        if !self.is_sent || self.core.is_forked() {
            return;
        }
        let end = EndAsk::withdraw(self.digest, self.nonce, self.standing);
        self.core.loose_ends.add(end, Some(self.core.last_statement()), None);
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
    /// A statement of the call may have happened.
    pub(super) unknown: Option<StoreFailure>,
}

impl Tries {
    pub(super) fn new(deadline: Deadline) -> Self {
        Self { deadline, left: TRIES, insists: false, unknown: None }
    }

    pub(super) fn insisting(deadline: Deadline) -> Self {
        Self { insists: true, ..Self::new(deadline) }
    }

    /// After a miss: whether to try again. An unknown outcome is found out by trying again; a
    /// statement that did nothing is tried again if that may help at once.
    pub(super) async fn again(&mut self, core: &Core, miss: Miss) -> Result<(), Refusal> {
        let is_over = self.deadline.has_passed();
        match miss {
            Miss::Unknown(failure) => {
                self.unknown = Some(failure.clone());
                if is_over || failure.kind() == FailureKind::Damaged {
                    return Err(SharedError::Unknown(failure).into());
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
        let pause = std::time::Duration::from_millis(5 << (TRIES - self.left));
        core.sleep(Deadline::after(pause)).await;
        Ok(())
    }

    fn refusal(&self, miss: Miss) -> Refusal {
        match &self.unknown {
            Some(failure) => SharedError::Unknown(failure.clone()).into(),
            None => Core::refusal(miss),
        }
    }

    /// Refuses another round once the time is up.
    pub(super) fn check(&self, core: &Core) -> Result<(), Refusal> {
        if !self.deadline.has_passed() {
            return Ok(());
        }
        Err(self.refusal(Miss::NotDone(core.failure())))
    }
}

/// What a claim is made of, besides its key.
pub(super) struct NewClaim {
    pub(super) fence: Fence,
    pub(super) number: u32,
    pub(super) fingerprint: Fingerprint,
    pub(super) started: Timestamp,
    pub(super) retention: Retention,
    pub(super) lease: Option<std::time::Duration>,
    pub(super) unresolved: Option<std::time::Duration>,
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

impl Core {
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
            self.session.renewed().get().await;
        }
        if policies != self.policies.version() {
            self.load_policies(deadline).await.map_err(Self::refusal)?;
        }
        Ok(())
    }
}
