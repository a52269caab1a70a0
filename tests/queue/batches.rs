//! Batches: duplicates, order, limits, tasks that are dropped.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{Machine, fresh, poll};
use crate::helpers::{Does, Handled, Tasks, describe, handle, message, settlements, start};
use idemkv::queue::Settlement::{Acknowledge, DeadLetter, RetryLater};
use idemkv::queue::{BatchLost, Consumer, Reason};
use idemkv::{Fingerprint, Status};

#[test]
fn a_message_is_handled_once_however_often_it_comes() {
    let machine = Machine::default();
    let engine = machine.open();
    let consumer = Consumer::new(&engine.scope("shipments"));
    let (settled, handled) = handle(&engine, &consumer, vec![message("a"), message("b"), message("a")]);
    assert_eq!(settlements(&settled), [Acknowledge; 3]);
    assert_eq!(handled.len(), 2, "the twin in the batch is answered by the result of the first");
    assert!(matches!(&settled[0].reason, Reason::Ran(record) if record.body() == b"shipped"));
    assert!(matches!(&settled[2].reason, Reason::Replayed(record) if record.body() == b"shipped"));
    engine.close().unwrap();

    let engine = machine.open();
    let consumer = Consumer::new(&engine.scope("shipments"));
    let (settled, handled) = handle(&engine, &consumer, vec![message("b"), message("c")]);
    assert_eq!(settlements(&settled), [Acknowledge; 2]);
    assert_eq!(handled, ["c"], "after a restart too");
}

#[test]
fn messages_that_begin_and_end_together_share_commits() {
    let engine = Machine::default()
        .options()
        .log_bytes(1 << 20)
        .log_segment_bytes(256 << 10)
        .batch_bytes(32 << 10)
        .open("x.idem")
        .unwrap();
    let consumer = Consumer::new(&engine.scope("shipments"));
    let before = engine.stats().commits;
    let batch: Vec<_> = (0..64).map(|number| message(&format!("m-{number}"))).collect();
    let (settled, _) = handle(&engine, &consumer, batch);
    assert!(settled.iter().all(|done| matches!(done.reason, Reason::Ran(_))));
    let commits = engine.stats().commits - before;
    assert!(commits <= 4, "{commits} commits for 64 grants and 64 results");
}

#[test]
fn no_more_messages_are_under_way_than_allowed_and_as_many() {
    let machine = Machine::default();
    let engine = machine.open();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let consumer = Consumer::new(&engine.scope("shipments")).concurrency(5);
    let batch: Vec<_> = (0..23).map(|number| message(&format!("m-{number}"))).collect();
    let tasks = Tasks::default();
    let (in_handlers, seen) = (Arc::clone(&running), Arc::clone(&most));
    let call = consumer.handle(
        batch,
        describe,
        |task| tasks.spawn(task),
        move |_claim, _message| {
            let (running, most) = (Arc::clone(&in_handlers), Arc::clone(&seen));
            Box::pin(async move {
                most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                yield_twice().await;
                running.fetch_sub(1, Ordering::Relaxed);
                Ok(Vec::new())
            })
        },
    );
    assert_eq!(settlements_of(tasks.run(&engine, call)), [Acknowledge; 23]);
    assert_eq!(most.load(Ordering::Relaxed), 5);
}

fn settlements_of<M>(
    settled: Result<Vec<idemkv::queue::Settled<M>>, BatchLost>,
) -> Vec<idemkv::queue::Settlement> {
    settled.unwrap().iter().map(idemkv::queue::Settled::settlement).collect()
}

