//! Grants: put a new claim into the index and its intent into the queue.

use super::lookup::Lookup;
use super::pending_grant::PendingGrant;
use crate::attempt::{Attempt, AttemptParts};
use crate::clock::QueueTimeout;
use crate::engine::common::namespace::KeyRef;
use crate::engine::common::policies::SeenPolicy;
use crate::engine::core::Core;
use crate::engine::file::claim::{FileClaim, Terms};
use crate::engine::file::handle::FileHandle;
use crate::engine::file::permit::Permit;
use crate::error::BeginError;
use crate::index::{Change, Slot};
use crate::policy::{Durability, Policy};
use crate::record::RecordLocation;
use crate::state::{Decision, Event, Fence, Phase, State, decide};
use crate::sync::Arc;
use crate::task::caller::Caller;
use crate::{Fingerprint, Timestamp};

/// Why a claim is wanted.
#[derive(Clone, Copy)]
pub(super) enum GrantKind<'a> {
    /// To run the operation.
    Begin(&'a Fingerprint),
    /// To report its outcome; only if the key was interrupted by the attempt with this fence, if one
    /// is given.
    Resolve(Option<Fence>),
}

impl<'a> GrantKind<'a> {
    pub(super) fn event(self, now: Timestamp, policy: &Policy) -> Event<'a> {
        match self {
            Self::Begin(fingerprint) => {
                Event::Begin { fingerprint, now, attempts_max: policy.attempts_max() }
            }
            Self::Resolve(_) => Event::Resolve { now },
        }
    }

    /// Whether another interruption than this one is to be resolved. An interruption is named by
    /// the fence that callers are shown, which is not that of a later attempt that left it standing.
    pub(super) fn is_for_another(self, interrupted: &Attempt) -> bool {
        match self {
            Self::Resolve(Some(only)) => interrupted.as_earlier().info.fence != only,
            Self::Resolve(None) | Self::Begin(_) => false,
        }
    }
}

/// The state on which a grant is decided, as it was read.
pub(super) struct Seen {
    pub(super) policy: SeenPolicy,
    /// The location of an expired record.
    pub(super) expired: Option<RecordLocation>,
}

impl Core {
    /// Grants a claim, and queues its intent if the policy logs intents. `None` if the key's
    /// state, or its policy, changed meanwhile.
    pub(super) async fn grant(
        &self,
        caller: Caller,
        handle: &Arc<FileHandle>,
        asked: &KeyRef<'_>,
        seen: &Seen,
        wish: GrantKind<'_>,
        queue_timeout: &mut QueueTimeout,
    ) -> Result<Option<PendingGrant>, BeginError> {
        // A child made past the C library is found out by its process alone, and before a lock
        // that it may have inherited.
        self.health.check_process().map_err(BeginError::Failed)?;
        self.health.may_grant()?;
        self.check_blocking(caller)?;
        if let GrantKind::Begin(_) = wish {
            asked.scope.check_granted(asked.key)?;
        }
        let permit = Permit::take(
            caller,
            handle,
            asked.scope.name(),
            &seen.policy.policy,
            self.claim_needs(asked),
            queue_timeout,
        )
        .await?;
        let mut held = None;
        let Some(mut granting) = self.put(asked, permit, seen, wish, &mut held)? else {
            return Box::pin(self.grant_again(caller, asked, held, wish, queue_timeout)).await;
        };
        if granting.log(self, caller, queue_timeout).await? {
            return Ok(Some(granting));
        }
        drop(granting);
        Box::pin(self.look_again(caller, queue_timeout)).await?;
        Ok(None)
    }

    /// Looks again, and grants under a permit that the call has already, so that it does not wait
    /// in line again. `None` if there is nothing to grant now, or if the grant was withdrawn.
    async fn grant_again(
        &self,
        caller: Caller,
        asked: &KeyRef<'_>,
        mut held: Option<Box<Permit>>,
        wish: GrantKind<'_>,
        queue_timeout: &mut QueueTimeout,
    ) -> Result<Option<PendingGrant>, BeginError> {
        while let Some(permit) = held.take() {
            let Some((decision, found, seen)) = self.look(caller, asked, wish).await? else {
                held = Some(permit);
                continue;
            };
            match (decision, found) {
                (Decision::Grant { .. }, Lookup::Slot(Slot::Interrupted(attempt)))
                    if wish.is_for_another(&attempt) => {}
                (Decision::Grant { .. }, _) => {
                    let permit = permit.under(asked.scope.name(), &seen.policy.policy)?;
                    let Some(mut granting) = self.put(asked, permit, &seen, wish, &mut held)? else {
                        continue;
                    };
                    if granting.log(self, caller, queue_timeout).await? {
                        return Ok(Some(granting));
                    }
                    drop(granting);
                    self.look_again(caller, queue_timeout).await?;
                }
                (Decision::Become(Phase::Interrupted), Lookup::Slot(Slot::InFlight(attempt))) => {
                    self.lapse(&attempt)?;
                    held = Some(permit);
                }
                (_, _) => {}
            }
        }
        Ok(None)
    }

