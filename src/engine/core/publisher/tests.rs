//! Tests of the publisher, without a log.

use super::*;
use crate::attempt::AttemptParts;
use crate::attempt::HandOver;
use crate::clock::TimeSource;
use crate::key::Digest;
use crate::record::RecordParts;
use crate::state::Fence;
use crate::{Policy, Progress};

const KEY: Digest = Digest::from_u128(7);

fn attempt(fence: u64) -> Arc<Attempt> {
    Arc::new(Attempt::new(AttemptParts::example(fence)))
}

fn record(fence: u64) -> Record {
    Record::new(&RecordParts::example(fence), None)
}

fn publisher() -> Publisher {
    let index = Arc::new(Index::new(1, 0, Timestamp::default()));
    let policies = Arc::new(Policies::new(Policy::default()));
    Publisher::new(index, Arc::new(EngineClock::new(TimeSource::System)), policies, 0)
}

#[test]
fn what_is_published_reaches_the_index_and_the_tail_together() {
    let publisher = publisher();
    publisher.publish(1, &mut vec![LogRecord::Granted(attempt(1))]);
    assert_eq!(publisher.index.get(KEY).phase(), Phase::InFlight);
    publisher.publish(2, &mut vec![LogRecord::Vacated(attempt(1), None)]);
    assert_eq!(publisher.index.get(KEY).phase(), Phase::Vacant);
    let tail = publisher.take_tail();
    assert_eq!((tail.seq, tail.len()), (2, 1));
    assert_eq!(publisher.take_tail().len(), 0);
}

/// No caller holds it, so no caller would end it, and later begins of its key would wait for
/// ever.
#[test]
fn a_claim_that_was_taken_back_is_not_shown_again() {
    let publisher = publisher();
    let taken_back =
        Arc::new(Attempt::new(AttemptParts { undelivered_bytes: 5, ..AttemptParts::example(1) }));
    assert_eq!(taken_back.withdraw(), Some(5));
    publisher.publish(1, &mut vec![LogRecord::Granted(taken_back)]);
    assert_eq!(publisher.index.get(KEY).phase(), Phase::Vacant);
    assert_eq!(publisher.take_tail().len(), 0);
}

#[test]
fn an_older_fence_does_not_undo_a_newer_one() {
    let publisher = publisher();
    publisher.publish(
        1,
        &mut vec![
            LogRecord::Granted(attempt(8)),
            LogRecord::Granted(attempt(7)),
            LogRecord::Vacated(attempt(7), None),
        ],
    );
    let slot = publisher.index.get(KEY);
    assert_eq!(slot.attempt().map(|attempt| attempt.fence), Some(Fence::new(8)));
}

#[test]
fn an_older_claim_and_notes_on_it_do_not_open_a_key_that_is_vacant_again() {
    let publisher = publisher();
    publisher.publish(1, &mut vec![LogRecord::Granted(attempt(8)), LogRecord::Vacated(attempt(8), None)]);
    assert_eq!(publisher.take_tail().len(), 1);
    let budget = Arc::default();
    let progress = Progress::new(b"note", &budget);
    let until = HandOver { until: Timestamp::from_millis(u64::MAX), opening: 1 };
    publisher.publish(
        2,
        &mut vec![
            LogRecord::Progress(NotedClaim::Live(attempt(7)), progress.clone()),
            LogRecord::Progress(NotedClaim::Replayed(Box::new((KEY, Fence::new(7)))), progress),
            LogRecord::Detached(NotedClaim::Replayed(Box::new((KEY, Fence::new(7)))), Box::new(until)),
        ],
    );
    assert_eq!(publisher.index.get(KEY).phase(), Phase::Vacant);
    assert_eq!(publisher.take_tail().len(), 0, "a checkpoint would write that it is open");
}

#[test]
fn an_older_claim_does_not_open_a_key_that_is_done() {
    let publisher = publisher();
    let record = record(8);
    publisher.publish(1, &mut vec![LogRecord::Granted(attempt(8)), LogRecord::Completed(attempt(8), record)]);
    drop(publisher.take_tail());
    publisher.publish(2, &mut vec![LogRecord::Granted(attempt(7))]);
    assert_eq!(publisher.index.get(KEY).phase(), Phase::Done);
    assert_eq!(publisher.take_tail().len(), 0, "a checkpoint would write that it is open");
}

