//! The smallest pieces that threads meet in, under every order in which loom can let two or three of them go on, and every value that an
//! atomic may show them. Nothing of this is in a real build.
//!
//! ```text
//! RUSTFLAGS="--cfg idemkv_loom" cargo test --release --target-dir target/loom --lib models -- --nocapture
//! ```
//!
//! Small as they are, the larger ones have too many orders: those look at all with up to so many changes of thread that were not forced.

use std::sync::atomic::AtomicU64 as UnseenU64;
use std::task::{Context, Waker};
use std::time::Duration;

use loom::model::Builder;
use loom::thread::spawn;

use crate::Timestamp;
use crate::attempt::{Attempt, AttemptParts, Ended};
use crate::clock::{Deadline, EngineClock, TimeSource};
use crate::codec::{Checksummer, Entry};
use crate::commit::{Commit, Duty, Limits, Publish, Threads};
use crate::disk::sim::SimDisk;
use crate::error::Failure;
use crate::index::{Change, Index, Slot, ThreadCache};
use crate::key::{Digest, Secret};
use crate::record::{Record, RecordLocation, RecordParts};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Ordering};
use crate::task::caller::{Caller, block, park_on};
use crate::task::notifier::Notifier;
use crate::task::timers::Timers;
use crate::task::wait_list::WaitList;
use crate::task::wait_queue::Priority;
use crate::wal::{Geometry, Identity, Log, LogSpace, LogWriter, Request, Reservation};

/// Runs a model in every order with at most so many changes of thread that were not forced; in every order at all where there is no limit.
fn model(name: &str, preemptions: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 100_000;
    let runs = Arc::new(UnseenU64::new(0));
    let counted = Arc::clone(&runs);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        body();
    });
    println!("evidence: models::{name} | {} | loom executions", runs.load(Ordering::Relaxed));
}

#[test]
fn a_task_that_waits_is_woken_by_whoever_changes_the_answer() {
    model("wakers", None, || {
        let shared = Arc::new((WaitList::default(), AtomicBool::new(false)));
        let theirs = Arc::clone(&shared);
        let other = spawn(move || {
            theirs.1.store(true, Ordering::Release);
            theirs.0.wake_all();
        });
        park_on(shared.0.until(|| shared.1.load(Ordering::Acquire).then_some(())));
        other.join().unwrap();
    });
}

