//! Begins: a call asks for a key, and is answered, told to wait, or granted a claim.

use super::grant::{GrantKind, Seen};
use super::lookup::Lookup;
use super::pending_grant::PendingGrant;
use crate::attempt::Attempt;
use crate::clock::QueueTimeout;
use crate::engine::common::namespace::{KeyRef, ScopeInner};
use crate::engine::core::Core;
use crate::engine::file::handle::FileHandle;
use crate::engine::handles::claim::{Begin, Claim};
use crate::engine::handles::handle::Handle;
use crate::engine::handles::pending::Pending;
use crate::error::{BeginError, Busy, ReadError, ResolveError};
use crate::index::Slot;
use crate::key::Digest;
use crate::record::Record;
use crate::record::tombstone::Tombstone;
use crate::state::{Decision, Phase};
use crate::sync::Arc;
use crate::task::caller::{Caller, block};
use crate::{Fence, Fingerprint};

/// How far a begin gets without waiting for the log.
pub(super) enum BeginProgress {
    Answered(Begin),
    /// A claim, once it has settled.
    PendingGrant(PendingGrant),
}

impl Core {
    #[inline]
    pub(in crate::engine) fn begin(
        &self,
        handle: &Arc<FileHandle>,
        scope: &ScopeInner,
        key: &[u8],
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        let digest = match scope.digest(key) {
            Ok(digest) => digest,
            Err(error) => return Err(self.refused(scope, key, error.into())),
        };
        match self.replay(digest, fingerprint) {
            Some(record) => Ok(Begin::Done(record)),
            None => self.begin_blocking(handle, &KeyRef { scope, key, digest }, fingerprint),
        }
    }

    /// A separate function, so that a replay has a small stack frame.
    #[cold]
    #[inline(never)]
    fn begin_blocking(
        &self,
        handle: &Arc<FileHandle>,
        asked: &KeyRef<'_>,
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        let begun = block(self.begin_to_the_end(Caller::Thread, handle, asked, fingerprint));
        begun.map_err(|error| self.refused(asked.scope, asked.key, error))
    }

    /// [`begin`](Self::begin) for callers of either kind.
    pub(in crate::engine) async fn begin_as(
        &self,
        caller: Caller,
        handle: &Arc<FileHandle>,
        scope: &ScopeInner,
        key: &[u8],
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        let digest = scope.digest(key).map_err(|error| self.refused(scope, key, error.into()))?;
        if let Some(record) = self.replay(digest, fingerprint) {
            return Ok(Begin::Done(record));
        }
        let asked = KeyRef { scope, key, digest };
        let begun = self.begin_to_the_end(caller, handle, &asked, fingerprint).await;
        begun.map_err(|error| self.refused(scope, key, error))
    }

    /// The hot path: a record in memory costs one lookup under the shard's lock, and no lock at
    /// all if this thread replayed the same key last. `None` says only that the call needs more.
    #[inline]
    fn replay(&self, digest: Digest, fingerprint: &Fingerprint) -> Option<Record> {
        if !self.health.is_open() {
            return None;
        }
        let answers = |record: &Record| record.is_replayed(fingerprint, self.clock.now());
        let record = self.index.replay(digest, answers)?;
        self.options.hooks.call(|observer| observer.replayed(&record));
        Some(record)
    }

    /// Begins; a refusal is not counted yet.
    pub(super) async fn begin_to_the_end(
        &self,
        caller: Caller,
        handle: &Arc<FileHandle>,
        asked: &KeyRef<'_>,
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        self.health.check()?;
        let watch = self.options.hooks.watch();
        let mut queue_timeout = QueueTimeout::new(self.options.queue_timeout);
        loop {
            let begun = self.start(caller, handle, asked, fingerprint, &mut queue_timeout).await?;
            let mut granting = match begun {
                BeginProgress::Answered(answer) => return Ok(answer),
                BeginProgress::PendingGrant(granting) => granting,
            };
            granting.settled(self, caller).await?;
            granting.tell(self, watch.as_ref());
            if let Some(claim) = granting.arrive(self)? {
                return Ok(Begin::Fresh(claim.into()));
            }
            drop(granting);
            Box::pin(self.look_again(caller, &mut queue_timeout)).await?;
        }
    }

