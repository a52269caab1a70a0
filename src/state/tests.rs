//! The whole table: every state, every event, before, at and after every deadline, with every fence that
//! matters. Each row says what must come out, in words of the promise and not of the code.

use super::*;

const MINE: Fingerprint = Fingerprint::from_bytes([1; 32]);
const OTHER: Fingerprint = Fingerprint::from_bytes([2; 32]);
const EXPIRES: Timestamp = Timestamp::from_millis(1_000);
const REMEMBERED_UNTIL: Timestamp = Timestamp::from_millis(2_000);
const END_OF_TIME: Timestamp = Timestamp::from_millis(u64::MAX);
const TIMES: [Timestamp; 6] = [
    Timestamp::from_millis(999),
    EXPIRES,
    Timestamp::from_millis(1_001),
    Timestamp::from_millis(1_999),
    REMEMBERED_UNTIL,
    Timestamp::from_millis(2_001),
];
/// With a tombstone, and without one.
const LIFETIMES: [Lifetime; 2] = [
    Lifetime { expires: EXPIRES, remembered_until: REMEMBERED_UNTIL },
    Lifetime { expires: EXPIRES, remembered_until: EXPIRES },
];
const OLD: Fence = Fence::new(6);
const CURRENT: Fence = Fence::new(7);
const NEW: Fence = Fence::new(8);

fn facts() -> Facts<'static> {
    Facts { fence: CURRENT, attempt: 3, fingerprint: &MINE }
}

fn states() -> [State<'static>; 7] {
    [
        State::Vacant,
        State::InFlight(facts(), END_OF_TIME),
        State::InFlight(facts(), EXPIRES),
        State::Ending(facts()),
        State::Interrupted(facts(), EXPIRES),
        State::Done(facts(), LIFETIMES[0]),
        State::Done(facts(), LIFETIMES[1]),
    ]
}

fn events() -> Vec<Event<'static>> {
    let mut all = Vec::new();
    for now in TIMES {
        for fingerprint in [&MINE, &OTHER] {
            all.extend([1, 3, 4, u32::MAX].map(|attempts_max| Event::Begin {
                fingerprint,
                now,
                attempts_max,
            }));
        }
        all.extend([Event::Forget { now }, Event::Resolve { now }, Event::Sweep { now }]);
        for fence in [OLD, CURRENT, NEW] {
            all.extend([Event::Use { fence, now }, Event::End { fence, now }]);
        }
    }
    for fence in [OLD, CURRENT, NEW] {
        all.extend([Event::Abandon { fence }, Event::Granted { fence }, Event::Noted { fence }]);
        all.extend([Event::Completed { fence }, Event::Vacated { fence }, Event::Returned { fence }]);
    }
    all
}

