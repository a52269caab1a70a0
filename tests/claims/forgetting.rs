//! Keys that are forgotten.

use std::pin::pin;

use crate::common::{Machine, TTL, UNRESOLVED, default_scope, done, fresh, poll, ready};
use idemkv::{ForgetError, ResolveError, Status};

#[test]
fn forgetting_is_durable_and_lets_the_key_run_again() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "in the log").complete("reply").unwrap();
    fresh(&scope, "in the store").complete("reply").unwrap();
    drop(fresh(&scope, "interrupted"));
    engine.checkpoint().unwrap();
    for key in ["in the log", "in the store", "interrupted"] {
        assert!(scope.forget(key).unwrap(), "{key}");
        assert!(!scope.forget(key).unwrap(), "{key}");
    }
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!(engine.entries().count(), 0);
    let scope = default_scope(&engine);
    fresh(&scope, "in the store").complete("again").unwrap();
    engine.checkpoint().unwrap();
    drop(scope);
    machine.kill(engine);
    assert_eq!(done(&default_scope(&machine.open()), "in the store").body(), b"again");
}

#[test]
fn what_came_since_an_operator_looked_is_not_forgotten() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    let Ok(Status::Interrupted(seen)) = scope.get("key") else { panic!("it is interrupted") };
    drop(fresh(&scope, "key"));
    assert!(!scope.forget_if("key", &seen).unwrap(), "another attempt was interrupted");
    assert!(matches!(scope.get("key"), Ok(Status::Interrupted(_))));
    let record = fresh(&scope, "key").complete("reply").unwrap();
    assert!(!scope.forget_if("key", &seen).unwrap(), "a retry has run");
    engine.checkpoint().unwrap();
    assert_eq!(done(&scope, "key").body(), b"reply");
    assert!(scope.forget_if("key", &record).unwrap());
    assert!(!scope.forget_if("key", &record).unwrap());
    assert!(matches!(scope.get("key"), Ok(Status::Vacant)));
}

#[test]
fn a_key_forgotten_twice_stays_forgotten_when_the_first_records_time_has_come() {
    let machine = Machine::default();
    let engine = machine.open();
    for body in ["one", "two"] {
        fresh(&default_scope(&engine), "key").complete(body).unwrap();
        engine.checkpoint().unwrap();
        assert!(engine.default_scope().forget("key").unwrap());
        engine.checkpoint().unwrap();
        machine.clock.advance(TTL / 2);
    }
    machine.clock.advance(TTL / 4);
    engine.checkpoint().unwrap();
    machine.kill(engine);
    let status = machine.open().default_scope().get("key").unwrap();
    assert!(matches!(status, Status::Vacant), "{status:?}");
}

#[test]
fn a_key_forgotten_run_again_and_released_does_not_come_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    assert!(scope.forget("key").unwrap());
    fresh(&scope, "key").release().unwrap();
    drop(scope);
    engine.close().unwrap();
    assert!(matches!(machine.open().default_scope().get("key").unwrap(), Status::Vacant));
}

#[test]
fn what_is_counted_as_forgotten_is_what_was_known() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    for key in ["is over", "interrupted"] {
        drop(fresh(&scope, key));
        if key == "is over" {
            machine.clock.advance(UNRESOLVED);
        }
    }
    fresh(&scope, "done").complete("reply").unwrap();
    // Its row goes all the same.
    assert!(!scope.forget("is over").unwrap());
    assert_eq!(engine.stats().forgotten, 0);
    assert!(scope.forget("interrupted").unwrap() && scope.forget("done").unwrap());
    assert_eq!(engine.stats().forgotten, 2);
}

#[test]
fn a_key_in_flight_cannot_be_forgotten() {
    let machine = Machine::default();
    let engine = machine.open();
    let _claim = fresh(&default_scope(&engine), "key");
    assert!(matches!(engine.default_scope().forget("key"), Err(ForgetError::InFlight)));
    assert!(!engine.default_scope().forget("another").unwrap());
}

/// The sync takes long. Another operator looks at the key, and forgets it too.
#[test]
fn a_record_that_is_being_forgotten_is_shown_as_no_claim() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    let mut forgets = pin!(scope.forget_async("key"));
    assert!(poll(forgets.as_mut()).is_pending());
    assert!(matches!(scope.get("key"), Ok(Status::Done(record)) if record.body() == b"reply"));
    assert_eq!((engine.in_flight().get().unwrap().len(), engine.stats().in_flight), (0, 0));
    // Nothing is left to resolve or forget, which is told once that is durable.
    assert!(matches!(scope.forget("key"), Ok(false)));
    assert!(matches!(scope.get("key"), Ok(Status::Vacant)));
    assert!(matches!(ready(forgets.as_mut()), Ok(true)));
}

#[test]
fn an_interruption_that_is_being_forgotten_is_shown_until_it_is() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let mut claim = fresh(&scope, "key");
    claim.save_progress("charged").unwrap();
    drop(claim);
    let mut forgets = pin!(scope.forget_async("key"));
    assert!(poll(forgets.as_mut()).is_pending());
    let Ok(Status::Interrupted(shown)) = scope.get("key") else { panic!("{:?}", scope.get("key")) };
    assert_eq!(&shown.last_progress().unwrap()[..], b"charged", "by this a person decides");
    let listed = engine.interrupted().get().unwrap();
    assert_eq!(listed[0].last_progress().unwrap(), b"charged");
    assert_eq!(engine.in_flight().get().unwrap().len(), 0);
    let resolved = scope.resolve("key");
    let is_right =
        matches!(&resolved, Err(ResolveError::NotInterrupted(now)) if matches!(**now, Status::Vacant));
    assert!(is_right, "{resolved:?}");
    assert!(matches!(ready(forgets.as_mut()), Ok(true)));
}