    /// Waits until a withdrawn grant has left its key, so that its own caller does not find it in
    /// flight. The caller may then look up the key again while its timeout lasts.
    pub(super) async fn look_again(
        &self,
        caller: Caller,
        queue_timeout: &mut QueueTimeout,
    ) -> Result<(), BeginError> {
        self.health.check()?;
        self.commit.flush(caller).await?;
        if queue_timeout.until().has_passed() {
            return Err(BeginError::Busy(Busy::LeaseTooShort { waited: queue_timeout.span() }));
        }
        Ok(())
    }

    /// Counts a begin that was refused, and tells the observer.
    #[cold]
    pub(super) fn refused(&self, scope: &ScopeInner, key: &[u8], error: BeginError) -> BeginError {
        self.counters.count_refusal(&error);
        self.options.hooks.refused(scope, key, &error);
        error
    }

    /// Begins, up to the point after which only the log is left to wait for.
    pub(super) async fn start(
        &self,
        caller: Caller,
        handle: &Arc<FileHandle>,
        asked: &KeyRef<'_>,
        fingerprint: &Fingerprint,
        queue_timeout: &mut QueueTimeout,
    ) -> Result<BeginProgress, BeginError> {
        let wish = GrantKind::Begin(fingerprint);
        loop {
            let Some((decision, found, seen)) = self.look(caller, asked, wish).await? else { continue };
            match (decision, found) {
                (Decision::Grant { .. }, _) => {
                    let granting = self.grant(caller, handle, asked, &seen, wish, queue_timeout).await?;
                    if let Some(granting) = granting {
                        return Ok(BeginProgress::PendingGrant(granting));
                    }
                    // Somebody else was faster: look again.
                }
                (Decision::Replay, Lookup::Record(record)) => {
                    record.touch();
                    self.index.count_replayed(asked.digest);
                    self.options.hooks.call(|observer| observer.replayed(&record));
                    return Ok(BeginProgress::Answered(Begin::Done(record)));
                }
                (Decision::Expired, Lookup::Record(record)) => {
                    return Err(BeginError::Expired(Tombstone::of(&record)));
                }
                (Decision::Wait, Lookup::Slot(Slot::InFlight(attempt) | Slot::Ending(attempt))) => {
                    if let Some(failure) = self.commit.failure() {
                        return Err(BeginError::Failed(failure.clone()));
                    }
                    debug_assert!(
                        !self.is_given_up_in_place(&attempt),
                        "waiters would begin and wait without a pause"
                    );
                    self.count_waited(&attempt);
                    return Ok(BeginProgress::Answered(Begin::InFlight(Pending::new(
                        attempt,
                        Handle::File(Arc::clone(handle)),
                    ))));
                }
                (Decision::Become(Phase::Interrupted), Lookup::Slot(Slot::InFlight(attempt))) => {
                    self.lapse(&attempt)?;
                }
                (Decision::Reused, _) => {
                    return Err(BeginError::KeyReused);
                }
                (Decision::Unresolved, Lookup::Slot(Slot::Interrupted(attempt))) => {
                    return Err(BeginError::Unresolved(attempt.interruption()));
                }
                (
                    Decision::Replay
                    | Decision::Expired
                    | Decision::Wait
                    | Decision::Unresolved
                    | Decision::Superseded
                    | Decision::Busy
                    | Decision::Become(_)
                    | Decision::Stay,
                    _,
                ) => unreachable!("a begin is granted, waits, is replayed or refused"),
            }
        }
    }

