//! The whole table: every state, every event, before, at and after every deadline, with every
//! fence that matters. Each row gives the required outcome, in words of the promise and not of
//! the code.

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
        all.extend([Event::Withdraw { fence }, Event::Abandon { fence }]);
        all.extend([Event::Granted { fence }, Event::Noted { fence }]);
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

        (State::InFlight(..), Event::Withdraw { fence }) if fence == CURRENT => Become(Phase::Ending),
        (_, Event::Withdraw { .. }) => Stay,

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
    assert_eq!(pairs, 7 * 123);
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

/// The states of the table in `docs/state-machine.md`, with the time of each event.
const COLUMNS: [(&str, State<'static>, Timestamp); 9] = [
    ("Vacant", State::Vacant, TIMES[0]),
    ("InFlight", State::InFlight(FACTS, EXPIRES), TIMES[0]),
    ("InFlight, lease over", State::InFlight(FACTS, EXPIRES), EXPIRES),
    ("Ending", State::Ending(FACTS), TIMES[0]),
    ("Interrupted", State::Interrupted(FACTS, EXPIRES), TIMES[0]),
    ("Interrupted, over", State::Interrupted(FACTS, EXPIRES), EXPIRES),
    ("Done", State::Done(FACTS, LIFETIMES[0]), TIMES[0]),
    ("Done, tombstone", State::Done(FACTS, LIFETIMES[0]), EXPIRES),
    ("Done, over", State::Done(FACTS, LIFETIMES[0]), REMEMBERED_UNTIL),
];

const FACTS: Facts<'static> = Facts { fence: CURRENT, attempt: 3, fingerprint: &MINE };

type MakeEvent = fn(Fence, Timestamp) -> Event<'static>;

/// The events of the table, and whether their fence matters.
const ROWS: [(&str, bool, MakeEvent); 15] = [
    ("Begin, same", false, |_, now| Event::Begin { fingerprint: &MINE, now, attempts_max: u32::MAX }),
    ("Begin, same, attempts used up", false, |_, now| Event::Begin {
        fingerprint: &MINE,
        now,
        attempts_max: 3,
    }),
    ("Begin, other", false, |_, now| Event::Begin { fingerprint: &OTHER, now, attempts_max: u32::MAX }),
    ("Resolve", false, |_, now| Event::Resolve { now }),
    ("Use", true, |fence, now| Event::Use { fence, now }),
    ("End", true, |fence, now| Event::End { fence, now }),
    ("Withdraw", true, |fence, _| Event::Withdraw { fence }),
    ("Abandon", true, |fence, _| Event::Abandon { fence }),
    ("Forget", false, |_, now| Event::Forget { now }),
    ("Granted", true, |fence, _| Event::Granted { fence }),
    ("Noted", true, |fence, _| Event::Noted { fence }),
    ("Completed", true, |fence, _| Event::Completed { fence }),
    ("Vacated", true, |fence, _| Event::Vacated { fence }),
    ("Returned", true, |fence, _| Event::Returned { fence }),
    ("Sweep", false, |_, now| Event::Sweep { now }),
];

fn in_words(decision: Decision) -> String {
    match decision {
        Decision::Grant { attempt: 1 } => "Grant 1".to_owned(),
        Decision::Grant { .. } => "Grant attempt + 1".to_owned(),
        Decision::Become(phase) => format!("**{phase:?}**"),
        Decision::Wait
        | Decision::Replay
        | Decision::Expired
        | Decision::Reused
        | Decision::Unresolved
        | Decision::Superseded
        | Decision::Busy
        | Decision::Stay => format!("{decision:?}"),
    }
}

fn cell(state: State<'static>, now: Timestamp, fence_matters: bool, event: MakeEvent) -> String {
    let [old, same, new] = [OLD, CURRENT, NEW].map(|fence| in_words(decide(state, event(fence, now))));
    match (old == same, same == new) {
        (true, true) => same,
        _ if !fence_matters => panic!("the fence matters"),
        (false, true) => format!("f ≥ F: {same}; else {old}"),
        (true, false) => format!("f > F: {new}; else {old}"),
        (false, false) => {
            assert_eq!(old, new);
            format!("f = F: {same}; else {old}")
        }
    }
}

/// The table, as it must stand in the document.
fn table() -> String {
    let mut lines = vec![
        format!("| event | {} |", COLUMNS.map(|(name, ..)| name).join(" | ")),
        format!("|{}", "---|".repeat(COLUMNS.len() + 1)),
    ];
    for (name, fence_matters, event) in ROWS {
        let cells = COLUMNS.map(|(_, state, now)| cell(state, now, fence_matters, event));
        lines.push(format!("| {name} | {} |", cells.join(" | ")));
    }
    lines.join("\n")
}

/// The changes of state, as they must stand in the document's diagram.
fn diagram() -> Vec<String> {
    let mut arrows = std::collections::BTreeSet::new();
    for (_, state, now) in COLUMNS {
        for (name, _, event) in ROWS {
            for fence in [OLD, CURRENT, NEW] {
                let decision = decide(state, event(fence, now));
                let granted = matches!(decision, Decision::Grant { .. }).then_some(Phase::InFlight);
                let Some(phase) = granted.or(decision.becomes()) else { continue };
                let to = format!("{phase:?}");
                let from = match state {
                    State::Vacant => "Vacant",
                    State::InFlight(..) => "InFlight",
                    State::Ending(_) => "Ending",
                    State::Interrupted(..) => "Interrupted",
                    State::Done(..) => "Done",
                };
                let event = name.split(',').next().unwrap_or(name);
                if from != to {
                    arrows.insert((from, to, event));
                }
            }
        }
    }
    let mut lines: Vec<String> = Vec::new();
    let mut arrows = arrows.into_iter().peekable();
    while let Some((from, to, event)) = arrows.next() {
        let mut events = vec![event];
        while let Some((_, _, event)) = arrows.next_if(|next| (next.0, &next.1) == (from, &to)) {
            events.push(event);
        }
        lines.push(format!("    {from} --> {to}: {}", events.join(", ")));
    }
    lines
}

#[test]
fn the_document_shows_every_state_and_event_there_is() {
    let document = include_str!("../../docs/state-machine.md");
    let table = table();
    assert!(document.contains(&table), "the table should be:\n{table}");
    let diagram = diagram();
    let shown: Vec<&str> =
        document.lines().filter(|line| line.contains(" --> ") && !line.contains("[*]")).collect();
    assert_eq!(shown, diagram, "the diagram should be:\n{}", diagram.join("\n"));
}

#[test]
fn a_fence_is_shown_as_its_number() {
    assert_eq!(format!("{CURRENT} {NEW:>3}"), "7   8");
}