async fn yield_twice() {
    let mut left = 2;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return std::task::Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

#[test]
fn a_group_keeps_its_order_and_stops_at_a_message_that_comes_again() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("shipments");
    let elsewhere = fresh(&scope, "elsewhere");
    let mut taken = message("elsewhere").of("second");
    taken.body = "request".to_owned();
    let batch = vec![
        message("1").of("first"),
        taken,
        message("2").of("first").that(Does::Nothing),
        message("3").of("first"),
        message("alone"),
        message("4").of("second"),
        message("5").of("first"),
        message("6").of("third").that(Does::FailsForGood),
        message("7").of("third"),
    ];
    let (settled, mut handled) = handle(&engine, &Consumer::new(&scope), batch);
    assert_eq!(
        settlements(&settled),
        [
            Acknowledge,
            RetryLater,
            RetryLater,
            RetryLater,
            Acknowledge,
            RetryLater,
            RetryLater,
            DeadLetter,
            Acknowledge
        ]
    );
    assert!(matches!(settled[1].reason, Reason::InFlight(_)));
    for behind in [3, 5, 6] {
        assert!(matches!(settled[behind].reason, Reason::Behind), "{:?}", settled[behind]);
        let status = scope.get(&settled[behind].message.key);
        assert!(matches!(status, Ok(Status::Vacant)), "it was not begun, and is {status:?}");
    }
    let place = |key: &str| handled.iter().position(|handled| handled == key);
    assert!(place("1") < place("2") && place("6") < place("7"));
    handled.sort();
    assert_eq!(handled, ["1", "2", "6", "7", "alone"]);
    elsewhere.release().unwrap();
}

#[test]
fn twins_wait_for_each_other_and_the_second_does_not_run_where_the_first_did_nothing() {
    let engine = Machine::default().open();
    let twins = vec![message("a").that(Does::Nothing), message("a")];
    let (settled, handled) = handle(&engine, &Consumer::new(&engine.scope("shipments")), twins);
    assert_eq!(settlements(&settled), [RetryLater; 2]);
    assert!(matches!(settled[1].reason, Reason::Behind));
    assert_eq!(handled, ["a"]);
}

#[test]
fn a_batch_goes_on_without_its_caller() {
    let machine = Machine::default();
    let engine = machine.open();
    let consumer = Consumer::new(&engine.scope("shipments"));
    let (tasks, handled) = (Tasks::default(), Handled::default());
    {
        let mut call = pin!(start(&consumer, &tasks, vec![message("a"), message("b")], &handled));
        assert!(poll(call.as_mut()).is_pending());
    }
    for _ in 0..8 {
        tasks.poll_all();
        engine.step();
    }
    let (settled, ran) = handle(&engine, &consumer, vec![message("a"), message("b")]);
    assert_eq!((settlements(&settled), ran), (vec![Acknowledge; 2], vec![]));
    assert_eq!(handled.keys(), ["a", "b"]);
}

#[test]
fn a_batch_that_the_executor_drops_is_lost_and_its_running_messages_are_interrupted() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("shipments");
    let consumer = Consumer::new(&scope).concurrency(2);
    let (tasks, handled) = (Tasks::default(), Handled::default());
    let batch =
        vec![message("done"), message("running").that(Does::Hangs), message("also").that(Does::Hangs)];
    let mut call = pin!(start(&consumer, &tasks, batch, &handled));
    for _ in 0..8 {
        assert!(poll(call.as_mut()).is_pending());
        tasks.poll_all();
        engine.step();
    }
    tasks.drop_all();
    assert_eq!(crate::common::ready(call.as_mut()).map(|_| ()), Err(BatchLost));
    engine.step();
    assert!(matches!(scope.get("done"), Ok(Status::Done(_))));
    assert!(matches!(scope.get("running"), Ok(Status::Interrupted(_))));
    assert!(matches!(scope.get("also"), Ok(Status::Interrupted(_))));
}

#[test]
fn another_content_under_a_key_and_a_key_that_can_not_be_used_are_dead_letters() {
    let engine = Machine::default().open();
    let scope = engine.scope("shipments");
    let consumer = Consumer::new(&scope);
    handle(&engine, &consumer, vec![message("a")]);
    let mut other = message("a");
    other.body = "ship 8".to_owned();
    let (settled, handled) = handle(&engine, &consumer, vec![other, message(""), message("b")]);
    assert_eq!(settlements(&settled), [DeadLetter, DeadLetter, Acknowledge]);
    assert_eq!(handled, ["b"], "and do not hold up the others");
    let Ok(Status::Done(record)) = scope.get("a") else { panic!("the first stands") };
    assert_eq!(*record.fingerprint(), Fingerprint::of("ship 7"));
}
