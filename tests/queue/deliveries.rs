//! What becomes of a message from delivery to delivery.

use std::time::Duration;

use crate::common::{Machine, TTL, request};
use crate::helpers::{Does, Message, Tasks, handle, message};
use idemkv::queue::Settlement::{self, Acknowledge, DeadLetter, RetryLater};
use idemkv::queue::{Consumer, Delivery, Reason};
use idemkv::{Engine, Recovery, Scope, Status};

/// What a delivery of the message gets, and whether its handler ran.
#[track_caller]
fn deliver(engine: &Engine, consumer: &Consumer, message: Message) -> (Settlement, Reason, bool) {
    let (mut settled, handled) = handle(engine, consumer, vec![message]);
    let settled = settled.pop().unwrap();
    (settled.settlement(), settled.reason, !handled.is_empty())
}

fn shipments(machine: &Machine) -> (Engine, Scope) {
    let engine = machine.open();
    let scope = engine.scope("shipments");
    (engine, scope)
}

#[test]
fn each_end_of_a_handler_gets_its_settlement_and_so_does_the_delivery_after_it() {
    type Case = (Does, Settlement, bool, Settlement, fn(&Status) -> bool);
    let cases: [Case; 5] = [
        (Does::Succeeds(b"ok".to_vec()), Acknowledge, false, Acknowledge, |status| {
            matches!(status, Status::Done(_))
        }),
        (Does::FailsForGood, DeadLetter, false, DeadLetter, |status| matches!(status, Status::Done(_))),
        (Does::Nothing, RetryLater, true, RetryLater, |status| matches!(status, Status::Vacant)),
        (Does::Loses, RetryLater, false, DeadLetter, |status| matches!(status, Status::Interrupted(_))),
        (Does::Panics, RetryLater, false, DeadLetter, |status| matches!(status, Status::Interrupted(_))),
    ];
    for (does, first, runs_again, second, is) in cases {
        let (engine, scope) = shipments(&Machine::default());
        let consumer = Consumer::new(&scope);
        let (settlement, reason, ran) = deliver(&engine, &consumer, message("a").that(does.clone()));
        assert_eq!((settlement, ran), (first, true), "{does:?}: {reason:?}");
        engine.step();
        let status = scope.get("a").unwrap();
        assert!(is(&status), "{does:?} leaves {status:?}");
        let (settlement, reason, ran) = deliver(&engine, &consumer, message("a").that(does.clone()));
        assert_eq!((settlement, ran), (second, runs_again), "{does:?}, again: {reason:?}");
    }
}

#[test]
fn a_dead_letter_that_a_person_resolved_is_acknowledged_when_it_comes_again() {
    let (engine, scope) = shipments(&Machine::default());
    let consumer = Consumer::new(&scope);
    assert_eq!(deliver(&engine, &consumer, message("a").that(Does::Loses)).0, RetryLater);
    engine.step();
    let (settlement, reason, _) = deliver(&engine, &consumer, message("a"));
    assert_eq!(settlement, DeadLetter);
    assert!(matches!(reason, Reason::NotBegun(idemkv::BeginError::Unresolved(_))), "{reason:?}");
    scope.resolve("a").unwrap().complete("it was shipped").unwrap();
    let (settlement, reason, ran) = deliver(&engine, &consumer, message("a"));
    assert_eq!((settlement, ran), (Acknowledge, false));
    assert!(matches!(reason, Reason::Replayed(record) if record.body() == b"it was shipped"));
}

#[test]
fn the_last_delivery_of_a_message_whose_handler_does_nothing_is_a_dead_letter() {
    let (engine, scope) = shipments(&Machine::default());
    let consumer = Consumer::new(&scope).deliveries_max(3);
    let poison = message("a").that(Does::Nothing);
    for count in [1, 2] {
        assert_eq!(deliver(&engine, &consumer, poison.clone().delivered(count)).0, RetryLater);
    }
    for count in [3, 4] {
        let (settlement, reason, ran) = deliver(&engine, &consumer, poison.clone().delivered(count));
        assert_eq!((settlement, ran), (DeadLetter, true));
        assert!(
            matches!(reason, Reason::TooManyDeliveries { count: is, interrupted: None } if is == count),
            "{reason:?}"
        );
    }
    assert_eq!(deliver(&engine, &consumer, poison).0, RetryLater, "a count that is not known");
    let mended = message("a").delivered(9);
    assert_eq!(deliver(&engine, &consumer, mended).0, Acknowledge, "sent again by a person");
}

