//! Handing a claim over as a token, and resuming it.

use crate::attempt::HandOver;
use crate::codec::TokenRow;
use crate::engine::common::counters::Counters;
use crate::engine::common::namespace::ScopeInner;
use crate::engine::core::Core;
use crate::engine::core::detached_claims::DetachedClaim;
use crate::engine::core::log_record::{LogRecord, NotedClaim};
use crate::engine::file::claim::{FileClaim, Terms};
use crate::engine::file::handle::FileHandle;
use crate::engine::file::permit::Permit;
use crate::engine::handles::claim::Claim;
use crate::engine::handles::token::ClaimToken;
use crate::error::{BeginError, ClaimError, CommitError, EndError, TokenError};
use crate::index::Slot;
use crate::key::Digest;
use crate::state::{Event, Fence, Phase, decide};
use crate::sync::Arc;
use crate::task::caller::Caller;
use crate::wal::Reservation;

impl FileClaim {
    /// Hands the claim over as a token.
    pub(in crate::engine) async fn into_token(mut self, caller: Caller) -> Result<ClaimToken, EndError> {
        let attempt = Arc::clone(&self.attempt);
        let Some(lease) = attempt.lease else {
            return Err(EndError::new(ClaimError::NoLease, Some(self.into())));
        };
        let handle = self.handle();
        let core = handle.core();
        if let Err(forked) = core.health.check_process() {
            return Err(EndError::new(CommitError::Failed(forked).into(), Some(self.into())));
        }
        // The lease starts here, and not after the wait for room.
        let until = core.clock.now().saturating_add(lease);
        let hand_over = HandOver { until, opening: core.opening };
        let record = LogRecord::Detached(NotedClaim::Live(Arc::clone(&attempt)), Box::new(hand_over));
        match self.note(caller, record, |attempt, _now| attempt.detach(hand_over)).await {
            Ok(mut ticket) => {
                // Nobody holds the claim from here on.
                self.is_over = true;
                Counters::count(&core.counters.handed_over);
                let left =
                    DetachedClaim { quota: self.permit.take_quota(), durability: self.terms.durability };
                core.detach(&attempt, left);
                let settled = core.commit.settled(caller, &mut ticket).await;
                settled.map_err(|error| EndError::new(error.into(), None))?;
                Ok(core.token(&attempt))
            }
            Err(error) => {
                // The log is whole after a failed checkpoint, where there is only no room.
                let is_unknown = matches!(error, ClaimError::Commit(CommitError::Failed(_)))
                    && (core.commit.failure().is_some() || core.health.is_forked());
                self.is_over = is_unknown || matches!(error, ClaimError::Superseded(_));
                let claim = (!self.is_over).then(|| self.into());
                Err(EndError::new(error, claim))
            }
        }
    }
}

/// Why a claim was not resumed.
enum NotTaken {
    /// Another caller has it.
    Held,
    /// It is not the current one.
    Superseded,
}

impl Core {
    /// The claim of a token, if it is still good and no caller has it.
    pub(in crate::engine) async fn resume(
        &self,
        caller: Caller,
        handle: &Arc<FileHandle>,
        scope: &ScopeInner,
        token: &ClaimToken,
    ) -> Result<Claim, TokenError> {
        self.may_resume()?;
        let row = self.open_token(token)?;
        if row.scope != scope.name() {
            return Err(TokenError::OtherScope);
        }
        let (digest, fence) = (Digest::from_u128(row.digest), Fence::new(row.fence));
        // After a restart the claim has no log space yet. It is reserved before anything is
        // changed.
        let more = match self.index.get(digest) {
            Slot::InFlight(attempt) => self.detached.lacks(fence, self.ending_needs(&attempt)),
            Slot::Vacant
            | Slot::Ending(_)
            | Slot::Interrupted(_)
            | Slot::Cached(..)
            | Slot::Stored { .. } => 0,
        };
        let more = self.reserve_for_claim(caller, more).await.map_err(BeginError::from)?;
        // Again, for the wait may have been long.
        self.may_resume()?;
        match self.take_up(handle, &row, more) {
            Ok(claim) => Ok(claim.into()),
            Err(NotTaken::Held) => Err(TokenError::Held),
            Err(NotTaken::Superseded) => {
                Err(TokenError::Superseded(Box::new(self.became(caller, digest).await)))
            }
        }
    }

    /// Whether claims may be resumed: after a failed commit their ends could not be written.
    fn may_resume(&self) -> Result<(), BeginError> {
        self.health.check()?;
        match self.commit.failure() {
            Some(failure) => Err(BeginError::Failed(failure.clone())),
            None => Ok(()),
        }
    }

    fn take_up(
        &self,
        handle: &Arc<FileHandle>,
        row: &TokenRow<'_>,
        more: Reservation,
    ) -> Result<FileClaim, NotTaken> {
        let (digest, fence) = (Digest::from_u128(row.digest), Fence::new(row.fence));
        let now = self.clock.now();
        // A claim is used; in the index nothing changes by that.
        let current = self.index.get(digest);
        let usable = decide(current.state(self.index.epoch()), Event::Use { fence, now }).becomes();
        let (Some(Phase::InFlight), Slot::InFlight(attempt)) = (usable, &current) else {
            return Err(NotTaken::Superseded);
        };
        // A backup that was put back may have granted this fence anew, to somebody else.
        if attempt.detached().is_none_or(|hand_over| hand_over.opening != row.opening) {
            return Err(NotTaken::Superseded);
        }
        // Only one of all callers finds the share there.
        let Some(DetachedClaim { mut quota, durability }) = self.detached.take(fence) else {
            // Or nobody, where its lease was found ended meanwhile.
            return Err(if self.is_good(attempt) { NotTaken::Held } else { NotTaken::Superseded });
        };
        quota.reservation.join(more);
        let terms = Terms { logged: true, resolves: false, durability };
        Ok(FileClaim::new(Arc::clone(attempt), Permit::of(quota, handle), terms))
    }
}
