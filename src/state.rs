//! The state machine of one key: what every event does in every state.
//!
//! One pure function, no lock, clock or I/O in it. The live path, recovery and the fuzz model all go
//! through [`decide`]; a new state or event breaks the build until every pair is decided, because no match
//! below has a wildcard.

use crate::{Fingerprint, Timestamp};

/// A number that grows with every claim that a file grants, across restarts.
///
/// Hand it to a downstream system that can refuse a lower one, and a worker that came back from the dead can
/// do no harm there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Fence(u64);

impl Fence {
    pub(crate) const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a state knows of the attempt that brought it about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The fence of the claim.
    pub fence: Fence,
    /// 1 for the first claim of a key, one more for each that follows an interruption.
    pub attempt: u32,
    /// What the request was.
    pub fingerprint: &'a Fingerprint,
}

/// How long a record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// It is replayed until then.
    pub expires: Timestamp,
    /// Its key is remembered until then, which is not before. Between the two a begin is told that it comes too late.
    pub remembered_until: Timestamp,
}

/// The state of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// Nothing is known of the key.
    Vacant,
    /// A claim is out.
    InFlight(Facts<'a>),
    /// The claim has ended, or the record is being forgotten; the log has it, but it isn't durable yet.
    Ending(Facts<'a>),
    /// The claim ended with no outcome known; remembered until the time given.
    Interrupted(Facts<'a>, Timestamp),
    /// A durable record, which counts as long as is given.
    Done(Facts<'a>, Lifetime),
}

/// What can happen to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A caller asks whether to run.
    Begin {
        /// What its request is.
        fingerprint: &'a Fingerprint,
        /// When it asks.
        now: Timestamp,
    },
    /// The claim with this fence hands its outcome, or its release, to the log.
    End {
        /// The claim's fence.
        fence: Fence,
    },
    /// The claim with this fence is gone without an outcome: dropped, panicked, or its process died.
    Abandon {
        /// The claim's fence.
        fence: Fence,
    },
    /// A caller asks to forget what is stored.
    Forget {
        /// When it asks.
        now: Timestamp,
    },
    /// The log holds, durably, that a claim with this fence was granted.
    Granted {
        /// The claim's fence.
        fence: Fence,
    },
    /// The log holds, durably, the outcome of the claim with this fence.
    Completed {
        /// The claim's fence.
        fence: Fence,
    },
    /// The log holds, durably, that the key is vacant again: released or forgotten.
    Vacated {
        /// The fence of the claim that was released, or of what was forgotten.
        fence: Fence,
    },
    /// The log holds, durably, that the claim with this fence did nothing, but that an earlier attempt, which was
    /// interrupted, may have.
    Returned {
        /// The fence of the claim that was released.
        fence: Fence,
    },
    /// The sweeper passes by.
    Sweep {
        /// When it passes.
        now: Timestamp,
    },
}

/// What to do about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Grant a claim with this attempt number. A number above 1 means that an earlier attempt was interrupted.
    Grant {
        /// The attempt's number.
        attempt: u32,
    },
    /// Somebody else holds the key: wait for it.
    Wait,
    /// Answer with the record.
    Replay,
    /// The operation has run, but its record is not replayed any more: refuse.
    Expired,
    /// Another request used this key: refuse.
    Reused,
    /// The claim is not the current one: refuse.
    Superseded,
    /// Somebody holds the key, so it can't be forgotten: refuse.
    Busy,
    /// The key's state becomes this.
    Become(Phase),
    /// Nothing changes.
    Stay,
}

impl Decision {
    /// The phase that the key changes to without being granted to anybody; `None` where it stays what it is.
    #[must_use]
    #[inline]
    pub fn becomes(self) -> Option<Phase> {
        match self {
            Self::Become(phase) => Some(phase),
            Self::Grant { .. }
            | Self::Wait
            | Self::Replay
            | Self::Expired
            | Self::Reused
            | Self::Superseded
            | Self::Busy
            | Self::Stay => None,
        }
    }
}

/// A state without its facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// See [`State::Vacant`].
    Vacant,
    /// See [`State::InFlight`].
    InFlight,
    /// See [`State::Ending`].
    Ending,
    /// See [`State::Interrupted`].
    Interrupted,
    /// See [`State::Done`].
    Done,
}

/// Decides what `event` does to a key in `state`.
///
/// A state whose time is over counts as vacant, before anything else. Then the fingerprint is checked, before
/// anything about the state. Events that come from the log carry fences: a lower one than the state's is history.
#[must_use]
#[inline]
pub fn decide(state: State<'_>, event: Event<'_>) -> Decision {
    match state {
        State::Vacant => vacant(event),
        State::InFlight(facts) => in_flight(facts, event),
        State::Ending(facts) => ending(facts, event),
        State::Interrupted(facts, expires) => interrupted(facts, expires, event),
        State::Done(facts, lifetime) => done(facts, lifetime, event),
    }
}

fn vacant(event: Event<'_>) -> Decision {
    match event {
        Event::Begin { .. } => Decision::Grant { attempt: 1 },
        Event::End { .. } => Decision::Superseded,
        Event::Granted { .. } => Decision::Become(Phase::InFlight),
        // A claim with a memory-only intent leaves no other trace in the log than its completion.
        Event::Completed { .. } => Decision::Become(Phase::Done),
        Event::Returned { .. } => Decision::Become(Phase::Interrupted),
        Event::Abandon { .. } | Event::Forget { .. } | Event::Vacated { .. } | Event::Sweep { .. } => {
            Decision::Stay
        }
    }
}