#[test]
fn two_tasks_that_wait_are_both_woken_though_a_third_gives_up() {
    model("wakers_of_two", Some(3), || {
        let shared = Arc::new((WaitList::default(), AtomicBool::new(false)));
        let wait = |shared: Arc<(WaitList, AtomicBool)>| {
            spawn(move || park_on(shared.0.until(|| shared.1.load(Ordering::Acquire).then_some(()))))
        };
        let waiting = [wait(Arc::clone(&shared)), wait(Arc::clone(&shared))];
        {
            let mut given_up = Box::pin(shared.0.until(|| None::<()>));
            assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        shared.1.store(true, Ordering::Release);
        shared.0.wake_all();
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_bell_that_rings_before_anybody_listens_is_heard() {
    model("notifier", Some(3), || {
        let (notifier, listener) = Notifier::pair();
        let work = Arc::new(AtomicUsize::new(0));
        let ring = |notifier: Notifier, work: Arc<AtomicUsize>| {
            spawn(move || {
                work.fetch_add(1, Ordering::Release);
                notifier.notify();
            })
        };
        let others = [ring(notifier.clone(), Arc::clone(&work)), ring(notifier, Arc::clone(&work))];
        let mut seen = 0;
        // Once nobody is left to ring, everything that was rung for has been seen.
        while listener.wait(Deadline::NEVER) {
            seen = work.load(Ordering::Acquire);
        }
        assert_eq!(seen, 2);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[cfg(feature = "serde")]
#[test]
fn an_answer_reaches_whoever_waits_for_it_and_so_does_its_absence() {
    for answers in [true, false] {
        model("reply", None, move || {
            let (replier, awaited) = crate::task::reply::pair();
            let other = spawn(move || if answers { replier.send(7) } else { drop(replier) });
            assert_eq!(park_on(awaited.get()), answers.then_some(7));
            other.join().unwrap();
        });
    }
}

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
        // As a checkpoint does: the block is in the directory before a record says that it lies there.
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

/// The fence of a record of which a thread keeps a copy.
fn asks(hot: &mut ThreadCache, index: &Index) -> Option<u64> {
    let digest = RecordParts::example(0).digest;
    hot.replay(index, digest, &|_| true).map(|record| record.fence().get())
}

/// The fence of the record that the index has.
fn looks(index: &Index) -> Option<u64> {
    match index.get(RecordParts::example(0).digest) {
        Slot::Cached(record, _) => Some(record.fence().get()),
        _ => None,
    }
}

fn becomes(index: &Index, slot: Slot) {
    index.change(RecordParts::example(0).digest, |_| (Change::Set(slot), ()));
}

fn durable(fence: u64) -> Slot {
    Slot::cached(Record::new(&RecordParts::example(fence), Some(RecordLocation::new(1, 0))))
}

#[test]
fn a_thread_that_keeps_a_record_sees_every_change_that_it_could_know_of() {
    model("hot_key", None, || {
        let shared = Arc::new((Index::new(1, 0, Timestamp::default()), AtomicUsize::new(0)));
        becomes(&shared.0, durable(1));
        let theirs = Arc::clone(&shared);
        let other = spawn(move || {
            becomes(&theirs.0, Slot::Vacant);
            theirs.1.store(1, Ordering::Release);
            becomes(&theirs.0, durable(2));
            theirs.1.store(2, Ordering::Release);
        });
        // How far the key has come: the first record, none, the second one.
        let step = |fence: Option<u64>| fence.map_or(1, |fence| 2 * (fence as usize - 1));
        let mut hot = ThreadCache::new();
        let mut last = 0;
        let sees = |last: &mut usize, how: &str, seen: usize| {
            assert!(seen >= *last, "{how}: {seen} after {last}");
            *last = seen;
        };
        // The first one keeps a copy, and the second one is answered from it, before, between or after the changes.
        for _ in 0..2 {
            sees(&mut last, "by the copy", step(asks(&mut hot, &shared.0)));
            let told = shared.1.load(Ordering::Acquire);
            last = last.max(told);
            sees(&mut last, "by the lock", step(looks(&shared.0)));
        }
        sees(&mut last, "by the copy", step(asks(&mut hot, &shared.0)));
        other.join().unwrap();
        assert_eq!(asks(&mut hot, &shared.0), Some(2));
    });
}

#[test]
fn replays_of_kept_records_are_all_counted_though_a_tally_changes_hands() {
    model("tallies", None, || {
        let index = Arc::new(Index::new(1, 0, Timestamp::default()));
        becomes(&index, durable(1));
        let replays = |index: Arc<Index>| {
            spawn(move || {
                let mut hot = ThreadCache::new();
                (0..3).for_each(|_| assert_eq!(asks(&mut hot, &index), Some(1)));
            })
        };
        let others = [replays(Arc::clone(&index)), replays(Arc::clone(&index))];
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(index.hits().replayed, 6);
    });
}

const SEGMENT: u64 = 4_096;

fn space() -> Arc<LogSpace> {
    let space = LogSpace::new(Geometry { segment: SEGMENT, frame_max: 1_024 });
    space.open(2 * SEGMENT);
    Arc::new(space)
}

fn reserve(space: &Arc<LogSpace>, bytes: u64) -> Reservation {
    let Some(reservation) = Reservation::try_new(space, Priority::Other, bytes) else {
        panic!("there is space")
    };
    reservation
}

#[test]
fn a_thread_that_waits_for_space_is_woken_when_a_reservation_is_dropped() {
    model("space", None, || {
        let space = space();
        let reserve = || Reservation::try_new(&space, Priority::Other, 512);
        let mut taken: Vec<_> = std::iter::from_fn(reserve).collect();
        let last = taken.pop();
        let other = spawn(move || drop(last));
        // As `Core::reserve` does.
        let mut request = Request::line_up(&space, 512, Priority::Other, None);
        while request.look(|| None::<()>).is_none() {
            request.wait(Deadline::NEVER);
        }
        other.join().unwrap();
    });
}

/// Notes what was published, and that it was in order.
#[derive(Debug, Default)]
struct Published {
    ops: AtomicUsize,
    /// The last frame that was published; twice its number; one less means that somebody is publishing.
    last: AtomicUsize,
}

impl Publish for Published {
    type Op = usize;
    type Held = ();

    fn publish(&self, seq: u64, ops: &mut Vec<usize>) {
        let Ok(seq) = usize::try_from(seq) else { panic!("a model has few frames") };
        assert_eq!(
            self.last.swap(2 * seq - 1, Ordering::AcqRel),
            2 * (seq - 1),
            "out of order, or two at once"
        );
        for op in ops.drain(..) {
            self.ops.fetch_or(1 << op, Ordering::Release);
        }
        self.last.store(2 * seq, Ordering::Release);
    }

    fn failed(&self, failure: &Failure) {
        panic!("{failure}");
    }
}

const ENTRY: u64 = 512;

/// A log and its queue. The log is made once: what is on its disk is no part of a model.
fn commit(leader: Option<Notifier>) -> Arc<Commit<Published>> {
    commit_with(leader, None)
}

fn commit_with(leader: Option<Notifier>, press: Option<Notifier>) -> Arc<Commit<Published>> {
    let checksummer = Checksummer::new(&Secret([0; 32]));
    let id = Identity { file_id: [0; 16], checksummer: checksummer.clone() };
    let log = Log::create(&SimDisk::new(), "x".as_ref(), &id, SEGMENT, 1);
    let Ok(log) = log.map(Arc::new) else { panic!("a log can be made") };
    let space = space();
    let writer = LogWriter::new(log, Arc::clone(&space), checksummer, 1, true, 0);
    let limits = Limits { group_bytes: 64, queue_bytes: 1 << 20, queue_entries: 100, published_by_leader: 0 };
    let timers = Arc::new(Timers::new(Notifier::pair().0));
    let clock = Arc::new(EngineClock::new(TimeSource::System));
    let commit =
        Commit::new(Arc::default(), space, clock, timers, limits, Threads { leader, press, worker: None });
    commit.start(writer);
    Arc::new(commit)
}

impl Commit<Published> {
    /// Queues an entry and waits until it is durable; by then it is published.
    fn commit_one(&self, caller: Caller, op: usize) {
        let mut reservation = reserve(self.space(), ENTRY);
        let Ok(mut ticket) = self.append_end(caller, &Entry::Mark.encoded(), op, &mut reservation, ()) else {
            panic!("it is open")
        };
        let settled = async {
            let Ok(()) = self.settled(caller, &mut ticket).await else { panic!("nothing fails") };
        };
        if caller == Caller::Thread {
            block(settled)
        } else {
            park_on(settled)
        }
        assert_ne!(self.publisher().ops.load(Ordering::Acquire) & 1 << op, 0, "durable and not published");
    }
}

#[test]
fn two_threads_that_commit_lead_for_each_other() {
    model("commit_of_threads", None, || {
        let commit = commit(None);
        let theirs = Arc::clone(&commit);
        let other = spawn(move || theirs.commit_one(Caller::Thread, 1));
        commit.commit_one(Caller::Thread, 0);
        other.join().unwrap();
    });
}

#[test]
fn a_task_that_commits_finds_a_leader() {
    model("commit_of_a_task", None, || {
        let (leader, calls) = Notifier::pair();
        let commit = commit(Some(leader));
        let theirs = Arc::clone(&commit);
        let leads = spawn(move || {
            // As idemkv-commit does, until the one entry is committed.
            loop {
                let until = theirs.lead_if_called(Duty::Sole);
                if theirs.publisher().ops.load(Ordering::Acquire) > 0 {
                    break;
                }
                assert!(calls.wait(until));
            }
        });
        commit.commit_one(Caller::Task, 0);
        leads.join().unwrap();
    });
}

#[test]
fn a_task_and_a_thread_that_commit_find_a_leader() {
    model("commit_of_a_task_and_a_thread", Some(3), || {
        let (leader, calls) = Notifier::pair();
        let commit = commit(Some(leader));
        let theirs = Arc::clone(&commit);
        let leads =
            spawn(move || while calls.wait(theirs.lead_if_called(Duty::Sole)) && !theirs.is_over() {});
        let theirs = Arc::clone(&commit);
        let thread = spawn(move || theirs.commit_one(Caller::Thread, 1));
        commit.commit_one(Caller::Task, 0);
        thread.join().unwrap();
        commit.close();
        commit.notify_threads();
        leads.join().unwrap();
    });
}

#[test]
fn what_a_leader_leaves_to_others_is_published_in_its_order() {
    model("commit_and_publish", Some(3), || {
        let (publishes, rings) = Notifier::pair();
        let commit = commit_with(None, Some(publishes));
        let theirs = Arc::clone(&commit);
        // As idemkv-publish does.
        let press = spawn(move || {
            while rings.wait(Deadline::NEVER) && !theirs.is_over() {
                theirs.publish_what_is_written();
            }
        });
        let theirs = Arc::clone(&commit);
        let other = spawn(move || theirs.commit_one(Caller::Thread, 1));
        commit.commit_one(Caller::Thread, 0);
        other.join().unwrap();
        commit.close();
        commit.notify_threads();
        press.join().unwrap();
    });
}

#[test]
fn closing_waits_for_what_was_queued() {
    model("commit_and_close", None, || {
        let commit = commit(None);
        let theirs = Arc::clone(&commit);
        let other = spawn(move || {
            let mut reservation = reserve(theirs.space(), ENTRY);
            let queued = theirs.append_end(Caller::Thread, &Entry::Mark.encoded(), 0, &mut reservation, ());
            let Ok(mut ticket) = queued else { return false };
            let Ok(()) = block(theirs.settled(Caller::Thread, &mut ticket)) else { panic!("nothing fails") };
            true
        });
        commit.close();
        let at_close = commit.publisher().ops.load(Ordering::Acquire) == 1;
        assert_eq!(other.join().unwrap(), at_close, "queued before the close, or refused");
    });
}

#[test]
fn what_is_acknowledged_early_is_flushed() {
    model("commit_relaxed", None, || {
        let (leader, calls) = Notifier::pair();
        let commit = commit(Some(leader));
        let theirs = Arc::clone(&commit);
        let leads = spawn(move || {
            loop {
                let until = theirs.lead_if_called(Duty::Sole);
                if theirs.publisher().ops.load(Ordering::Acquire) > 0 {
                    break;
                }
                assert!(calls.wait(until));
            }
        });
        let mut reservation = reserve(commit.space(), ENTRY);
        let queued = commit.append_end(Caller::Thread, &Entry::Mark.encoded(), 0, &mut reservation, ());
        assert!(queued.is_ok());
        commit.flush_within(Duration::ZERO);
        leads.join().unwrap();
    });
}
