//! Histories of what must never happen, which the checker must not explain.

use super::checker::{Timed, is_linearizable};
use super::key::{Begun, Call, Forgot, Grant, Key, LeasedKey, Outcome, Resolved, Seen, State};

/// One call after the other, each of its own thread.
fn in_turn(calls: impl IntoIterator<Item = Call>) -> Vec<Timed<Call>> {
    let timed = |(n, call)| Timed { thread: n, called: 2 * n as u64, returned: Some(2 * n as u64 + 1), call };
    calls.into_iter().enumerate().map(timed).collect()
}

/// All at the same time.
fn at_once(calls: impl IntoIterator<Item = Call>) -> Vec<Timed<Call>> {
    let timed = |(n, call)| Timed { thread: n, called: n as u64, returned: Some(100 + n as u64), call };
    calls.into_iter().enumerate().map(timed).collect()
}

fn is_explained(history: &[Timed<Call>]) -> bool {
    is_linearizable::<Key>(State::new(), history)
}

fn fresh(fence: u64, attempt: u32) -> Call {
    Call::Begin(Begun::Fresh(Grant { fence, attempt }))
}

fn outcome(fence: u64) -> Outcome {
    Outcome { fence, failed: false, body: vec![1] }
}

fn complete(fence: u64) -> Call {
    Call::Complete { outcome: outcome(fence), accepted: true }
}

fn done(fence: u64) -> Call {
    Call::Begin(Begun::Done(outcome(fence)))
}

fn release(fence: u64) -> Call {
    Call::Release { fence, accepted: true }
}

fn put_back(fence: u64) -> Call {
    Call::PutBack { fence, accepted: true }
}

fn resolve_if(only: u64, resolved: Resolved) -> Call {
    Call::ResolveIf { only, resolved }
}

const WAIT: Call = Call::Begin(Begun::InFlight);
const FORGOT: Call = Call::Forget(Forgot::Something);

/// Of a key that refuses where it is interrupted.
fn is_explained_where_refused(calls: impl IntoIterator<Item = Call>) -> [bool; 2] {
    let history = in_turn(calls);
    [State::refusing(), State::new()].map(|state| is_linearizable::<Key>(state, &history))
}

#[test]
fn an_interrupted_key_is_refused_and_not_granted_or_the_other_way_round() {
    let unresolved = || Call::Begin(Begun::Unresolved);
    let lost = || [fresh(1, 1), Call::Drop { fence: 1 }];
    let resolve = Call::Resolve(Some(Grant { fence: 2, attempt: 2 }));
    let refused = is_explained_where_refused(lost().into_iter().chain([unresolved(), resolve, WAIT]));
    assert_eq!(refused, [true, false]);
    let granted = is_explained_where_refused(lost().into_iter().chain([fresh(2, 2)]));
    assert_eq!(granted, [false, true]);
    assert_eq!(is_explained_where_refused([unresolved()]), [false, false]);
    assert_eq!(is_explained_where_refused([fresh(1, 1), unresolved()]), [false, false]);
    let released =
        lost().into_iter().chain([Call::Resolve(Some(Grant { fence: 2, attempt: 2 })), release(2)]);
    assert_eq!(is_explained_where_refused(released.chain([fresh(3, 1)])), [true, true]);
}

#[test]
fn what_may_happen_is_explained() {
    let good = [
        in_turn([fresh(1, 1), WAIT, complete(1), done(1), Call::Get(Seen::Done(outcome(1)))]),
        in_turn([
            fresh(1, 1),
            Call::Drop { fence: 1 },
            fresh(2, 2),
            release(2),
            fresh(5, 3),
            complete(5),
            done(5),
        ]),
        in_turn([fresh(1, 1), release(1), Call::Get(Seen::Vacant), fresh(2, 1)]),
        in_turn([fresh(1, 1), complete(1), FORGOT, Call::Get(Seen::Vacant), fresh(3, 1)]),
        in_turn([
            fresh(1, 1),
            Call::Drop { fence: 1 },
            Call::Resolve(Some(Grant { fence: 2, attempt: 2 })),
            release(2),
            fresh(3, 1),
        ]),
        at_once([done(1), WAIT, complete(1), fresh(1, 1), FORGOT, fresh(2, 1), Call::Get(Seen::Vacant)]),
        // While a record is forgotten begins wait for its key, and a look shows it.
        after_completion(vec![FORGOT, WAIT, Call::Get(Seen::Done(outcome(1)))]),
    ];
    for history in good {
        assert!(is_explained(&history), "{history:#?}");
    }
}

