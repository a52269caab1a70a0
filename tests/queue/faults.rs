//! Disks that fail, engines that are closed, leases that run out under a handler.

use std::pin::pin;
use std::time::Duration;

use crate::common::{Machine, poll, request};
use crate::helpers::{Does, Handled, Tasks, describe, handle, message, start};
use idemkv::queue::Settlement::{Acknowledge, DeadLetter, RetryLater};
use idemkv::queue::{Consumer, Delivery, Reason};
use idemkv::sim::DiskFault;
use idemkv::{Begin, BeginError, ClaimError, Fingerprint, Policy, Status};

#[test]
fn a_message_whose_result_is_not_stored_comes_again_and_does_not_run_again() {
    let machine = Machine::default();
    let engine = machine.open();
    let consumer = Consumer::new(&engine.scope("shipments"));
    let (tasks, handled) = (Tasks::default(), Handled::default());
    let mut call = pin!(start(&consumer, &tasks, vec![message("a")], &handled));
    assert!(poll(call.as_mut()).is_pending());
    tasks.poll_all();
    engine.step();
    // The grant is on the disk. Now the handler runs, and the disk takes nothing more.
    machine.disk.fault_at(machine.disk.operations(), DiskFault::Error);
    let settled = tasks.run(&engine, call).unwrap();
    assert_eq!(handled.keys(), ["a"]);
    assert_eq!(settled[0].settlement(), RetryLater);
    assert!(matches!(settled[0].reason, Reason::NotStored(ClaimError::Commit(_))), "{:?}", settled[0]);

    let (settled, ran) = handle(&engine, &consumer, vec![message("a"), message("b")]);
    assert!(ran.is_empty(), "an engine whose commit failed grants nothing");
    for settled in &settled {
        assert_eq!(settled.settlement(), RetryLater, "{settled:?}");
    }
    machine.kill(engine);
    machine.disk.mend();
    let engine = machine.open();
    let consumer = Consumer::new(&engine.scope("shipments"));
    let (settled, ran) = handle(&engine, &consumer, vec![message("a"), message("b")]);
    assert_eq!(ran, ["b"], "the effect of the other may have happened");
    assert_eq!([settled[0].settlement(), settled[1].settlement()], [DeadLetter, Acknowledge]);
    assert!(matches!(settled[0].reason, Reason::NotBegun(BeginError::Unresolved(_))));
}

#[test]
fn messages_of_a_closed_engine_come_again() {
    let engine = Machine::default().open();
    let consumer = Consumer::new(&engine.scope("shipments"));
    let (tasks, handled) = (Tasks::default(), Handled::default());
    engine.close().unwrap();
    let mut call = pin!(start(&consumer, &tasks, vec![message("a")], &handled));
    assert!(poll(call.as_mut()).is_pending());
    tasks.poll_all();
    let settled = crate::common::ready(call.as_mut()).unwrap();
    assert_eq!(settled[0].settlement(), RetryLater);
    assert!(matches!(settled[0].reason, Reason::NotBegun(BeginError::Closed)));
    assert!(handled.keys().is_empty());
}

#[test]
fn a_handler_that_outlives_its_lease_leaves_its_key_interrupted() {
    let machine = Machine::default();
    let lease = Duration::from_secs(20);
    let engine = machine.options().policy(Policy::default().lease(lease)).open("x.idem").unwrap();
    let scope = engine.scope("shipments");
    let consumer = Consumer::new(&scope).visibility_timeout(Duration::from_secs(30)).unwrap();
    let tasks = Tasks::default();
    let clock = machine.clock.clone();
    let call = consumer.handle(
        vec![message("a")],
        describe,
        |task| tasks.spawn(task),
        move |_claim, _message| {
            clock.advance(lease);
            Box::pin(async { Ok(Vec::new()) })
        },
    );
    let settled = tasks.run(&engine, call).unwrap();
    assert_eq!(settled[0].settlement(), RetryLater);
    assert!(matches!(settled[0].reason, Reason::NotStored(ClaimError::Superseded(_))), "{:?}", settled[0]);
    engine.step();
    assert!(matches!(scope.get("a"), Ok(Status::Interrupted(_))));
    let (settled, ran) = handle(&engine, &consumer, vec![message("a").that(Does::Panics)]);
    assert_eq!((settled[0].settlement(), ran.len()), (DeadLetter, 0));
}

#[test]
fn a_result_for_which_the_log_has_no_room_is_remembered_as_done() {
    let machine = Machine::default();
    let options = machine.options().reserve_bytes(0).log_bytes(128 << 10).queue_timeout(Duration::ZERO);
    let engine = options.open("x.idem").unwrap();
    let scope = engine.scope("shipments");
    let (consumer, others) = (Consumer::new(&scope), engine.scope("others"));
    let tasks = Tasks::default();
    let claims = std::sync::Mutex::new(Vec::new());
    let call = consumer.handle(
        vec![message("a")],
        describe,
        |task| tasks.spawn(task),
        move |_claim, _message| {
            // Other claims take all the room there is.
            let mut claims = claims.lock().unwrap();
            while let Ok(Begin::Fresh(claim)) =
                others.begin(format!("{:0>200}", claims.len()), Fingerprint::of(""))
            {
                claims.push(claim);
            }
            Box::pin(async { Ok(vec![7; 4_000]) })
        },
    );
    let settled = tasks.run(&engine, call).unwrap();
    assert_eq!(settled[0].settlement(), Acknowledge, "{settled:?}");
    let Ok(Status::Done(record)) = scope.get("a") else { panic!("it is done") };
    assert!(!record.is_body_kept());
}

/// A payload that panics as it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::panic_any(Self);
    }
}

/// The whole batch was lost with it.
#[test]
fn a_panic_that_carries_what_panics_as_it_is_dropped_is_told_as_any_other() {
    let engine = Machine::default().open();
    let (consumer, tasks) = (Consumer::new(&engine.scope("shipments")), Tasks::default());
    let handled = consumer.handle(
        vec!["a", "b"],
        |key| Delivery::new(*key, request()),
        |task| tasks.spawn(Box::pin(task)),
        |_, message| {
            Box::pin(async move {
                if *message == "a" {
                    std::panic::panic_any(Bomb);
                }
                Ok(Vec::new())
            })
        },
    );
    let settled = tasks.run(&engine, handled).unwrap();
    assert!(matches!(settled[0].reason, Reason::Panicked), "{settled:?}");
    assert!(matches!(settled[1].reason, Reason::Ran(_)), "{settled:?}");
}
