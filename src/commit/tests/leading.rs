//! Which caller leads, for how long, and which is called to lead.

use std::sync::mpsc::sync_channel;
use std::thread;

use super::*;

#[test]
fn a_turn_is_over_once_it_was_long_enough_and_its_own_group_is_settled() {
    let status = CommitStatus::default();
    let (groups, little) = (LED_MAX as usize, Duration::from_millis(1));
    let long = [(groups, little), (groups + 1, little), (1, LED_FOR)];
    let long = long.map(|(groups, time)| Led { groups, time });
    assert!(long.iter().all(|led| !Turn::After(&status).is_over(*led)));
    status.settle(GroupEnd::Durable);
    for (turn, is_over) in [(Turn::After(&status), true), (Turn::Short, true), (Turn::Endless, false)] {
        assert!(long.iter().all(|led| turn.is_over(*led) == is_over));
        assert!(!turn.is_over(Led { groups: groups - 1, time: little }));
    }
    for groups in 1..20 {
        assert_eq!(Turn::Queued(groups).is_over(long[0]), groups <= LED_MAX as usize);
    }
    // Groups that take their time, while nothing else of a worker's work is done.
    assert!(Turn::Queued(50).is_over(long[2]));
    assert!(Turn::Queued(0).is_over(Led::default()));
    assert!(
        !Turn::ForPlace.is_over(Led::default()) && Turn::ForPlace.is_over(Led { groups: 1, time: little })
    );
}

#[test]
fn a_turn_ends_where_somebody_can_take_over_and_nowhere_else() {
    let led = LED_MAX as usize;
    let bench = Bench::new(1, Seen::default(), true);
    bench.append_all(0..20);
    bench.commit.lead_a_turn();
    assert_eq!(bench.groups(), led);
    assert!(bench.leader.take(), "nobody was called to take over");
    bench.commit.drain();
    assert_eq!(bench.groups(), 20);
    let alone = Bench::new(1, Seen::default(), false);
    alone.append_all(0..20);
    alone.commit.lead_a_turn();
    assert_eq!(alone.groups(), 20, "no caller is there to go on");
}

#[test]
fn a_thread_with_other_work_leads_for_what_was_queued_when_it_began_and_no_longer() {
    let bench = Bench::new(1, Seen { crowd: Crowd::of(100), ..Seen::default() }, true);
    bench.append_all(0..2);
    bench.leader.take();
    bench.commit.drain();
    assert_eq!(bench.groups(), 2, "the worker wrote what came meanwhile, too");
    assert!(bench.leader.take(), "nobody was called to take over");
    // So does the worker that stands in for the thread that leads.
    assert!(bench.commit.lead_if_called(Duty::BesideOthers).instant().is_none());
    assert_eq!(bench.groups(), 4);
    bench.commit.lead_if_called(Duty::Sole);
    assert_eq!(bench.groups(), 102, "a thread with no other work stops where nothing is left");
}

#[test]
fn a_caller_that_leads_for_a_place_has_the_first_that_it_makes() {
    let bench = Bench::new(1, Seen { crowd: Crowd::of(100), ..Seen::default() }, true);
    bench.append_all(0..50);
    let mut op = Some(100);
    let appended = bench.commit.append_now(
        Caller::Thread,
        ENTRY,
        &mut op,
        &mut bench.reserve(RESERVED),
        &mut QueueTimeout::new(Duration::ZERO),
        || true,
    );
    assert!(matches!(appended, Some(Ok(Some(_)))), "{appended:?}");
    assert_eq!(bench.groups(), 1, "others were let in, and led for, before the caller had its place");
    assert!(bench.leader.take(), "the caller may find that it need not wait, so somebody else was called");
    assert_eq!(bench.commit.queue.lock().entries(), 50);
}

#[test]
fn a_caller_that_leads_for_a_place_looks_at_its_patience_after_each_group() {
    let bench = Bench::new(1, Seen { crowd: Crowd::of(1_000), ..Seen::default() }, true);
    bench.append_all(0..50);
    // An entry for which many groups have to go.
    let long = [7; 90 * COUNTED];
    let appended = bench.commit.append_now(
        Caller::Thread,
        &long,
        &mut Some(100),
        &mut bench.reserve(100 * RESERVED),
        &mut QueueTimeout::new(Duration::ZERO),
        || true,
    );
    assert!(matches!(appended, Some(Err(CommitError::Busy(Busy::QueueFull { .. })))), "{appended:?}");
    assert_eq!(bench.groups(), 1);
}

