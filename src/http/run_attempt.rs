//! The attempt that a run is for.

use std::time::Duration;

use super::keep::Keep;
use super::problem::Fault;
use super::problem_kind::ProblemKind;
use crate::{Claim, Completion, Scope, Timestamp};

const LOST: &str =
    "The operation was interrupted, and its effect may have happened. Look for it before anything else.";

const NOT_BEGUN: &str = "The service could not begin the operation. Nothing was started; send the request again \
                         later, with the same key.";

/// The attempt that a run is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunAttempt {
    pub(super) started: Timestamp,
    number: u32,
    /// How many attempts the scope grants without a resolution.
    max: u32,
    /// How long the scope remembers a key, counted from its completion.
    remembered: Duration,
}

impl RunAttempt {
    pub(super) fn of(claim: &Claim, scope: &Scope) -> Self {
        let policy = scope.policy();
        let remembered = policy.get_tombstone_ttl().unwrap_or(policy.get_ttl());
        Self { started: claim.started(), number: claim.attempt(), max: policy.attempts_max(), remembered }
    }

    /// How long its record is kept. A response with a time of its own never frees its key earlier:
    /// a retry in the time that the policy promises would run again.
    pub(super) fn completion(self, keep: Keep) -> Completion {
        keep.ttl.map_or(Completion::new(), |ttl| {
            Completion::new().ttl(ttl).tombstone_ttl(self.remembered.max(ttl))
        })
    }

    /// Whether a retry runs that finds the key interrupted after so many attempts.
    pub(super) fn reruns_after(self, attempts: u32) -> bool {
        attempts < self.max
    }

    /// The answer if the executor dropped its run.
    pub(super) fn dropped(self, has_begun: bool) -> Fault {
        if has_begun { self.lost() } else { Fault::new(ProblemKind::StoreBusy, NOT_BEGUN) }
    }

    /// The answer if this attempt was interrupted.
    pub(super) fn lost(self) -> Fault {
        Fault::new(ProblemKind::HandlerLost, LOST).reruns_if(self.reruns_after(self.number))
    }
}
