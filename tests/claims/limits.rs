//! How many claims a scope may have.

use std::time::Duration;

use crate::common::{Machine, done, fresh, poll, request};
use crate::helpers::{Fences, LEASE, rerun, with};
use idemkv::{BeginError, Busy, Claim, Durability, Scope};

#[test]
fn a_scopes_limit_counts_its_claims_and_no_others_however_they_end() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = with(&engine, "scope", engine.policy().lease(LEASE).max_in_flight(2));
    let full = |scope: &Scope| {
        let refused = scope.begin("one more", request());
        matches!(refused, Err(BeginError::Busy(Busy::TooManyClaims { max: 2 })))
    };
    let first = fresh(&scope, "first");
    let second = fresh(&scope, "second");
    assert!(full(&scope));
    fresh(&engine.scope("other"), "key").complete("reply").unwrap();
    done(&engine.scope("other"), "key");
    let ends: [fn(Claim); 5] = [
        |claim| drop(claim.complete("").unwrap()),
        |claim| drop(claim.fail("").unwrap()),
        |claim| claim.release().unwrap(),
        drop,
        |claim| drop(claim.into_token().unwrap()),
    ];
    first.complete("").unwrap();
    for (n, end) in ends.into_iter().enumerate() {
        end(fresh(&scope, &format!("key {n}")));
    }
    assert!(full(&scope), "a claim handed over is out");
    machine.clock.advance(LEASE);
    engine.step();
    drop(fresh(&scope, "another"));
    let third = fresh(&scope, "third");
    assert!(full(&scope), "a holder that is late still counts");
    assert!(second.complete("late").is_err());
    assert!(!full(&scope));
    drop(third);
    assert_eq!(engine.stats().in_flight, 0);
}

#[test]
fn a_scopes_limit_counts_claims_handed_over_before_a_restart() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = with(&engine, "scope", engine.policy().lease(LEASE).max_in_flight(1));
    let token = fresh(&scope, "key").into_token().unwrap();
    machine.kill((engine, scope));
    let engine = machine.open();
    let scope = engine.scope("scope");
    let refused = scope.begin("another", request());
    assert!(matches!(refused, Err(BeginError::Busy(Busy::TooManyClaims { max: 1 }))), "{refused:?}");
    scope.resume(&token).unwrap().complete("reply").unwrap();
    fresh(&scope, "another").complete("reply").unwrap();
}

/// The log is small and each claim has thousands of bytes of it promised, so a promise that is not
/// taken back is missed soon.
#[test]
fn nothing_stays_promised_or_counted_whatever_becomes_of_claims() {
    let machine = Machine::rerun();
    let engine = machine.options().queue_timeout(Duration::ZERO).open("x.idem").unwrap();
    let scopes = [Durability::Full, Durability::Completions, Durability::Relaxed(LEASE)].map(|durability| {
        let policy = rerun(&engine).lease(LEASE).durability(durability).max_in_flight(3);
        with(&engine, &format!("{durability:?}"), policy)
    });
    let mut fences = Fences::default();
    for round in 0..150 {
        for scope in &scopes {
            let key = |name: &str| format!("{name} {round}");
            let mut noted = fences.saw(fresh(scope, &key("noted")));
            noted.save_progress("note").unwrap();
            noted.release().unwrap();
            let token = fences.saw(fresh(scope, &key("token"))).into_token().unwrap();
            let lost = fences.saw(fresh(scope, &key("lost"))).into_token().unwrap();
            scope.resume(&token).unwrap().complete("reply").unwrap();
            let mut late = fences.saw(fresh(scope, &key("late")));
            machine.clock.advance(LEASE);
            assert!(scope.resume(&lost).is_err() && late.save_progress("late").is_err());
            let next = fences.saw(fresh(scope, &key("late")));
            assert!(late.complete("late").is_err());
            next.release().unwrap();
            fences.saw(scope.resolve(key("late")).unwrap()).release().unwrap();
            // Given up before it was asked, while it is on its way, and once it is there.
            for steps in 0..3 {
                let mut begin = Box::pin(scope.begin_async(key("dropped"), request()));
                for _ in 0..steps {
                    if poll(begin.as_mut()).is_ready() {
                        break;
                    }
                    engine.step();
                }
            }
            if let Ok(claim) = scope.resolve(key("dropped")) {
                claim.release().unwrap();
            }
        }
        if round % 50 == 0 {
            engine.checkpoint().unwrap();
        }
    }
    assert_eq!(engine.stats().in_flight, 0);
}
