//! The whole table: every state, every event, before, at and after every deadline, with every fence that
//! matters. Each row says what must come out, in words of the promise and not of the code.

use super::*;

const MINE: Fingerprint = Fingerprint::from_bytes([1; 32]);
const OTHER: Fingerprint = Fingerprint::from_bytes([2; 32]);
const EXPIRES: Timestamp = Timestamp::from_millis(1_000);
const REMEMBERED_UNTIL: Timestamp = Timestamp::from_millis(2_000);
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

fn states() -> [State<'static>; 6] {
    [
        State::Vacant,
        State::InFlight(facts()),
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
            all.push(Event::Begin { fingerprint, now });
        }
        all.extend([Event::Forget { now }, Event::Sweep { now }]);
    }
    for fence in [OLD, CURRENT, NEW] {
        all.extend([Event::End { fence }, Event::Abandon { fence }, Event::Granted { fence }]);
        all.extend([Event::Completed { fence }, Event::Vacated { fence }, Event::Returned { fence }]);
    }
    all
}

/// The table, written a second time from the promises.
fn expected(state: State<'_>, event: Event<'_>) -> Decision {
    use Decision::{Become, Busy, Expired, Grant, Replay, Reused, Stay, Superseded, Wait};
    let over = |now: Timestamp| match state {
        State::Done(_, lifetime) if lifetime == LIFETIMES[0] => now.as_millis() >= 2_000,
        State::Vacant | State::InFlight(_) | State::Ending(_) | State::Interrupted(..) | State::Done(..) => {
            now.as_millis() >= 1_000
        }
    };
    match (state, event) {
        (State::Vacant, Event::Begin { .. }) => Grant { attempt: 1 },
        (State::Interrupted(..) | State::Done(..), Event::Begin { now, .. }) if over(now) => {
            Grant { attempt: 1 }
        }
        (_, Event::Begin { fingerprint, .. }) if *fingerprint == OTHER => Reused,
        (State::InFlight(_) | State::Ending(_), Event::Begin { .. }) => Wait,
        (State::Interrupted(..), Event::Begin { .. }) => Grant { attempt: 4 },
        (State::Done(..), Event::Begin { now, .. }) if now.as_millis() >= 1_000 => Expired,
        (State::Done(..), Event::Begin { .. }) => Replay,

        (State::InFlight(_), Event::End { fence }) if fence == CURRENT => Become(Phase::Ending),
        (_, Event::End { .. }) => Superseded,

        (State::InFlight(_), Event::Abandon { fence }) if fence == CURRENT => Become(Phase::Interrupted),
        (_, Event::Abandon { .. }) => Stay,

        (State::InFlight(_) | State::Ending(_), Event::Forget { .. }) => Busy,
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
    assert_eq!(pairs, 6 * 42);
}

#[test]
fn a_claim_that_is_out_never_expires() {
    for state in [State::InFlight(facts()), State::Ending(facts())] {
        let end_of_time = Timestamp::from_millis(u64::MAX);
        assert_eq!(decide(state, Event::Sweep { now: end_of_time }), Decision::Stay);
        let begin = Event::Begin { fingerprint: &MINE, now: end_of_time };
        assert_eq!(decide(state, begin), Decision::Wait);
    }
}

#[test]
fn attempt_numbers_do_not_wrap() {
    let last = Facts { attempt: u32::MAX, ..facts() };
    let begin = Event::Begin { fingerprint: &MINE, now: TIMES[0] };
    assert_eq!(decide(State::Interrupted(last, EXPIRES), begin), Decision::Grant { attempt: u32::MAX });
}
