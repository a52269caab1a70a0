//! Models of attempts and records.

use super::*;

fn attempt(fence: u64) -> Attempt {
    Attempt::new(AttemptParts { digest: Digest::from_u128(fence.into()), ..AttemptParts::example(fence) })
}

#[test]
fn an_attempt_ends_once_and_everybody_is_told_the_same() {
    model("attempt", Some(3), || {
        let attempt = Arc::new(attempt(1));
        let ends = |ended: Ended| {
            let attempt = Arc::clone(&attempt);
            spawn(move || attempt.end(ended))
        };
        let others = [ends(Ended::Vacated), ends(Ended::Interrupted)];
        let as_task = park_on(attempt.ended(|| false));
        let Some(as_thread) = attempt.wait(Deadline::NEVER) else { panic!("it has ended") };
        others.into_iter().for_each(|other| other.join().unwrap());
        let last = attempt.wait(Deadline::NEVER);
        let is_vacated = |ended: &Ended| matches!(ended, Ended::Vacated);
        assert_eq!(is_vacated(&as_task), is_vacated(&as_thread));
        assert!(last.is_some_and(|last| is_vacated(&last) == is_vacated(&as_task)));
    });
}

#[test]
fn a_thread_that_waits_for_an_end_is_woken() {
    model("attempt_of_a_thread", None, || {
        let attempt = Arc::new(attempt(1));
        let theirs = Arc::clone(&attempt);
        let other = spawn(move || theirs.end(Ended::Vacated));
        assert!(matches!(attempt.wait(Deadline::NEVER), Some(Ended::Vacated)));
        other.join().unwrap();
    });
}

#[test]
fn an_interruption_is_dated_once() {
    model("interruption", None, || {
        let attempt = Arc::new(attempt(1));
        let theirs = Arc::clone(&attempt);
        let other = spawn(move || theirs.interrupt(Timestamp::from_millis(1)));
        attempt.interrupt(Timestamp::from_millis(2));
        let seen = attempt.interrupted();
        other.join().unwrap();
        assert!(seen.is_some() && attempt.interrupted() == seen);
    });
}

#[test]
fn whoever_sees_a_records_place_sees_what_was_written_before_it() {
    model("place", None, || {
        let record = Record::new(&RecordParts::example(1), None);
        let directory = Arc::new(AtomicUsize::new(0));
        let (theirs, written) = (record.clone(), Arc::clone(&directory));
        // As a checkpoint does: the block is in the directory before a record says that it lies
        // there.
        let other = spawn(move || {
            written.store(1, Ordering::Relaxed);
            theirs.set_location(RecordLocation::new(1, 0));
            theirs.take_touch();
        });
        record.touch();
        if record.location().is_some() {
            assert_eq!(directory.load(Ordering::Relaxed), 1);
        }
        other.join().unwrap();
    });
}