fn in_flight(facts: Facts<'_>, event: Event<'_>) -> Decision {
    match event {
        Event::Begin { fingerprint, .. } => wait_unless_reused(facts, fingerprint),
        Event::End { fence } => if_current(facts, fence, Phase::Ending),
        Event::Abandon { fence } if fence == facts.fence => Decision::Become(Phase::Interrupted),
        Event::Abandon { .. } => Decision::Stay,
        Event::Forget { .. } => Decision::Busy,
        Event::Granted { fence } => if_newer(facts, fence, Phase::InFlight),
        Event::Completed { fence } => if_not_older(facts, fence, Phase::Done),
        Event::Vacated { fence } => if_not_older(facts, fence, Phase::Vacant),
        Event::Returned { fence } => if_not_older(facts, fence, Phase::Interrupted),
        // A claim that is out never expires: its holder is alive.
        Event::Sweep { .. } => Decision::Stay,
    }
}

fn ending(facts: Facts<'_>, event: Event<'_>) -> Decision {
    match event {
        Event::Begin { fingerprint, .. } => wait_unless_reused(facts, fingerprint),
        Event::End { .. } => Decision::Superseded,
        // The outcome is in the log's hands; the claim that is dropped after handing it over changes nothing.
        Event::Abandon { .. } | Event::Sweep { .. } => Decision::Stay,
        Event::Forget { .. } => Decision::Busy,
        Event::Granted { fence } => if_newer(facts, fence, Phase::InFlight),
        Event::Completed { fence } => if_not_older(facts, fence, Phase::Done),
        Event::Vacated { fence } => if_not_older(facts, fence, Phase::Vacant),
        Event::Returned { fence } => if_not_older(facts, fence, Phase::Interrupted),
    }
}

fn interrupted(facts: Facts<'_>, expires: Timestamp, event: Event<'_>) -> Decision {
    match event {
        Event::Begin { now, .. } if now >= expires => Decision::Grant { attempt: 1 },
        Event::Begin { fingerprint, .. } if fingerprint != facts.fingerprint => Decision::Reused,
        Event::Begin { .. } => Decision::Grant { attempt: facts.attempt.saturating_add(1) },
        Event::End { .. } => Decision::Superseded,
        Event::Abandon { .. } => Decision::Stay,
        Event::Forget { now } if now >= expires => Decision::Stay,
        Event::Forget { .. } => Decision::Become(Phase::Ending),
        Event::Granted { fence } => if_newer(facts, fence, Phase::InFlight),
        Event::Completed { fence } => if_not_older(facts, fence, Phase::Done),
        Event::Vacated { fence } => if_not_older(facts, fence, Phase::Vacant),
        Event::Returned { fence } => if_not_older(facts, fence, Phase::Interrupted),
        Event::Sweep { now } if now >= expires => Decision::Become(Phase::Vacant),
        Event::Sweep { .. } => Decision::Stay,
    }
}

fn done(facts: Facts<'_>, lifetime: Lifetime, event: Event<'_>) -> Decision {
    let Lifetime { expires, remembered_until } = lifetime;
    match event {
        // First what nearly every retry meets, so that it costs one look at the time: what is replayed is remembered.
        Event::Begin { fingerprint, now } if now < expires => replay_unless_reused(facts, fingerprint),
        Event::Begin { now, .. } if now >= remembered_until => Decision::Grant { attempt: 1 },
        Event::Begin { fingerprint, .. } if fingerprint != facts.fingerprint => Decision::Reused,
        Event::Begin { .. } => Decision::Expired,
        Event::End { .. } => Decision::Superseded,
        Event::Abandon { .. } => Decision::Stay,
        Event::Forget { now } if now >= remembered_until => Decision::Stay,
        Event::Forget { .. } => Decision::Become(Phase::Ending),
        // Granted over a record that was no longer remembered by then.
        Event::Granted { fence } => if_newer(facts, fence, Phase::InFlight),
        Event::Completed { fence } => if_newer(facts, fence, Phase::Done),
        Event::Vacated { fence } => if_not_older(facts, fence, Phase::Vacant),
        Event::Returned { fence } => if_newer(facts, fence, Phase::Interrupted),
        Event::Sweep { now } if now >= remembered_until => Decision::Become(Phase::Vacant),
        Event::Sweep { .. } => Decision::Stay,
    }
}

fn wait_unless_reused(facts: Facts<'_>, fingerprint: &Fingerprint) -> Decision {
    if fingerprint == facts.fingerprint { Decision::Wait } else { Decision::Reused }
}

#[inline]
fn replay_unless_reused(facts: Facts<'_>, fingerprint: &Fingerprint) -> Decision {
    if fingerprint == facts.fingerprint { Decision::Replay } else { Decision::Reused }
}

fn if_current(facts: Facts<'_>, fence: Fence, phase: Phase) -> Decision {
    if fence == facts.fence { Decision::Become(phase) } else { Decision::Superseded }
}

fn if_newer(facts: Facts<'_>, fence: Fence, phase: Phase) -> Decision {
    if fence > facts.fence { Decision::Become(phase) } else { Decision::Stay }
}

fn if_not_older(facts: Facts<'_>, fence: Fence, phase: Phase) -> Decision {
    if fence >= facts.fence { Decision::Become(phase) } else { Decision::Stay }
}

#[cfg(test)]
mod tests;
