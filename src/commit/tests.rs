//! Tests of commits from inside: failures, closes, the order in which groups are published, and
//! the limits of the queue.

mod leading;

use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Mutex as StdMutex;
use std::task::Context;
use std::time::Duration;

use super::leading::{LED_FOR, LED_MAX, Led, Turn};
use super::publishing::PUBLISHED_MAX;
use super::queue::{Written, bytes_of};
use super::status::{CommitStatus, GroupEnd};
use super::*;
use crate::clock::{QueueTimeout, TimeSource};
use crate::codec::Checksummer;
use crate::disk::sim::{DiskFault, SimDisk};
use crate::error::Busy;
use crate::key::Secret;
use crate::sync::{AtomicUsize, OnceLock, Ordering};
use crate::task::caller::Caller;
use crate::task::notifier::Listener;
use crate::task::wait_queue::Priority;
use crate::wal::{Geometry, Identity, Log, Reservation};

const ENTRY: &[u8] = &[7; 60];
/// Bytes that an entry counts for.
const COUNTED: usize = 64;
const RESERVED: u64 = 512;

/// Records published groups and failures.
#[derive(Debug, Default)]
struct Seen {
    published: StdMutex<Vec<(u64, Vec<u32>)>>,
    failures: StdMutex<Vec<Failure>>,
    panics_at: Option<u32>,
    /// A failure is found while the first group is published.
    stops: bool,
    /// While a group is published, the thread of the caller that came writes the next one.
    is_led_beside: bool,
    crowd: Crowd,
}

/// Callers that come while a group is written, one for each group, as long as there are any.
#[derive(Debug, Default)]
struct Crowd {
    left: AtomicUsize,
    commit: OnceLock<std::sync::Weak<Commit<Seen>>>,
}

impl Crowd {
    fn of(callers: usize) -> Self {
        Self { left: AtomicUsize::new(callers), commit: OnceLock::new() }
    }

    /// Queues an entry, if there is a place.
    fn comes(&self) {
        let Some(commit) = self.commit.get().and_then(std::sync::Weak::upgrade) else { return };
        if self.left.load(Ordering::Relaxed) > 0 {
            self.left.fetch_sub(1, Ordering::Relaxed);
            let queued = commit.append_now(
                Caller::Member,
                ENTRY,
                &mut Some(99),
                &mut reserve(&commit, RESERVED),
                &mut QueueTimeout::new(Duration::ZERO),
                || true,
            );
            drop(queued);
        }
    }
}

impl Publish for Seen {
    type Op = u32;
    type Held = ();

    fn publish(&self, seq: u64, ops: &mut Vec<u32>) {
        assert!(self.panics_at.is_none_or(|at| !ops.contains(&at)), "as it was told to");
        self.published.lock().unwrap().push((seq, std::mem::take(ops)));
        self.crowd.comes();
        if self.is_led_beside {
            let commit = self.crowd.commit.get().and_then(std::sync::Weak::upgrade).unwrap();
            commit.drain();
        }
        if self.stops {
            // Found by another thread, before that has told those whose entries wait.
            let commit = self.crowd.commit.get().and_then(std::sync::Weak::upgrade).unwrap();
            commit.failure.set(Failure::Panicked).unwrap();
        }
    }

    fn failed(&self, failure: &Failure) {
        self.failures.lock().unwrap().push(failure.clone());
    }
}

fn reserve(commit: &Commit<Seen>, bytes: u64) -> Reservation {
    Reservation::try_new(&commit.space, Priority::Other, bytes).unwrap()
}

struct Bench {
    commit: Arc<Commit<Seen>>,
    disk: SimDisk,
    leader: Listener,
    publisher: Listener,
}