fn drop_claim(publisher: &Publisher, attempt: &Arc<Attempt>) -> Interrupting {
    publisher.interrupt(attempt, Event::Abandon { fence: attempt.fence }, Timestamp::from_millis(5))
}

#[test]
fn an_interruption_is_a_word_in_the_tail_where_the_log_knows_the_claim() {
    for is_logged in [false, true] {
        let publisher = publisher();
        let lost = attempt(8);
        publisher.index.change(KEY, |_| (Change::Set(Slot::InFlight(Arc::clone(&lost))), ()));
        if is_logged {
            publisher.publish(1, &mut vec![LogRecord::Granted(Arc::clone(&lost))]);
            drop(publisher.take_tail());
        }
        assert_eq!(drop_claim(&publisher, &attempt(8)), Interrupting::NotOut, "another one of that fence");
        assert_eq!(drop_claim(&publisher, &lost), Interrupting::Done);
        assert_eq!(drop_claim(&publisher, &lost), Interrupting::NotOut);
        assert_eq!(publisher.index.get(KEY).phase(), Phase::Interrupted);
        let tail = publisher.take_tail();
        assert_eq!((tail.seq, tail.len()), (u64::from(is_logged), usize::from(is_logged)));
        // An intent that was on its way meanwhile brings the time along.
        publisher.publish(2, &mut vec![LogRecord::Granted(Arc::clone(&lost))]);
        assert_eq!((publisher.take_tail().len(), lost.row(None).interrupted_ms), (1, Some(5)));
    }
}

#[test]
fn an_interruption_behind_the_last_tail_comes_too_late_and_was_counted() {
    let publisher = publisher();
    let lost = attempt(8);
    publisher.publish(1, &mut vec![LogRecord::Granted(Arc::clone(&lost))]);
    let (tail, out) = publisher.take_last_tail();
    assert_eq!((tail.seq, tail.len(), out), (1, 1, 1));
    assert_eq!(drop_claim(&publisher, &lost), Interrupting::TooLate);
    assert_eq!(lost.interrupted(), None, "the next opening would not tell of it");
    assert_eq!(publisher.index.get(KEY).phase(), Phase::Interrupted, "a caller that looks must not wait");
    assert_eq!(publisher.take_last_tail().0.len(), 0);
}

#[test]
fn a_failure_reaches_everybody_who_waits() {
    let publisher = publisher();
    let waiting = attempt(1);
    publisher.publish(1, &mut vec![LogRecord::Granted(Arc::clone(&waiting))]);
    publisher.failed(&Failure::Panicked);
    let ended = waiting.wait(crate::clock::Deadline::NEVER);
    assert!(matches!(ended, Some(Ended::Failed(failure)) if matches!(*failure, Failure::Panicked)));
}

/// Ends of claims are published while a checkpoint tries four times to read a bad sector.
#[test]
fn what_came_during_a_checkpoint_that_failed_is_joined_without_the_lock_for_which_ends_wait() {
    const KEYS: u128 = 400_000;
    let publisher = publisher();
    let tail = |keys: std::ops::Range<u128>| {
        let mut tail = LogTail::after(1, 0);
        let now = Timestamp::from_millis(1);
        keys.for_each(|key| tail.fold(Digest::from_u128(key << 64 | key), KeyState::Vacant, None, now));
        tail
    };
    *publisher.tail.lock() = tail(1_000..KEYS);
    let taken = tail(0..2_000);
    let (began, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|threads| {
        let longest = threads.spawn(|| {
            let mut longest = std::time::Duration::ZERO;
            while !is_over.load(Ordering::Acquire) {
                let watch = crate::clock::Stopwatch::start();
                drop(publisher.tail.lock());
                longest = longest.max(watch.elapsed());
                began.store(true, Ordering::Release);
            }
            longest
        });
        while !began.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let watch = crate::clock::Stopwatch::start();
        publisher.put_tail_back(taken);
        let took = watch.elapsed();
        is_over.store(true, Ordering::Release);
        let longest = longest.join().unwrap();
        assert!(longest < took / 2, "the lock was held for {longest:?} of {took:?}");
    });
    let tail = publisher.take_tail();
    assert_eq!((tail.seq, tail.len() as u128, tail.since), (1, KEYS, Some(Timestamp::from_millis(1))));
}