#[test]
fn a_thread_that_waits_for_the_next_group_is_woken_to_lead() {
    let status = CommitStatus::default();
    assert!(!status.wake_a_leader());
    let parker = status.register().unwrap();
    assert!(status.wake_a_leader());
    // Woken, this returns at once.
    parker.wait();
    status.settle(GroupEnd::Failed);
    assert!(status.register().is_none(), "there is nothing left to wait for");
    assert_eq!(status.end(), Some(GroupEnd::Failed));
}

/// An executor may park its thread between polls, and have a waker that unparks it. It is woken
/// while a poll makes a blocking call.
#[test]
#[expect(clippy::disallowed_methods, reason = "the thread is foreign")]
fn a_thread_that_waits_for_a_group_keeps_the_token_that_its_executor_waits_for() {
    let bench = Bench::new(8, Seen::default(), false);
    // Another thread leads.
    let writer = bench.commit.queue.lock().writer.take();
    let ticket = bench.append(Caller::Thread, 1);
    let (commit, status) = (Arc::clone(&bench.commit), Arc::clone(&ticket.status));
    let (done, is_done) = sync_channel(1);
    thread::spawn(move || {
        thread::current().unpark();
        commit.wait(&ticket).unwrap();
        thread::park();
        done.send(()).unwrap();
    });
    while status.waiting_threads() == 0 {
        thread::yield_now();
    }
    bench.commit.queue.lock().writer = writer;
    bench.commit.drain();
    assert_eq!(is_done.recv_timeout(Duration::from_secs(60)), Ok(()));
}

#[test]
fn the_thread_that_leads_is_called_for_tasks_and_where_groups_pile_up() {
    let bench = Bench::new(2, Seen::default(), true);
    let called = || {
        let called = bench.leader.take();
        assert_eq!(bench.commit.is_called.swap(false, Ordering::AcqRel), called);
        called
    };
    for (caller, is_called) in [
        (Caller::Thread, false),
        (Caller::Member, false),
        // The third entry starts a second group.
        (Caller::Thread, true),
        (Caller::Task, true),
    ] {
        drop(bench.append(caller, 0));
        assert_eq!(called(), is_called, "{caller:?}");
    }
    let entry = |caller| {
        let queue_timeout = &mut QueueTimeout::new(Duration::from_secs(3_600));
        drop(
            crate::task::caller::block(bench.commit.append(
                caller,
                ENTRY,
                &mut Some(9),
                &mut bench.reserve(RESERVED),
                queue_timeout,
                || true,
            ))
            .unwrap(),
        );
        called()
    };
    assert!(!entry(Caller::Member) && entry(Caller::Task));
    // The leader does not have to be called.
    let writer = bench.commit.queue.lock().writer.take();
    assert!(!entry(Caller::Task));
    bench.commit.queue.lock().writer = writer;
    bench.commit.drain();
    let last = bench.append(Caller::Thread, 1);
    crate::task::caller::park_on(async {
        // A task that flushes calls for what nobody else would write.
        let mut flush = std::pin::pin!(bench.commit.flush(Caller::Task));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(flush.as_mut().poll(&mut context).is_pending());
    });
    assert!(called());
    assert_eq!(last.status.end(), None);
}

/// Without threads of the engine, a thread in line leads for a task that came for its place.
#[test]
#[expect(clippy::disallowed_methods, reason = "the thread is foreign")]
fn a_thread_that_waits_in_line_is_woken_when_a_task_before_it_has_queued_its_entry() {
    let bench = Bench::new(100, Seen::default(), false);
    bench.append_all(0..50);
    let hour = Duration::from_secs(3_600);
    let (long, short) = ([7; 90 * COUNTED], [7; 20 * COUNTED]);
    let append = |entry: &[u8], caller, op| {
        let (commit, entry) = (Arc::clone(&bench.commit), entry.to_vec());
        let mut reservation = bench.reserve(100 * RESERVED);
        async move {
            let (op, queue_timeout) = (&mut Some(op), &mut QueueTimeout::new(hour));
            commit.append(caller, entry, op, &mut reservation, queue_timeout, || true).await
        }
    };
    let mut context = Context::from_waker(std::task::Waker::noop());
    let mut first = Box::pin(append(&long, Caller::Task, 100));
    let mut second = Box::pin(append(&short, Caller::Task, 101));
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    // The first has its place, beside which the second has none.
    bench.commit.drain();
    let (commit, mut reservation) = (Arc::clone(&bench.commit), bench.reserve(RESERVED));
    let (done, is_done) = sync_channel(1);
    thread::spawn(move || {
        let queue_timeout = &mut QueueTimeout::new(hour);
        let may = || true;
        let appended =
            commit.append_now(Caller::Thread, ENTRY, &mut Some(102), &mut reservation, queue_timeout, may);
        done.send(appended.is_some_and(|appended| appended.is_ok())).unwrap();
    });
    while bench.commit.queue.lock().line.waiting() < 2 {
        thread::yield_now();
    }
    assert!(first.as_mut().poll(&mut context).is_ready());
    assert_eq!(is_done.recv_timeout(Duration::from_secs(60)), Ok(true));
    assert!(second.as_mut().poll(&mut context).is_ready());
}