    /// Puts a new claim into the index. `None` if the key's state, or its policy, changed
    /// meanwhile; then `held` gets the permit.
    fn put(
        &self,
        asked: &KeyRef<'_>,
        mut permit: Permit,
        seen: &Seen,
        wish: GrantKind<'_>,
        held: &mut Option<Box<Permit>>,
    ) -> Result<Option<PendingGrant>, BeginError> {
        let policy = &seen.policy.policy;
        let undelivered_bytes = self.claim_needs(asked).ending;
        let placed = self.index.change(asked.digest, |slot| {
            // An interruption that arose under a later policy is not to be decided by this one.
            if !self.policies.is_current(asked.scope.name(), &seen.policy) {
                return (Change::Keep, None);
            }
            let now = self.clock.now();
            let state = match slot {
                Slot::Stored { place, .. } if Some(*place) == seen.expired => State::Vacant,
                // Another record than the one that was found expired.
                Slot::Stored { .. } => return (Change::Keep, None),
                Slot::Vacant
                | Slot::InFlight(_)
                | Slot::Ending(_)
                | Slot::Interrupted(_)
                | Slot::Cached(..) => slot.state(self.index.epoch()),
            };
            let Decision::Grant { attempt: number } = decide(state, wish.event(now, policy)) else {
                return (Change::Keep, None);
            };
            // Another attempt was lost since the caller looked.
            if slot.attempt().is_some_and(|attempt| wish.is_for_another(attempt)) {
                return (Change::Keep, None);
            }
            // Drawn here and not before: a key's fences must grow in the order in which its claims
            // are granted.
            let fence = match self.next_fence() {
                Ok(fence) => fence,
                Err(busy) => return (Change::Keep, Some(Err(busy))),
            };
            let earlier = slot.attempt().filter(|_| number > 1);
            let fingerprint = match (wish, earlier) {
                (GrantKind::Begin(fingerprint), _) => *fingerprint,
                (GrantKind::Resolve(_), Some(earlier)) => earlier.fingerprint,
                (GrantKind::Resolve(_), None) => unreachable!("only an interrupted key is resolved"),
            };
            let attempt = Attempt::new(AttemptParts {
                digest: asked.digest,
                scope: asked.scope.name(),
                key: asked.key,
                fence,
                number,
                fingerprint,
                started: now,
                retention: policy.retention(),
                lease: policy.lease,
                unresolved_ttl: policy.unresolved_ttl,
                earlier: earlier.map(|attempt| attempt.as_earlier()),
                progress: earlier.and_then(|attempt| attempt.progress()),
                replaced: earlier.map(|attempt| attempt.as_replaced()),
                undelivered_bytes,
            });
            let attempt = Arc::new(attempt.keeping(std::mem::take(&mut permit.quota().place)));
            (Change::Set(Slot::InFlight(Arc::clone(&attempt))), Some(Ok((attempt, slot.clone()))))
        });
        let no_fence = |_: &BeginError| self.worker.notify();
        let Some((attempt, before)) = placed.transpose().inspect_err(no_fence)? else {
            *held = Some(Box::new(permit));
            return Ok(None);
        };
        // Until the claim arrives, the attempt has its log space and its place, for the thread that
        // takes them from there.
        permit.reservation().lend(undelivered_bytes);
        if let Err(shut) = self.health.check() {
            // Closing may have passed this shard before the claim was there, and would never tell
            // its waiters.
            self.withdraw_unlogged(&attempt, before, permit.reservation(), Some(&shut.into()));
            return Err(shut.into());
        }
        // An interruption that is no longer remembered may still be in the file: after a crash it
        // would come back in this one's place, with what was noted then.
        let starts_anew = attempt.earlier.is_none() && matches!(before, Slot::Interrupted(_));
        // So would one that was handed over as a token, which stands in the file until then.
        let stands_until = before.attempt().and_then(|earlier| earlier.detached_until());
        let stood = stands_until.is_some_and(|until| until > self.clock.now());
        let logged = policy.durability == Durability::Full || starts_anew || stood;
        let resolves = matches!(wish, GrantKind::Resolve(_));
        self.leases.watch(&attempt);
        let claim =
            FileClaim::new(attempt, permit, Terms { logged, resolves, durability: policy.durability });
        Ok(Some(PendingGrant::new(claim, before)))
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::*;
    use crate::engine::calls::lookup::tests::{claim, open};
    use crate::engine::handles::handle::Handle;
    use crate::task::caller::block;

    #[test]
    fn an_attempt_that_was_lost_between_the_look_and_the_grant_is_not_resolved() {
        let engine = open();
        let (core, scope) = (engine.handle.core(), &engine.default.inner);
        #[cfg(not(feature = "postgres"))]
        let Handle::File(handle) = &engine.handle;
        #[cfg(feature = "postgres")]
        let Handle::File(handle) = &engine.handle else { unreachable!("it is on a file") };
        let asked = &KeyRef { scope, key: b"key", digest: scope.digest(b"key").unwrap() };
        let first = claim(&engine, "key").fence();
        let wish = GrantKind::Resolve(Some(first));
        let looked = block(core.look(Caller::Thread, asked, wish)).unwrap();
        let Some((Decision::Grant { attempt: 2 }, _, seen)) = looked else { panic!("it is interrupted") };
        let second = engine.default_scope().resolve("key").unwrap().fence();
        let queue_timeout = &mut QueueTimeout::new(core.options.queue_timeout);
        let granted = block(core.grant(Caller::Thread, handle, asked, &seen, wish, queue_timeout)).unwrap();
        assert!(granted.is_none());
        assert_eq!(core.index.get(asked.digest).attempt().map(|lost| lost.fence), Some(second));
        assert_eq!(engine.stats().in_flight, 0);
    }
}