#[test]
fn a_message_that_breaks_its_consumer_is_a_dead_letter_before_it_breaks_one_more() {
    let machine = Machine::rerun();
    let poison = message("a").that(Does::Panics);
    for count in [1, 2] {
        let (engine, scope) = shipments(&machine);
        let consumer = Consumer::new(&scope).deliveries_max(2);
        let (settlement, _, ran) = deliver(&engine, &consumer, poison.clone().delivered(count));
        assert_eq!((settlement, ran), (RetryLater, true));
        machine.kill(engine);
    }
    let (engine, scope) = shipments(&machine);
    assert_eq!(scope.policy().get_recovery(), Recovery::Rerun);
    let consumer = Consumer::new(&scope).deliveries_max(2);
    for delivery in [3, 4] {
        let (settlement, reason, ran) = deliver(&engine, &consumer, poison.clone().delivered(delivery));
        assert_eq!((settlement, ran), (DeadLetter, false));
        let Reason::TooManyDeliveries { count, interrupted: Some(before) } = reason else {
            panic!("{reason:?}")
        };
        assert_eq!((count, before.attempt()), (delivery, 2), "the handler did not run since");
        let Ok(Status::Interrupted(now)) = scope.get("a") else { panic!("nobody knows what it did") };
        assert_eq!((now.attempt(), now.fence()), (2, before.fence()));
    }
    assert_eq!(scope.resolve("a").unwrap().attempt(), 3, "no delivery counts as an attempt");
}

#[test]
fn a_message_that_comes_after_its_result_went_is_acknowledged() {
    let machine = Machine::default();
    let policy = idemkv::Policy::default().ttl(TTL).tombstone_ttl(10 * TTL);
    let engine = machine.options().policy(policy).open("x.idem").unwrap();
    let consumer = Consumer::new(&engine.scope("shipments"));
    assert_eq!(deliver(&engine, &consumer, message("a")).0, Acknowledge);
    assert_eq!(deliver(&engine, &consumer, message("b").that(Does::FailsForGood)).0, DeadLetter);
    machine.clock.advance(2 * TTL);
    let (settlement, reason, ran) = deliver(&engine, &consumer, message("a"));
    assert_eq!((settlement, ran), (Acknowledge, false));
    assert!(matches!(reason, Reason::NotBegun(idemkv::BeginError::Expired(_))), "{reason:?}");
    assert_eq!(deliver(&engine, &consumer, message("b")).0, DeadLetter);
}

#[test]
fn a_result_that_is_too_long_is_remembered_as_done() {
    let (engine, scope) = shipments(&Machine::default());
    let consumer = Consumer::new(&scope);
    let long = message("a").that(Does::Succeeds(vec![1; 5_000]));
    let (settlement, reason, _) = deliver(&engine, &consumer, long.clone());
    assert_eq!(settlement, Acknowledge);
    assert!(matches!(reason, Reason::Ran(record) if !record.is_body_kept()));
    let (settlement, _, ran) = deliver(&engine, &consumer, long);
    assert_eq!((settlement, ran), (Acknowledge, false));
}

#[test]
fn a_handler_that_waits_for_its_own_key_is_told_so() {
    let (engine, scope) = shipments(&Machine::default());
    let (consumer, tasks) = (Consumer::new(&scope), Tasks::default());
    let handled = consumer.handle(
        vec!["key"],
        |key| Delivery::new(*key, request()),
        |task| tasks.spawn(Box::pin(task)),
        move |_, _| {
            let scope = scope.clone();
            Box::pin(async move {
                // With a longer time it would wait for itself.
                let again = scope.begin_or_wait_async("key", request(), Duration::ZERO).await;
                Ok(format!("{again:?}").into_bytes())
            })
        },
    );
    let settled = tasks.run(&engine, handled).unwrap();
    let Reason::Ran(record) = &settled[0].reason else { panic!("{settled:?}") };
    assert_eq!(std::str::from_utf8(record.body()), Ok("Err(OwnKey)"));
}