/// A completion, and then these calls at the same time.
fn after_completion(calls: Vec<Call>) -> Vec<Timed<Call>> {
    let calls = at_once(calls).into_iter().map(|call| later(call, 10));
    in_turn([fresh(1, 1), complete(1)]).into_iter().chain(calls).collect()
}

/// An interrupted key that is being forgotten while it is resolved, and then looked at.
fn while_forgotten() -> Vec<Timed<Call>> {
    let calls = in_turn([Call::Resolve(None), Call::Get(Seen::Interrupted)]);
    let calls = calls.into_iter().map(|call| later(call, 11));
    let forgets = Timed { thread: 9, called: 10, returned: Some(100), call: FORGOT };
    in_turn([fresh(1, 1), Call::Drop { fence: 1 }]).into_iter().chain([forgets]).chain(calls).collect()
}

fn later(call: Timed<Call>, by: u64) -> Timed<Call> {
    Timed { called: call.called + by, returned: call.returned.map(|at| at + by), ..call }
}

#[test]
fn what_must_never_happen_is_not_explained() {
    let superseded = Call::Complete { outcome: outcome(1), accepted: false };
    let bad = [
        ("granted twice", in_turn([fresh(1, 1), fresh(2, 1)])),
        ("granted twice at once", at_once([fresh(1, 1), fresh(2, 1)])),
        ("granted after it was done", in_turn([fresh(1, 1), complete(1), fresh(2, 1)])),
        ("a fence that does not grow", in_turn([fresh(2, 1), release(2), fresh(1, 1)])),
        ("the same fence again", in_turn([fresh(1, 1), release(1), fresh(1, 1)])),
        ("done before anybody completed it", in_turn([fresh(1, 1), done(1), complete(1)])),
        ("a result that was forgotten", in_turn([fresh(1, 1), complete(1), FORGOT, done(1)])),
        ("a lost result", in_turn([fresh(1, 1), complete(1), Call::Get(Seen::Vacant)])),
        ("another result", in_turn([fresh(1, 1), complete(1), done(2)])),
        (
            "an altered result",
            in_turn([
                fresh(1, 1),
                complete(1),
                Call::Get(Seen::Done(Outcome { body: vec![2], ..outcome(1) })),
            ]),
        ),
        (
            "a failure that became a success",
            in_turn([
                fresh(1, 1),
                Call::Complete { outcome: Outcome { failed: true, ..outcome(1) }, accepted: true },
                done(1),
            ]),
        ),
        ("two results", in_turn([fresh(1, 1), complete(1), complete(1)])),
        ("a good claim that was refused", in_turn([fresh(1, 1), superseded.clone()])),
        ("in flight after its end", in_turn([fresh(1, 1), complete(1), WAIT])),
        ("in flight before its begin", in_turn([WAIT, fresh(1, 1)])),
        ("an interruption that is not told", in_turn([fresh(1, 1), Call::Drop { fence: 1 }, fresh(2, 1)])),
        (
            "an interruption that a release undid",
            in_turn([fresh(1, 1), Call::Drop { fence: 1 }, fresh(2, 2), release(2), fresh(3, 1)]),
        ),
        ("an interruption that never was", in_turn([fresh(1, 1), release(1), fresh(2, 2)])),
        ("resolved though it was vacant", in_turn([Call::Resolve(Some(Grant { fence: 1, attempt: 1 }))])),
        (
            "not resolved though interrupted",
            in_turn([fresh(1, 1), Call::Drop { fence: 1 }, Call::Resolve(None)]),
        ),
        ("forgotten while a claim is out", in_turn([fresh(1, 1), FORGOT])),
        (
            "nothing to forget though there is",
            in_turn([fresh(1, 1), complete(1), Call::Forget(Forgot::Nothing)]),
        ),
        (
            "a claim where a record is forgotten",
            after_completion(vec![FORGOT, Call::Forget(Forgot::Refused)]),
        ),
        ("forgotten twice", in_turn([fresh(1, 1), complete(1), FORGOT, FORGOT])),
        ("not resolved though it is still shown as interrupted", while_forgotten()),
    ];
    for (what, history) in bad {
        assert!(!is_explained(&history), "{what}");
    }
}