impl Bench {
    /// Groups of so many entries; with threads to call, or without.
    fn new(group: usize, seen: Seen, has_threads: bool) -> Self {
        let disk = SimDisk::new();
        let checksummer = Checksummer::new(&Secret([0; 32]));
        let id = Identity { file_id: [0; 16], checksummer: checksummer.clone() };
        let log = Arc::new(Log::create(&disk, Path::new("x"), &id, 1 << 20, 1).unwrap());
        let space = Arc::new(LogSpace::new(Geometry { segment: 1 << 20, frame_max: 1 << 16 }));
        // The simulated file grows where it is written.
        space.open(2 << 20);
        let writer = LogWriter::new(log, Arc::clone(&space), checksummer, 1, true, 0);
        let limits = Limits {
            group_bytes: group * COUNTED,
            queue_bytes: 100 * COUNTED,
            queue_entries: 50,
            published_by_leader: 2,
        };
        let ((leads, leader), (prints, publisher)) = (Notifier::pair(), Notifier::pair());
        let timers = Arc::new(Timers::new(Notifier::pair().0));
        let clock = Arc::new(EngineClock::new(TimeSource::System));
        let [leader_call, press] = [leads, prints].map(|notifier| has_threads.then_some(notifier));
        let threads = Threads { leader: leader_call, press, worker: None };
        let commit = Commit::new(Arc::new(seen), space, clock, timers, limits, threads);
        commit.start(writer);
        let commit = Arc::new(commit);
        commit.publisher.crowd.commit.set(Arc::downgrade(&commit)).unwrap();
        Self { commit, disk, leader, publisher }
    }

    fn reserve(&self, bytes: u64) -> Reservation {
        reserve(&self.commit, bytes)
    }

    fn append(&self, caller: Caller, op: u32) -> Ticket {
        self.commit.append_end(caller, ENTRY, op, &mut self.reserve(RESERVED), (), || ()).unwrap()
    }

    fn append_all(&self, ops: std::ops::Range<u32>) -> Vec<Ticket> {
        // One after the other, so that nobody is called before the last.
        let push = |op| self.commit.queue.lock().push(ENTRY, op, &mut self.reserve(RESERVED));
        ops.map(push).collect()
    }

    fn published(&self) -> Vec<(u64, Vec<u32>)> {
        self.commit.publisher.published.lock().unwrap().clone()
    }

    fn groups(&self) -> usize {
        self.published().len()
    }
}

/// The log of an engine on a full disk is prepared late, and the engine may be closed by then.
#[test]
fn a_log_that_is_ready_after_the_close_takes_nothing() {
    let bench = Bench::new(1, Seen::default(), false);
    let writer = {
        let mut queue = bench.commit.queue.lock();
        queue.intake = Intake::Early;
        queue.writer.take().unwrap()
    };
    bench.commit.close();
    bench.commit.start(writer);
    let refused = bench.commit.append_end(Caller::Thread, ENTRY, 1, &mut bench.reserve(RESERVED), (), || ());
    assert!(matches!(refused, Err(CommitError::Closed)), "{refused:?}");
}

/// The files may have another owner as soon as this engine is closed. After a failure a close
/// waits only for the writing thread.
#[test]
fn nothing_is_written_after_a_failure_that_no_commit_met() {
    let bench = Bench::new(1, Seen { stops: true, ..Seen::default() }, false);
    let tickets = bench.append_all(0..3);
    let before = bench.disk.operations();
    bench.commit.drain();
    assert_eq!(bench.disk.operations() - before, 2, "a frame and its sync");
    assert!(bench.commit.queue.lock().writer.is_none());
    bench.commit.fail_queued();
    let ends: Vec<_> = tickets.iter().map(|ticket| bench.commit.wait(ticket).is_ok()).collect();
    assert_eq!(ends, [true, false, false]);
    bench.commit.close();
}