#[test]
fn what_was_acknowledged_early_is_led_for_at_the_earliest_deadline() {
    let bench = Bench::new(8, Seen::default(), true);
    let _ticket = bench.append(Caller::Thread, 1);
    let hour = Duration::from_secs(3_600);
    bench.commit.flush_within(2 * hour);
    assert!(bench.leader.take());
    bench.commit.flush_within(3 * hour);
    assert!(!bench.leader.take(), "a later deadline changes nothing");
    bench.commit.flush_within(hour);
    assert!(bench.leader.take());
    let next = bench.commit.lead_if_called(Duty::Sole);
    assert!(next.is_before(Deadline::after(hour)) && bench.groups() == 0);
    bench.commit.flush_within(Duration::ZERO);
    assert!(bench.commit.lead_if_called(Duty::Sole).instant().is_none());
    assert_eq!(bench.published(), [(1, vec![1])]);
}

#[test]
fn a_leader_leaves_what_is_not_small_to_the_thread_that_publishes_if_more_is_to_be_written() {
    let bench = Bench::new(3, Seen::default(), true);
    let tickets = bench.append_all(0..7);
    bench.commit.drain();
    // The last group is small, and nothing followed it: the leader published all that was left.
    assert_eq!(bench.published(), [(1, vec![0, 1, 2]), (2, vec![3, 4, 5]), (3, vec![6])]);
    assert!(bench.publisher.take());
    assert!(tickets.iter().all(|ticket| ticket.status.end() == Some(GroupEnd::Durable)));

    let bench = Bench::new(2, Seen::default(), true);
    bench.append_all(0..4);
    bench.commit.drain();
    assert!(!bench.publisher.take(), "two entries are published faster than a thread is called");
    let bench = Bench::new(3, Seen::default(), false);
    bench.append_all(0..6);
    bench.commit.drain();
    assert_eq!(bench.groups(), 2, "nobody else is there to publish");
}

/// A group that is written, and that no thread publishes yet.
fn write_one(bench: &Bench) {
    bench.append_all(0..1);
    bench.commit.queue.lock().is_publishing = true;
    bench.commit.drain();
    bench.commit.queue.lock().is_publishing = false;
    assert_eq!(bench.groups(), 0);
    bench.publisher.take();
}

#[test]
fn a_thread_publishes_some_groups_that_others_write_meanwhile_and_no_endless_row_of_them() {
    let seen = |callers| Seen { is_led_beside: true, crowd: Crowd::of(callers), ..Seen::default() };
    let bench = Bench::new(1, seen(40), true);
    write_one(&bench);
    // As the worker does that stands in for the thread that publishes.
    bench.commit.publish_what_is_written();
    assert_eq!(bench.groups(), PUBLISHED_MAX);
    while bench.publisher.take() {
        bench.commit.publish_what_is_written();
    }
    assert_eq!(bench.groups(), 41, "nobody was called for the rest");
    assert!(bench.commit.queue.lock().is_settled());

    let alone = Bench::new(1, seen(40), false);
    write_one(&alone);
    alone.commit.publish_what_is_written();
    assert_eq!(alone.groups(), 41, "nobody else is there to publish");
}

/// The thread that publishes stops after some groups and calls another, which finds the engine
/// closing and ends. A write had failed, so no thread can lead.
#[test]
fn a_close_publishes_what_a_failed_commit_left() {
    let bench = Bench::new(1, Seen::default(), true);
    let durable = bench.append_all(0..9);
    bench.commit.queue.lock().is_publishing = true;
    bench.commit.drain();
    let lost = bench.append_all(100..101);
    bench.disk.fault_at(bench.disk.operations(), DiskFault::Error);
    bench.commit.drain();
    bench.commit.queue.lock().is_publishing = false;
    bench.commit.publish_what_is_written();
    assert!(bench.publisher.take(), "another thread is called");
    assert!(bench.commit.failure().is_none(), "the failed group is not published yet");

    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let commit = Arc::clone(&bench.commit);
    let close = move || {
        commit.close();
        tell.send(()).unwrap();
    };
    drop(std::thread::Builder::new().name("close".to_owned()).spawn(close).unwrap());
    assert!(told.recv_timeout(Duration::from_secs(60)).is_ok(), "the close hangs");
    assert!(durable.iter().chain(&lost).all(|ticket| ticket.status.end().is_some()), "all are told");
}