fn is_explained_with_leases(history: &[Timed<Call>]) -> bool {
    is_linearizable::<LeasedKey>(State::new(), history)
}

#[test]
fn a_lease_explains_no_more_than_an_interruption() {
    let explained = |calls: &[Call]| is_explained_with_leases(&in_turn(calls.iter().cloned()));
    let superseded = Call::Complete { outcome: outcome(1), accepted: false };
    let lapsed = [fresh(1, 1), Call::Advance];
    let then = |calls: &[Call]| explained(&[&lapsed, calls].concat());
    assert!(then(&[fresh(2, 2), superseded.clone(), complete(2), done(2)]));
    assert!(then(&[Call::Get(Seen::Interrupted), FORGOT, fresh(2, 1)]));
    assert!(!then(&[fresh(2, 1)]), "the interruption is not told");
    assert!(!then(&[fresh(2, 2), complete(1)]), "a superseded claim completed");
    assert!(!then(&[superseded.clone(), Call::Get(Seen::Vacant)]), "nobody released it");
    assert!(!then(&[complete(1), fresh(2, 2)]), "granted after it was done");
    assert!(!then(&[Call::Get(Seen::Interrupted), complete(1)]), "an interrupted claim completed");
    for told in [fresh(2, 2), superseded, Call::Get(Seen::Interrupted), FORGOT] {
        assert!(!explained(&[Call::Advance, fresh(1, 1), told]), "its lease was not over");
    }
}

/// A claim is none whose lease ends before the log has it, and who asked for it asks again.
#[test]
fn a_begin_may_have_a_claim_that_comes_to_nothing_each_time_that_the_clock_moves() {
    let explained = |attempt: u32, meanwhile: &[Call]| {
        let begin = Timed { thread: 99, called: 0, returned: Some(100), call: fresh(9, attempt) };
        let meanwhile = in_turn(meanwhile.iter().cloned()).into_iter().map(|call| later(call, 1));
        is_explained_with_leases(&meanwhile.chain([begin]).collect::<Vec<_>>())
    };
    let [found, busy] = [Seen::Interrupted, Seen::InFlight].map(Call::Get);
    let clock = Call::Advance;
    assert!(explained(1, &[clock.clone(), found.clone()]));
    assert!(!explained(1, std::slice::from_ref(&found)), "the clock did not move");
    assert!(!explained(3, &[clock.clone(), found.clone()]), "it moved once");
    assert!(explained(1, &[clock.clone(), FORGOT, clock.clone(), found.clone(), busy.clone()]));
    assert!(!explained(1, &[FORGOT, clock.clone(), found.clone(), busy.clone()]), "it moved too late");
    assert!(!explained(1, &[clock.clone(), FORGOT, found.clone(), busy.clone()]), "it moved once");
    let resolve = Timed { thread: 99, called: 0, returned: Some(100), call: Call::Resolve(None) };
    let meanwhile = in_turn([clock, busy, found]).into_iter().map(|call| later(call, 1));
    let history: Vec<_> = meanwhile.chain([resolve]).collect();
    assert!(!is_explained_with_leases(&history), "a resolve has no claim of a key that nobody claimed");
}

#[test]
fn a_call_that_never_returned_may_have_had_its_effect_or_not() {
    let mut history = in_turn([fresh(1, 1), complete(1), done(1)]);
    history[1].returned = None;
    assert!(is_explained(&history));
    let mut history = in_turn([fresh(1, 1), complete(1), WAIT]);
    history[1].returned = None;
    assert!(is_explained(&history));
    let mut history = in_turn([fresh(1, 1), done(1), complete(1)]);
    history[2].returned = None;
    assert!(!is_explained(&history), "it had no effect before it was called");
}