    /// Counts a begin that found another's claim, and tells the observer.
    pub(super) fn count_waited(&self, attempt: &Attempt) {
        self.index.count_waited(attempt.digest);
        self.options.hooks.in_flight(attempt);
    }

    /// Whether waiters of this attempt were told to begin again, though its key still has it. An
    /// attempt must leave its key before it ends.
    fn is_given_up_in_place(&self, attempt: &Arc<Attempt>) -> bool {
        attempt.was_given_up()
            && self.index.get(attempt.digest).attempt_out().is_some_and(|out| Arc::ptr_eq(out, attempt))
    }

    /// Looks up a key, and decides. `None` if the answer changed meanwhile: look it up again.
    pub(super) async fn look(
        &self,
        caller: Caller,
        asked: &KeyRef<'_>,
        wish: GrantKind<'_>,
    ) -> Result<Option<(Decision, Lookup, Seen)>, ReadError> {
        let policy = self.policies.seen(asked.scope.name());
        let before = self.clock.now();
        let found = self.find(caller, asked, before).await?;
        let decided = self.decide_throughout(&found, before, |now| wish.event(now, &policy.policy));
        // The policy must have been in force when the key was found like this, if it matters.
        let decided = decided.filter(|decision| {
            !decision.depends_on_policy() || self.policies.is_current(asked.scope.name(), &policy)
        });
        let expired = match found {
            Lookup::Expired(place) => Some(place),
            Lookup::Record(_) | Lookup::Slot(_) => None,
        };
        Ok(decided.map(|decision| (decision, found, Seen { policy, expired })))
    }

    /// Grants a claim on an interrupted key, for a caller that knows the outcome. If the fence
    /// `only` is given, that of the attempt that was interrupted must be the same.
    pub(in crate::engine) async fn resolve_key(
        &self,
        caller: Caller,
        handle: &Arc<FileHandle>,
        scope: &ScopeInner,
        key: &[u8],
        only: Option<Fence>,
    ) -> Result<Claim, ResolveError> {
        let watch = self.options.hooks.watch();
        let digest = scope.digest(key).map_err(BeginError::Key)?;
        self.health.check().map_err(BeginError::from)?;
        let asked = &KeyRef { scope, key, digest };
        let mut queue_timeout = QueueTimeout::new(self.options.queue_timeout);
        let wish = GrantKind::Resolve(only);
        loop {
            let before = self.clock.now();
            let looked = self.look(caller, asked, wish).await.map_err(BeginError::from)?;
            let Some((decision, found, seen)) = looked else { continue };
            match (decision, found) {
                (Decision::Grant { .. }, Lookup::Slot(Slot::Interrupted(attempt)))
                    if wish.is_for_another(&attempt) =>
                {
                    return Err(ResolveError::AnotherAttempt(attempt.interruption()));
                }
                (Decision::Grant { .. }, _) => {
                    let granting = self.grant(caller, handle, asked, &seen, wish, &mut queue_timeout).await?;
                    let Some(mut granting) = granting else { continue };
                    granting.settled(self, caller).await.map_err(BeginError::from)?;
                    granting.tell(self, watch.as_ref());
                    if let Some(claim) = granting.arrive(self).map_err(BeginError::from)? {
                        return Ok(claim.into());
                    }
                    Box::pin(self.look_again(caller, &mut queue_timeout)).await?;
                }
                (Decision::Become(Phase::Interrupted), Lookup::Slot(Slot::InFlight(attempt))) => {
                    self.lapse(&attempt).map_err(BeginError::from)?;
                }
                (_, Lookup::Slot(slot)) if slot.has_no_claim() => {
                    self.flush(caller).await.map_err(BeginError::from)?;
                }
                (_, found) => {
                    if let Some(status) = self.status_of(found, before) {
                        return Err(ResolveError::NotInterrupted(Box::new(status)));
                    }
                }
            }
        }
    }
}
