//! Models of the smallest pieces that threads share, run by loom with two or three threads in
//! every order, and with every value that an atomic may return. They are not in a real build.
//!
//! ```text
//! RUSTFLAGS="--cfg idemkv_loom" cargo test --release --target-dir target/loom --lib models -- --nocapture
//! ```
//!
//! The larger models have too many orders. They run all orders with up to so many preemptions.

mod attempts;
mod lookups;
mod waiting;

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
use loom::model::Builder;
use loom::thread::spawn;
use std::sync::atomic::AtomicU64 as UnseenU64;
use std::task::{Context, Waker};
use std::time::Duration;

/// Runs a model in every order with at most so many preemptions; without a limit, in every order.
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

/// Records the published frames, and checks their order.
#[derive(Debug, Default)]
struct Published {
    ops: AtomicUsize,
    /// Twice the number of the last published frame; one less while a thread is publishing it.
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

/// A log and its queue. The log is made once, because its disk is not part of a model.
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
        let Ok(mut ticket) = self.append_end(caller, &Entry::Mark.encoded(), op, &mut reservation, (), || ())
        else {
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
            let queued =
                theirs.append_end(Caller::Thread, &Entry::Mark.encoded(), 0, &mut reservation, (), || ());
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
        let queued =
            commit.append_end(Caller::Thread, &Entry::Mark.encoded(), 0, &mut reservation, (), || ());
        assert!(queued.is_ok());
        commit.flush_within(Duration::ZERO);
        leads.join().unwrap();
    });
}
