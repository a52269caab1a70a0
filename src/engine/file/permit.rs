//! Permits: a claim's part of the engine's limits, given back by its drop.

use super::handle::FileHandle;
use crate::attempt::Attempt;
use crate::attempt::place::Place;
use crate::clock::{Deadline, QueueTimeout};
use crate::engine::core::Core;
use crate::engine::core::quota::Quota;
use crate::error::{BeginError, CommitError};
use crate::policy::Policy;
use crate::sync::Arc;
use crate::task::caller::Caller;
use crate::wal::Reservation;

/// Bytes of log that one claim needs.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Needs {
    pub(in crate::engine) intent: u64,
    pub(in crate::engine) ending: u64,
}

/// A claim's share. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(super) handle: Arc<FileHandle>,
    quota: Quota,
}

impl Core {
    pub(in crate::engine) fn give_back(&self, mut quota: Quota) {
        self.leave(&mut quota.place);
        drop(quota);
    }

    /// Gives back the place of a pending grant, unless another thread has taken it.
    pub(in crate::engine) fn leave_undelivered(&self, attempt: &Attempt) {
        self.leave(&mut attempt.take_place());
    }

    /// Gives a place among the claims in flight back.
    pub(in crate::engine) fn leave(&self, place: &mut Place) {
        let Place { is_counted, scope } = std::mem::take(place);
        if is_counted {
            self.limits.leave();
        }
        if let Some(scope) = scope {
            self.policies.leave(&scope);
        }
    }
}

impl Permit {
    pub(in crate::engine) async fn take(
        caller: Caller,
        handle: &Arc<FileHandle>,
        scope: &[u8],
        policy: &Policy,
        needs: Needs,
        queue_timeout: &mut QueueTimeout,
    ) -> Result<Self, BeginError> {
        let core = handle.core();
        let is_counted = core.policies.enter(scope, policy, || core.limits.enter())?;
        // The permit exists from here on, so that every way out gives it back.
        let place = Place { is_counted: true, scope: is_counted.then(|| scope.into()) };
        let mut permit = Self::of(Quota { reservation: Reservation::none(&core.space), place }, handle);
        permit.quota.reservation =
            core.reserve_patiently(caller, needs.intent + needs.ending, queue_timeout).await?;
        Ok(permit)
    }

    /// The same permit under another policy: the log space stays, and the claim counts against the
    /// limit that its scope has now.
    pub(in crate::engine) fn under(mut self, scope: &[u8], policy: &Policy) -> Result<Self, BeginError> {
        let was_counted = self.quota.place.scope.take().is_some();
        let is_counted = self.handle.core().policies.count_again(scope, policy, was_counted)?;
        self.quota.place.scope = is_counted.then(|| scope.into());
        Ok(self)
    }

    /// A permit for a share that was taken before.
    pub(in crate::engine) fn of(quota: Quota, handle: &Arc<FileHandle>) -> Self {
        Self { handle: Arc::clone(handle), quota }
    }

    /// Gives the claim's place among those in flight back. Its log space stays.
    pub(in crate::engine) fn leave(&mut self) {
        let Self { handle, quota } = self;
        handle.core().leave(&mut quota.place);
    }

    /// The claim's share.
    pub(in crate::engine) fn quota(&mut self) -> &mut Quota {
        &mut self.quota
    }

    /// Moves the share elsewhere.
    pub(in crate::engine) fn take_quota(&mut self) -> Quota {
        let nothing = Quota::none(&self.handle.core().space);
        std::mem::replace(&mut self.quota, nothing)
    }

    /// The log space of the claim.
    pub(in crate::engine) fn reservation(&mut self) -> &mut Reservation {
        &mut self.quota.reservation
    }

    /// Makes sure that at least `bytes` are reserved.
    pub(in crate::engine) async fn raise(
        &mut self,
        caller: Caller,
        bytes: u64,
        deadline: Option<Deadline>,
    ) -> Result<(), CommitError> {
        let more = self.lacks(bytes);
        if more > 0 {
            let more = self.handle.core().reserve_until(caller, more, deadline).await?;
            self.quota.reservation.join(more);
        }
        Ok(())
    }

    /// How many of `bytes` are not reserved.
    pub(in crate::engine) fn lacks(&self, bytes: u64) -> u64 {
        self.quota.reservation.lacks(bytes)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // A forked child has a copy.
        if !self.handle.core().health.is_forked() {
            self.leave();
        }
    }
}
