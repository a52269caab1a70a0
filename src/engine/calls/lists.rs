//! Lists of keys without an outcome, from the index. They read nothing from disk.

use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::lookup::interrupted_in_place;
use crate::Timestamp;
use crate::attempt::Attempt;
use crate::attempt::interruption::Earlier;
use crate::engine::core::Core;
use crate::engine::handles::lists::{ListPosition, ListRequest, OpenKey, OpenState};
use crate::error::ReadError;
use crate::index::Slot;
use crate::sync::Arc;

impl Core {
    /// The list, oldest first. It takes memory only for its entries, and holds a shard's lock for
    /// some cells at a time.
    pub(in crate::engine) fn list(&self, request: &ListRequest) -> Result<Vec<OpenKey>, ReadError> {
        self.health.check()?;
        // A claim is judged by the time before the look; see `Core::status_of`.
        let before = self.clock.now();
        let mut oldest = BinaryHeap::new();
        self.index.for_each_open(|slot| {
            let candidate = Candidate::of(slot, before).filter(|candidate| candidate.is_wanted(request));
            // The heap has the newest of the oldest on top.
            let fits = |top: Option<&Candidate>, candidate: &Candidate| top.is_none_or(|top| candidate < top);
            let Some(candidate) = candidate else { return };
            if oldest.len() < request.limit {
                oldest.push(candidate);
            } else if request.limit > 0 && fits(oldest.peek(), &candidate) {
                drop(oldest.pop());
                oldest.push(candidate);
            }
        });
        Ok(oldest.into_sorted_vec().into_iter().map(Candidate::into_key).collect())
    }

    /// The interruptions that are still remembered; none once the engine is closed.
    pub(super) fn interruptions(&self) -> Interruptions {
        let mut all = Interruptions::default();
        if self.health.check().is_err() {
            return all;
        }
        let before = self.clock.now();
        // By scope and attempt, because no policy is asked for under a shard's lock.
        let mut scopes: HashMap<Box<[u8]>, ByAttempt> = HashMap::new();
        self.index.for_each_open(|slot| {
            let Some(Candidate { position, state: OpenState::Interrupted, claim }) =
                Candidate::of(slot, before)
            else {
                return;
            };
            let (at, attempt) = (position.parts().0, claim.facts().attempt);
            if !scopes.contains_key(claim.scope()) {
                drop(scopes.insert(claim.scope().into(), BTreeMap::new()));
            }
            let Some(attempts) = scopes.get_mut(claim.scope()) else { return };
            let (keys, oldest) = attempts.entry(attempt).or_insert((0, at));
            (*keys, *oldest) = (*keys + 1, at.min(*oldest));
        });
        for (scope, attempts) in scopes {
            let attempts_max = self.policies.of(&scope).attempts_max();
            for (attempt, (keys, oldest)) in attempts {
                let earlier =
                    |other: Option<Timestamp>| Some(other.map_or(oldest, |other| other.min(oldest)));
                all.oldest = earlier(all.oldest);
                // As a begin decides.
                if attempt >= attempts_max {
                    all.unresolved += keys;
                    all.oldest_unresolved = earlier(all.oldest_unresolved);
                }
            }
        }
        all
    }
}

/// The interrupted keys of a scope by the number of their attempt: how many, and since when.
type ByAttempt = BTreeMap<u32, (usize, Timestamp)>;

/// How many keys are interrupted, and since when.
#[derive(Default)]
pub(super) struct Interruptions {
    pub(super) oldest: Option<Timestamp>,
    /// Those that a begin refuses: their scope's policy grants no other attempt.
    pub(super) unresolved: usize,
    pub(super) oldest_unresolved: Option<Timestamp>,
}

/// An entry before its details were asked for. Ordered by its position.
struct Candidate {
    position: ListPosition,
    state: OpenState,
    claim: Arc<Attempt>,
}

impl Candidate {
    fn of(slot: &Slot, before: Timestamp) -> Option<Self> {
        let (state, claim) = match slot {
            // The worker will come by; until then the clock decides.
            Slot::InFlight(claim) if claim.lease_until() <= before && !claim.is_undelivered() => {
                (OpenState::Interrupted, Arc::clone(claim))
            }
            // A record that is being forgotten.
            Slot::Ending(claim) if claim.forgets().is_some() => return None,
            Slot::Ending(claim) => match interrupted_in_place(claim) {
                Some(interrupted) if interrupted.remembered_until() > before => {
                    (OpenState::Interrupted, interrupted)
                }
                Some(_) => return None,
                None => (OpenState::InFlight, Arc::clone(claim)),
            },
            Slot::InFlight(claim) => (OpenState::InFlight, Arc::clone(claim)),
            Slot::Interrupted(claim) if claim.remembered_until() > before => {
                (OpenState::Interrupted, Arc::clone(claim))
            }
            Slot::Interrupted(_) | Slot::Vacant | Slot::Cached(..) | Slot::Stored { .. } => return None,
        };
        let position = match state {
            OpenState::InFlight => ListPosition::new(claim.started, claim.fence),
            // As callers are shown it, also where a later attempt left it standing.
            OpenState::Interrupted => {
                let Earlier { info, interrupted_at } = claim.as_earlier();
                ListPosition::new(interrupted_at, info.fence)
            }
        };
        Some(Self { position, state, claim })
    }

    fn is_wanted(&self, request: &ListRequest) -> bool {
        request.takes(self.state, self.position, self.claim.scope())
    }

    fn into_key(self) -> OpenKey {
        OpenKey::new(self.state, self.claim, self.position)
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.position.cmp(&other.position)
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.position == other.position
    }
}

impl Eq for Candidate {}
