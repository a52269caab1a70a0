//! Claims that were handed over as tokens: their places among the claims in flight, and their log
//! space.

use std::collections::HashMap;

use super::quota::Quota;
use crate::attempt::Attempt;
use crate::engine::common::policies::Policies;
use crate::policy::Durability;
use crate::state::Fence;
use crate::sync::{Arc, Mutex};
use crate::wal::LogSpace;

/// The part of a claim that stays behind when it is handed over.
#[derive(Debug)]
pub(crate) struct DetachedClaim {
    pub(in crate::engine) quota: Quota,
    /// Whether its end is durable before it is acknowledged, by the policy of its grant. A later
    /// policy does not change that.
    pub(in crate::engine) durability: Durability,
}

impl DetachedClaim {
    /// For a claim that was handed over before the file was opened. The policy of its grant is
    /// not on disk, so its end is durable before it is acknowledged.
    pub(in crate::engine) fn of_standing(
        attempt: &Attempt,
        policies: &Policies,
        space: &Arc<LogSpace>,
    ) -> Self {
        Self { quota: Quota::of_standing(attempt, policies, space), durability: Durability::Completions }
    }
}

#[derive(Debug, Default)]
pub(crate) struct DetachedClaims {
    /// Leaf lock.
    left: Mutex<HashMap<Fence, DetachedClaim>>,
}

impl DetachedClaims {
    pub(in crate::engine) fn put(&self, fence: Fence, left: DetachedClaim) {
        // What this drops gives room back, and wakes callers: not under the lock.
        let before = self.left.lock().insert(fence, left);
        debug_assert!(before.is_none(), "a claim is handed over by the one that has it");
    }

    pub(in crate::engine) fn take(&self, fence: Fence) -> Option<DetachedClaim> {
        self.left.lock().remove(&fence)
    }

    /// How many of `bytes` the claim has not reserved.
    pub(in crate::engine) fn lacks(&self, fence: Fence, bytes: u64) -> u64 {
        self.left.lock().get(&fence).map_or(0, |left| left.quota.reservation.lacks(bytes))
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::time::Duration;

    use crate::Begin;
    use crate::Engine;
    use crate::Fingerprint;
    use crate::TokenError;
    use crate::sim::ManualClock;
    use crate::sim::SimDisk;

    const LEASE: Duration = Duration::from_secs(10);

    /// The lease ends, and a thread finds that, after the hand-over was queued and before the
    /// quota is stored here.
    #[test]
    fn a_claim_whose_lease_ends_while_it_is_handed_over_leaves_nothing_counted() {
        for ends in [false, true] {
            let clock = ManualClock::at_millis(1_000);
            let options = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped();
            let engine = options.open("x.idem").unwrap();
            let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE).max_in_flight(1)).unwrap();
            let Ok(Begin::Fresh(claim)) = jobs.begin("key", Fingerprint::of("")) else { panic!("it is new") };
            let token = claim.into_token().unwrap();
            let core = engine.handle.core();
            let digest = jobs.inner.digest(b"key").unwrap();
            let attempt = core.index.get(digest).attempt().cloned().unwrap();
            let left = core.detached.take(attempt.fence).unwrap();
            if ends {
                clock.advance(LEASE);
                engine.step();
            }
            core.detach(&attempt, left);
            assert_eq!(engine.stats().in_flight, usize::from(!ends));
            match jobs.resume(&token) {
                Ok(claim) => assert!(!ends && claim.complete("reply").is_ok()),
                Err(TokenError::Superseded(_)) => assert!(ends),
                Err(other) => panic!("{other}"),
            }
            assert!(matches!(jobs.begin("other", Fingerprint::of("")), Ok(Begin::Fresh(_))));
        }
    }
}