/// The next thread publishes the rest: here the closing one.
#[test]
fn a_commit_closes_when_everything_is_published() {
    let bench = Bench::new(3, Seen::default(), true);
    let ticket = bench.append(Caller::Thread, 0);
    let mut queue = bench.commit.queue.lock();
    let mut writer = queue.writer.take().unwrap();
    let group = queue.take_next().unwrap();
    drop(queue);
    let (written, ..) = bench.commit.write(&mut writer, group, Stopwatch::start());
    let mut queue = bench.commit.queue.lock();
    queue.written.push_back(written);
    queue.writer = Some(writer);
    drop(queue);
    assert_eq!(ticket.status.end(), None);
    bench.commit.close();
    assert_eq!((bench.groups(), ticket.status.end()), (1, Some(GroupEnd::Durable)));
    assert!(matches!(
        bench.commit.append_end(Caller::Thread, ENTRY, 1, &mut bench.reserve(RESERVED), (), || ()),
        Err(CommitError::Closed)
    ));
}

#[test]
fn what_was_durable_before_a_failure_is_published_and_what_comes_after_fails() {
    let bench = Bench::new(3, Seen::default(), true);
    let tickets = bench.append_all(0..8);
    // The second write of the three; making the file took some operations before.
    let operations = bench.disk.operations();
    bench.disk.fault_at(operations + 2, DiskFault::Error);
    bench.commit.drain();
    assert_eq!(bench.published(), [(1, vec![0, 1, 2])]);
    let ends: Vec<_> = tickets.iter().map(|ticket| ticket.status.end()).collect();
    assert!(ends[..3].iter().all(|end| *end == Some(GroupEnd::Durable)), "{ends:?}");
    assert!(ends[3..].iter().all(|end| *end == Some(GroupEnd::Failed)), "{ends:?}");
    assert_eq!(bench.commit.publisher.failures.lock().unwrap().len(), 1);
    assert!(bench.commit.failure().is_some() && bench.commit.queue.lock().writer.is_none());
    assert!(matches!(
        bench.commit.append_end(Caller::Thread, ENTRY, 1, &mut bench.reserve(RESERVED), (), || ()),
        Err(CommitError::Failed(_))
    ));
    // Nobody waits for what will not come.
    bench.commit.close();
}

#[test]
fn a_panic_while_publishing_fails_that_group_and_all_after_it() {
    let bench = Bench::new(3, Seen { panics_at: Some(4), ..Seen::default() }, false);
    let tickets = bench.append_all(0..9);
    let commit = Arc::clone(&bench.commit);
    let panicked = catch_unwind(std::panic::AssertUnwindSafe(|| commit.drain()));
    assert!(panicked.is_err());
    assert_eq!(bench.published(), [(1, vec![0, 1, 2])]);
    let ends: Vec<_> = tickets.iter().map(|ticket| ticket.status.end()).collect();
    assert!(ends[..3].iter().all(|end| *end == Some(GroupEnd::Durable)), "{ends:?}");
    assert!(ends[3..].iter().all(|end| *end == Some(GroupEnd::Failed)), "{ends:?}");
    assert!(matches!(bench.commit.failure(), Some(Failure::Panicked)));
    // A leader that was writing meanwhile finds its group failed, durable as it may be.
    let mut queue = bench.commit.queue.lock();
    assert!(!queue.is_publishing);
    let ticket = queue.push(ENTRY, 9, &mut bench.reserve(RESERVED));
    let group = queue.take_next().unwrap();
    queue.written.push_back(Written { status: Arc::clone(&group.status), outcome: Ok((4, group.ops)) });
    drop(queue);
    bench.commit.publish_what_is_written();
    assert_eq!((bench.groups(), ticket.status.end()), (1, Some(GroupEnd::Failed)));
}

#[test]
fn a_panic_while_writing_fails_that_group_and_not_those_before_it() {
    let bench = Bench::new(3, Seen::default(), false);
    let tickets = bench.append_all(0..6);
    let operations = bench.disk.operations();
    bench.disk.fault_at(operations + 2, DiskFault::Panic);
    let commit = Arc::clone(&bench.commit);
    assert!(catch_unwind(std::panic::AssertUnwindSafe(|| commit.drain())).is_err());
    assert_eq!(bench.published(), [(1, vec![0, 1, 2])]);
    assert_eq!(tickets.last().and_then(|ticket| ticket.status.end()), Some(GroupEnd::Failed));
    assert!(matches!(bench.commit.failure(), Some(Failure::Panicked)));
    bench.commit.close();
}