#[test]
fn a_begin_that_nobody_waited_for_leaves_nothing_behind() {
    let mut let_go = vec![Timed { thread: 0, called: 0, returned: None, call: Call::LetGo }];
    let later_calls = |calls: Vec<Call>| in_turn(calls).into_iter().map(|call| later(call, 10));
    let_go.extend(later_calls(vec![WAIT, Call::Get(Seen::Vacant), fresh(2, 1), complete(2), done(2)]));
    assert!(is_explained(&let_go), "it is given back after a while");
    let_go.truncate(1);
    let_go.extend(later_calls(vec![WAIT, Call::Get(Seen::Interrupted)]));
    assert!(!is_explained(&let_go), "nobody has run anything");
}

#[test]
fn a_token_does_not_carry_that_a_claim_resolves() {
    let resolved =
        [fresh(1, 1), Call::Drop { fence: 1 }, Call::Resolve(Some(Grant { fence: 2, attempt: 2 }))];
    let then = |calls: Vec<Call>| in_turn(resolved.iter().cloned().chain(calls));
    assert!(is_explained(&then(vec![Call::HandOver { fence: 2 }, release(2), fresh(3, 3)])));
    assert!(!is_explained(&then(vec![Call::HandOver { fence: 2 }, release(2), fresh(3, 1)])));
}

#[test]
fn a_claim_that_is_put_back_leaves_the_key_as_it_was() {
    let lost = [fresh(1, 1), Call::Drop { fence: 1 }];
    let resolved = Resolved::Granted(Grant { fence: 2, attempt: 2 });
    let then = |calls: Vec<Call>| is_explained(&in_turn(lost.iter().cloned().chain(calls)));
    assert!(then(vec![resolve_if(1, resolved), put_back(2), fresh(3, 2)]));
    assert!(!then(vec![resolve_if(1, resolved), put_back(2), fresh(3, 3)]), "it counts as an attempt");
    assert!(!then(vec![resolve_if(1, resolved), put_back(2), fresh(3, 1)]), "it speaks for the others");
    assert!(then(vec![fresh(2, 2), Call::HandOver { fence: 2 }, put_back(2), fresh(3, 3)]));
    assert!(!then(vec![fresh(2, 2), Call::HandOver { fence: 2 }, put_back(2), fresh(3, 2)]));
    assert!(is_explained(&in_turn([fresh(1, 1), put_back(1), fresh(2, 1)])));
    assert!(!is_explained(&in_turn([fresh(1, 1), put_back(1), Call::Get(Seen::Interrupted)])));
    assert!(!is_explained(&in_turn([fresh(1, 1), put_back(1), complete(1)])), "it was put back");
}

#[test]
fn only_the_attempt_that_was_seen_is_resolved() {
    let lost_twice = [fresh(1, 1), Call::Drop { fence: 1 }, fresh(2, 2), Call::Drop { fence: 2 }];
    let granted = Resolved::Granted(Grant { fence: 3, attempt: 3 });
    let then = |calls: Vec<Call>| is_explained(&in_turn(lost_twice.iter().cloned().chain(calls)));
    assert!(then(vec![resolve_if(2, granted), complete(3)]));
    assert!(!then(vec![resolve_if(1, granted)]), "another was lost since");
    assert!(then(vec![resolve_if(1, Resolved::Another)]));
    assert!(!then(vec![resolve_if(2, Resolved::Another)]));
    assert!(!then(vec![resolve_if(2, Resolved::NotInterrupted)]));
    // A later attempt that was released leaves the interruption standing, with its fence.
    let stands = |only, resolved| then(vec![fresh(3, 3), release(3), resolve_if(only, resolved)]);
    let fourth = Resolved::Granted(Grant { fence: 4, attempt: 4 });
    assert!(stands(2, fourth) && !stands(3, fourth) && stands(3, Resolved::Another));
}
