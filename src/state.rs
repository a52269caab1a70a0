//! The state machine of one key: what every event does in every state.
//!
//! One pure function, without lock, clock or I/O. The live path, recovery and the fuzz model all
//! go through [`decide`]. A new state or event does not compile until every pair is decided,
//! because no match below has a wildcard.

use crate::{Fingerprint, Timestamp};

/// A number that grows with every claim that a file grants, across restarts.
///
/// Hand it to a downstream system that can refuse a lower one. Then a worker that hung and wakes
/// up late can do no harm there.
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

/// The facts that a state has about its attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The fence of the claim.
    pub fence: Fence,
    /// 1 for the first claim of a key, one more after each interruption.
    pub attempt: u32,
    /// The request's fingerprint.
    pub fingerprint: &'a Fingerprint,
}

/// The times of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// It is replayed until then.
    pub expires: Timestamp,
    /// Its key is remembered until then, not before `expires`. Between the two a begin is refused
    /// as too late.
    pub remembered_until: Timestamp,
}

/// The state of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// Nothing is known of the key.
    Vacant,
    /// A claim is in flight. Its lease ends at the given time; without a lease, that is the end
    /// of time.
    InFlight(Facts<'a>, Timestamp),
    /// The claim has ended, or the record is being forgotten; the entry is queued, but not
    /// durable yet.
    Ending(Facts<'a>),
    /// The claim ended without an outcome; remembered until the given time.
    Interrupted(Facts<'a>, Timestamp),
    /// A durable record, with its times.
    Done(Facts<'a>, Lifetime),
}

/// What can happen to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A caller asks whether to run.
    Begin {
        /// The request's fingerprint.
        fingerprint: &'a Fingerprint,
        /// When it asks.
        now: Timestamp,
        /// How many attempts are granted before an interruption has to be resolved: 1 if none may
        /// run again by itself, `u32::MAX` without a limit.
        attempts_max: u32,
    },
    /// An operator, or a program that knows the outcome of an interrupted attempt, asks for a
    /// claim to report it.
    Resolve {
        /// When it asks.
        now: Timestamp,
    },
    /// The claim with this fence is used: renewed, or its progress saved.
    Use {
        /// The claim's fence.
        fence: Fence,
        /// When.
        now: Timestamp,
    },
    /// The claim with this fence queues its outcome, or its release.
    End {
        /// The claim's fence.
        fence: Fence,
        /// When.
        now: Timestamp,
    },
    /// The grant with this fence is withdrawn before its caller had it: no operation has run.
    Withdraw {
        /// The claim's fence.
        fence: Fence,
    },
    /// The claim with this fence ended without an outcome: dropped, panicked, or its process
    /// died.
    Abandon {
        /// The claim's fence.
        fence: Fence,
    },
    /// A caller asks to forget the record or the interruption.
    Forget {
        /// When it asks.
        now: Timestamp,
    },
    /// The log holds, durably, that a claim with this fence was granted.
    Granted {
        /// The claim's fence.
        fence: Fence,
    },
    /// The log holds, durably, a note on the claim with this fence: its progress, or that it was
    /// handed over as a token.
    Noted {
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
    /// The log holds, durably, that the claim with this fence had no effect, but that an earlier,
    /// interrupted attempt may have had one.
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
    /// Grant a claim with this attempt number. A number above 1 means that an earlier attempt was
    /// interrupted.
    Grant {
        /// The attempt's number.
        attempt: u32,
    },
    /// Another caller holds the key: wait for it.
    Wait,
    /// Answer with the record.
    Replay,
    /// The operation has run, but its record is no longer replayed: refuse.
    Expired,
    /// Another request used this key: refuse.
    Reused,
    /// The key is interrupted, and its attempts are used up: refuse until it is resolved.
    Unresolved,
    /// The claim is not the current one: refuse.
    Superseded,
    /// A caller holds the key, so it can't be forgotten: refuse.
    Busy,
    /// The key's state becomes this.
    Become(Phase),
    /// Nothing changes.
    Stay,
}

impl Decision {
    /// The phase to which the key changes without a grant; `None` if it does not change.
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
            | Self::Unresolved
            | Self::Superseded
            | Self::Busy
            | Self::Stay => None,
        }
    }

    /// Whether another policy of the scope could have led to another decision, or to a claim on
    /// other terms.
    pub(crate) fn depends_on_policy(self) -> bool {
        match self {
            Self::Grant { .. } | Self::Unresolved => true,
            Self::Wait
            | Self::Replay
            | Self::Expired
            | Self::Reused
            | Self::Superseded
            | Self::Busy
            | Self::Become(_)
            | Self::Stay => false,
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
/// An expired state counts as vacant, before anything else. Then the fingerprint is checked,
/// before anything else about the state. If a claim's lease has run out, [`Decision::Become`]
/// makes the claim interrupted, and the event is then decided for that state. Events from the log
/// carry fences: an event with a lower fence than the state's is out of date.
#[must_use]
#[inline]
pub fn decide(state: State<'_>, event: Event<'_>) -> Decision {
    match state {
        State::Vacant => vacant(event),
        State::InFlight(facts, lease) => in_flight(facts, lease, event),
        State::Ending(facts) => ending(facts, event),
        State::Interrupted(facts, expires) => interrupted(facts, expires, event),
        State::Done(facts, lifetime) => done(facts, lifetime, event),
    }
}

fn vacant(event: Event<'_>) -> Decision {
    match event {
        Event::Begin { .. } => Decision::Grant { attempt: 1 },
        Event::Use { .. } | Event::End { .. } => Decision::Superseded,
        Event::Granted { .. } => Decision::Become(Phase::InFlight),
        // A claim with a memory-only intent leaves no other trace in the log than its completion.
        Event::Completed { .. } => Decision::Become(Phase::Done),
        Event::Returned { .. } => Decision::Become(Phase::Interrupted),
        Event::Resolve { .. }
        | Event::Withdraw { .. }
        | Event::Abandon { .. }
        | Event::Forget { .. }
        | Event::Noted { .. }
        | Event::Vacated { .. }
        | Event::Sweep { .. } => Decision::Stay,
    }
}

fn in_flight(facts: Facts<'_>, lease: Timestamp, event: Event<'_>) -> Decision {
    match event {
        Event::Begin { now, .. } | Event::Resolve { now } | Event::Forget { now } if now >= lease => {
            Decision::Become(Phase::Interrupted)
        }
        Event::Begin { fingerprint, .. } => wait_unless_reused(facts, fingerprint),
        Event::Use { now, .. } | Event::End { now, .. } if now >= lease => Decision::Superseded,
        Event::Use { fence, .. } => if_current(facts, fence, Phase::InFlight),
        Event::End { fence, .. } => if_current(facts, fence, Phase::Ending),
        // Whether its lease is over does not matter: nobody had it.
        Event::Withdraw { fence } => if_same(facts, fence, Phase::Ending),
        Event::Abandon { fence } => if_same(facts, fence, Phase::Interrupted),
        Event::Resolve { .. } | Event::Forget { .. } => Decision::Busy,
        Event::Granted { fence } => if_newer(facts, fence, Phase::InFlight),
        Event::Noted { fence } => if_same(facts, fence, Phase::InFlight),
        Event::Completed { fence } => if_not_older(facts, fence, Phase::Done),
        Event::Vacated { fence } => if_not_older(facts, fence, Phase::Vacant),
        Event::Returned { fence } => if_not_older(facts, fence, Phase::Interrupted),
        // A claim without a lease never expires: its holder is alive.
        Event::Sweep { now } if now >= lease => Decision::Become(Phase::Interrupted),
        Event::Sweep { .. } => Decision::Stay,
    }
}

fn ending(facts: Facts<'_>, event: Event<'_>) -> Decision {
    match event {
        Event::Begin { fingerprint, .. } => wait_unless_reused(facts, fingerprint),
        Event::Use { .. } | Event::End { .. } => Decision::Superseded,
        // The outcome is in the log's hands; the claim that is dropped after handing it over
        // changes nothing.
        Event::Withdraw { .. } | Event::Abandon { .. } | Event::Sweep { .. } => Decision::Stay,
        Event::Resolve { .. } | Event::Forget { .. } => Decision::Busy,
        Event::Granted { fence } => if_newer(facts, fence, Phase::InFlight),
        Event::Noted { fence } => if_same(facts, fence, Phase::Ending),
        Event::Completed { fence } => if_not_older(facts, fence, Phase::Done),
        Event::Vacated { fence } => if_not_older(facts, fence, Phase::Vacant),
        Event::Returned { fence } => if_not_older(facts, fence, Phase::Interrupted),
    }
}

fn interrupted(facts: Facts<'_>, expires: Timestamp, event: Event<'_>) -> Decision {
    match event {
        Event::Begin { now, .. } if now >= expires => Decision::Grant { attempt: 1 },
        Event::Begin { fingerprint, .. } if fingerprint != facts.fingerprint => Decision::Reused,
        Event::Begin { attempts_max, .. } if facts.attempt >= attempts_max => Decision::Unresolved,
        Event::Begin { .. } => next_attempt(facts),
        Event::Resolve { now } if now >= expires => Decision::Stay,
        Event::Resolve { .. } => next_attempt(facts),
        Event::Use { .. } | Event::End { .. } => Decision::Superseded,
        Event::Withdraw { .. } | Event::Abandon { .. } => Decision::Stay,
        Event::Forget { now } if now >= expires => Decision::Stay,
        Event::Forget { .. } => Decision::Become(Phase::Ending),
        Event::Granted { fence } => if_newer(facts, fence, Phase::InFlight),
        Event::Noted { fence } => if_same(facts, fence, Phase::Interrupted),
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
        Event::Begin { fingerprint, now, .. }
            if is_replayed(facts.fingerprint, expires, fingerprint, now) =>
        {
            Decision::Replay
        }
        Event::Begin { now, .. } if now >= remembered_until => Decision::Grant { attempt: 1 },
        Event::Begin { fingerprint, .. } if fingerprint != facts.fingerprint => Decision::Reused,
        Event::Begin { .. } => Decision::Expired,
        Event::Use { .. } | Event::End { .. } => Decision::Superseded,
        Event::Resolve { .. } | Event::Withdraw { .. } | Event::Abandon { .. } | Event::Noted { .. } => {
            Decision::Stay
        }
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

/// Whether a record with this fingerprint and expiry answers a begin: the first check of
/// [`decide`] on a key that is done, for callers that need only that.
#[must_use]
#[inline]
pub(crate) fn is_replayed(
    stored: &Fingerprint,
    expires: Timestamp,
    asked: &Fingerprint,
    now: Timestamp,
) -> bool {
    now < expires && asked == stored
}

fn wait_unless_reused(facts: Facts<'_>, fingerprint: &Fingerprint) -> Decision {
    if fingerprint == facts.fingerprint { Decision::Wait } else { Decision::Reused }
}

fn next_attempt(facts: Facts<'_>) -> Decision {
    Decision::Grant { attempt: facts.attempt.saturating_add(1) }
}

fn if_same(facts: Facts<'_>, fence: Fence, phase: Phase) -> Decision {
    if fence == facts.fence { Decision::Become(phase) } else { Decision::Stay }
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