/// The table, written a second time from the promises.
fn expected(state: State<'_>, event: Event<'_>) -> Decision {
    use Decision::{Become, Busy, Expired, Grant, Replay, Reused, Stay, Superseded, Unresolved, Wait};
    let over = |now: Timestamp| match state {
        State::Done(_, lifetime) if lifetime == LIFETIMES[0] => now.as_millis() >= 2_000,
        State::Vacant | State::InFlight(..) | State::Ending(_) | State::Interrupted(..) | State::Done(..) => {
            now.as_millis() >= 1_000
        }
    };
    match (state, event) {
        (
            State::InFlight(_, lease),
            Event::Begin { now, .. } | Event::Resolve { now } | Event::Forget { now },
        ) if now >= lease => Become(Phase::Interrupted),

        (State::Vacant, Event::Begin { .. }) => Grant { attempt: 1 },
        (State::Interrupted(..) | State::Done(..), Event::Begin { now, .. }) if over(now) => {
            Grant { attempt: 1 }
        }
        (_, Event::Begin { fingerprint, .. }) if *fingerprint == OTHER => Reused,
        (State::InFlight(..) | State::Ending(_), Event::Begin { .. }) => Wait,
        (State::Interrupted(..), Event::Begin { attempts_max: 1 | 3, .. }) => Unresolved,
        (State::Interrupted(..), Event::Begin { .. }) => Grant { attempt: 4 },
        (State::Done(..), Event::Begin { now, .. }) if now.as_millis() >= 1_000 => Expired,
        (State::Done(..), Event::Begin { .. }) => Replay,

        (State::Interrupted(..), Event::Resolve { now }) if !over(now) => Grant { attempt: 4 },
        (State::InFlight(..) | State::Ending(_), Event::Resolve { .. }) => Busy,
        (_, Event::Resolve { .. }) => Stay,

        (State::InFlight(_, lease), Event::Use { fence, now }) if fence == CURRENT && now < lease => {
            Become(Phase::InFlight)
        }
        (State::InFlight(_, lease), Event::End { fence, now }) if fence == CURRENT && now < lease => {
            Become(Phase::Ending)
        }
        (_, Event::Use { .. } | Event::End { .. }) => Superseded,

        (State::InFlight(..), Event::Abandon { fence }) if fence == CURRENT => Become(Phase::Interrupted),
        (_, Event::Abandon { .. }) => Stay,

        (State::InFlight(..), Event::Noted { fence }) if fence == CURRENT => Become(Phase::InFlight),
        (State::Ending(_), Event::Noted { fence }) if fence == CURRENT => Become(Phase::Ending),
        (State::Interrupted(..), Event::Noted { fence }) if fence == CURRENT => Become(Phase::Interrupted),
        (_, Event::Noted { .. }) => Stay,

        (State::InFlight(..) | State::Ending(_), Event::Forget { .. }) => Busy,
        (State::Interrupted(..) | State::Done(..), Event::Forget { now }) if !over(now) => {
            Become(Phase::Ending)
        }
        (_, Event::Forget { .. }) => Stay,

        (State::Vacant, Event::Granted { .. }) => Become(Phase::InFlight),
        (_, Event::Granted { fence }) if fence == NEW => Become(Phase::InFlight),
        (_, Event::Granted { .. }) => Stay,

        (State::Vacant, Event::Completed { .. }) => Become(Phase::Done),
        (State::Done(..), Event::Completed { fence }) if fence == CURRENT => Stay,
        (_, Event::Completed { fence }) if fence != OLD => Become(Phase::Done),
        (_, Event::Completed { .. }) => Stay,

        (State::Vacant, Event::Vacated { .. }) => Stay,
        (_, Event::Vacated { fence }) if fence != OLD => Become(Phase::Vacant),
        (_, Event::Vacated { .. }) => Stay,

        (State::Vacant, Event::Returned { .. }) => Become(Phase::Interrupted),
        (State::Done(..), Event::Returned { fence }) if fence == CURRENT => Stay,
        (_, Event::Returned { fence }) if fence != OLD => Become(Phase::Interrupted),
        (_, Event::Returned { .. }) => Stay,

        (State::Interrupted(..) | State::Done(..), Event::Sweep { now }) if over(now) => {
            Become(Phase::Vacant)
        }
        (State::InFlight(_, lease), Event::Sweep { now }) if now >= lease => Become(Phase::Interrupted),
        (_, Event::Sweep { .. }) => Stay,
    }
}

#[test]
fn every_event_in_every_state_at_every_deadline_is_decided_as_promised() {
    let mut pairs = 0;
    for state in states() {
        for event in events() {
            assert_eq!(decide(state, event), expected(state, event), "{state:?} meets {event:?}");
            pairs += 1;
        }
    }
    assert_eq!(pairs, 7 * 120);
}

#[test]
fn a_claim_that_is_out_without_a_lease_never_expires() {
    let late = Timestamp::from_millis(u64::MAX - 1);
    for state in [State::InFlight(facts(), END_OF_TIME), State::Ending(facts())] {
        assert_eq!(decide(state, Event::Sweep { now: late }), Decision::Stay);
        let begin = Event::Begin { fingerprint: &MINE, now: late, attempts_max: u32::MAX };
        assert_eq!(decide(state, begin), Decision::Wait);
    }
}

#[test]
fn attempt_numbers_do_not_wrap() {
    let last = Facts { attempt: u32::MAX, ..facts() };
    let begin = Event::Begin { fingerprint: &MINE, now: TIMES[0], attempts_max: u32::MAX };
    assert_eq!(decide(State::Interrupted(last, EXPIRES), begin), Decision::Unresolved);
    let resolve = Event::Resolve { now: TIMES[0] };
    assert_eq!(decide(State::Interrupted(last, EXPIRES), resolve), Decision::Grant { attempt: u32::MAX });
}
