//! Places in the queue are given in line, and wake the callers that get them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::common::{Machine, poll, request};
use crate::helpers::Count;
use idemkv::{Begin, BeginError};

type Begins<'a> = Pin<Box<dyn Future<Output = Result<Begin, BeginError>> + 'a>>;

#[test]
fn a_task_that_waits_for_a_place_in_the_queue_is_not_passed_by_those_that_come_later() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = engine.default_scope();
    let mut first: Begins<'_> = Box::pin(scope.begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending(), "it has the only place");
    let mut given: Begins<'_> = Box::pin(scope.begin_async("given", request()));
    assert!(poll(given.as_mut()).is_pending(), "it gets the next place, and does not come for it");
    let mut waits: Begins<'_> = Box::pin(scope.begin_async("waits", request()));
    assert!(poll(waits.as_mut()).is_pending(), "it waits for a place");
    let mut passed_by = 0;
    for n in 0..100 {
        // The place is free. Another call comes before the executor polls the one that waits.
        engine.flush().unwrap();
        let mut later: Begins<'_> = Box::pin(scope.begin_async(format!("later {n}"), request()));
        assert!(poll(later.as_mut()).is_pending());
        if let Poll::Ready(answer) = poll(waits.as_mut()) {
            assert!(matches!(answer, Ok(Begin::Fresh(_))), "{answer:?}");
            break;
        }
        engine.flush().unwrap();
        if let Poll::Ready(Ok(Begin::Fresh(claim))) = poll(later.as_mut()) {
            passed_by += 1;
            claim.release().unwrap();
        }
    }
    assert!(passed_by == 0, "{passed_by} calls that came later had their claims before it");
}

fn all_waiting<'a>(scope: &'a idemkv::Scope, counts: &[Arc<Count>]) -> Vec<Begins<'a>> {
    let begins = counts.iter().enumerate().map(|(n, count)| {
        let mut begin: Begins<'a> = Box::pin(scope.begin_async(format!("key {n}"), request()));
        let waker = Waker::from(Arc::clone(count));
        assert!(begin.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        begin
    });
    begins.collect()
}

#[test]
fn a_place_in_the_queue_wakes_the_task_that_gets_it_and_no_others() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).log_bytes(64 << 20).open("x.idem").unwrap();
    let counts: Vec<Arc<Count>> = (0..1_000).map(|_| Arc::default()).collect();
    let scope = engine.default_scope();
    let waiting = all_waiting(scope, &counts);
    assert_eq!(engine.stats().waiting_for_room, 0, "they have their room in the log");
    engine.flush().unwrap();
    let woken: usize = counts.iter().map(|count| count.get()).sum();
    // The one whose entry was written, and the one that has its place.
    assert!(woken <= 2, "one place came free, and {woken} tasks were woken for it");
    drop(waiting);
}

#[test]
fn a_place_in_the_queue_that_a_task_was_given_and_does_not_take_goes_to_the_next() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let counts: Vec<Arc<Count>> = (0..3).map(|_| Arc::default()).collect();
    let scope = engine.default_scope();
    let mut waiting = all_waiting(scope, &counts);
    engine.flush().unwrap();
    assert_eq!((counts[1].get(), counts[2].get()), (1, 0));
    drop(waiting.remove(1));
    assert_eq!(counts[2].get(), 1, "the place is lost with the task that was given it");
    let Ok(Begin::Fresh(_)) = crate::common::run(&engine, waiting.pop().unwrap()) else { panic!("fresh") };
}

/// A task may be polled late, or never again while it is kept.
#[test]
fn a_task_that_does_not_come_for_its_place_in_the_queue_holds_up_no_others() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let counts: Vec<Arc<Count>> = (0..3).map(|_| Arc::default()).collect();
    let scope = engine.default_scope();
    let Begin::Fresh(claim) = scope.begin("claim", request()).unwrap() else { panic!("fresh") };
    let mut waiting = all_waiting(scope, &counts);
    engine.flush().unwrap();
    assert_eq!((counts[1].get(), counts[2].get()), (1, 0));
    // A completion passes through the queue. The place that the first was given is still its own.
    claim.complete(b"done").unwrap();
    assert_eq!(counts[2].get(), 1, "the line stands still");
    for begin in waiting.drain(1..).rev() {
        let Ok(Begin::Fresh(_)) = crate::common::run(&engine, begin) else { panic!("fresh") };
    }
}