#[test]
fn a_task_that_no_longer_waits_for_its_group_leaves_nothing_behind() {
    let bench = Bench::new(3, Seen::default(), false);
    let tickets = bench.append_all(0..2);
    let status = Arc::clone(&tickets[0].status);
    let context = Context::from_waker(std::task::Waker::noop());
    for mut ticket in tickets {
        assert!(ticket.poll(&context).is_pending() && ticket.poll(&context).is_pending());
        assert_eq!(status.waiting_tasks(), 1);
        drop(ticket);
        assert_eq!(status.waiting_tasks(), 0);
    }
    let mut ticket = bench.append_all(2..3).remove(0);
    assert!(ticket.poll(&context).is_pending());
    bench.commit.drain();
    assert!(ticket.poll(&context).is_ready() && status.waiting_tasks() == 0);
    bench.commit.close();
}

#[test]
fn a_queue_has_place_for_so_many_bytes_and_entries_and_for_one_entry_however_long() {
    let limits = Limits { group_bytes: 128, queue_bytes: 256, queue_entries: 3, published_by_leader: 0 };
    let bench = Bench::new(1, Seen::default(), false);
    let writer = bench.commit.queue.lock().writer.take().unwrap();
    let mut queue = Queue::new(limits);
    queue.writer = Some(writer);
    assert_eq!(bytes_of(ENTRY), COUNTED);
    assert!(queue.has_place(None, 10_000) && queue.is_empty());
    let fates: Vec<_> =
        (0..2).map(|op| Arc::clone(&queue.push(ENTRY, op, &mut bench.reserve(RESERVED)).status)).collect();
    assert!(Arc::ptr_eq(&fates[0], &fates[1]), "two of them fill a group");
    assert!(queue.has_place(None, 128) && !queue.has_place(None, 129) && !queue.is_backed_up());
    assert!(Arc::ptr_eq(queue.newest_not_durable().unwrap(), &fates[1]));
    let third = Arc::clone(&queue.push(ENTRY, 2, &mut bench.reserve(RESERVED)).status);
    assert!(!Arc::ptr_eq(&third, &fates[1]) && queue.is_backed_up());
    assert!(!queue.has_place(None, 1), "three entries are the limit");
    let group = queue.take_next().unwrap();
    assert_eq!((group.bytes, group.ops.as_slice()), (128, &[0, 1][..]));
    assert!(queue.has_place(None, 192) && !queue.has_place(None, 193) && !queue.is_backed_up());
    let last = queue.take_next().unwrap();
    assert!(queue.is_empty() && queue.take_next().is_none() && queue.is_settled());
    // Neither bytes nor entries are left of what was taken.
    (0..2).for_each(|op| {
        drop(queue.push(ENTRY, op, &mut bench.reserve(RESERVED)));
    });
    assert!(queue.has_place(None, 128) && !queue.has_place(None, 129));
    drop(queue.take_next());
    // Buffers are used again, a few of them.
    (0..10).for_each(|op| {
        drop(queue.push(ENTRY, op, &mut bench.reserve(RESERVED)));
    });
    let groups: Vec<_> = std::iter::from_fn(|| queue.take_next()).collect();
    assert_eq!(groups.len(), 5);
    for mut group in groups.into_iter().chain([group, last]) {
        group.ops.clear();
        queue.keep_frame(group.frame);
        queue.keep_ops(group.ops);
    }
    assert_eq!(queue.spares(), (4, 4));
    let newest = Arc::clone(&queue.push(ENTRY, 1, &mut bench.reserve(RESERVED)).status);
    assert_eq!(queue.spares(), (3, 3));
    // What failed is not durable: a caller that flushes is to be told.
    newest.settle(GroupEnd::Failed);
    assert!(queue.newest_not_durable().is_some());
    newest.settle(GroupEnd::Durable);
    assert!(queue.newest_not_durable().is_none());
    drop(third);
}
