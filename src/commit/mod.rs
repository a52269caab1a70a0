//! Group commit: callers queue entries, one of them writes for all.
//!
//! A caller that finds the log idle becomes the leader: it takes the writer, writes the group at the head of the queue,
//! syncs, publishes, wakes those who wait for it, and goes on with the next group until the queue is empty or it has
//! led long enough; then a follower takes over. A lone caller pays for no hand-over. Tasks must not block, so for their
//! entries a thread of the engine's own leads ([`Commit::lead_if_called`]), where no caller happens to.
//! Whoever holds the [`LogWriter`] is the leader; `None` in its place means that somebody leads, or that a commit failed.
//!
//! Groups are published in the order in which they were written, by one thread at a time. Where the next group waits already, the
//! leader writes that, and leaves publishing to a thread that has nothing else to do ([`Commit::publish_what_is_written`]).
//! A commit that failed takes its place in the same order: what was durable before it is still published.

mod counters;
mod queue;
mod status;

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::activity::{Activity, ActivityMark};
use crate::clock::{Deadline, EngineClock, QueueTimeout, Stopwatch};
use crate::error::{Busy, CommitError, Failure};
use crate::fork::Origin;
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, MutexGuard, OnceLock, Ordering, park};
use crate::task::caller::Caller;
use crate::task::notifier::Notifier;
use crate::task::timers::Timers;
use crate::task::wait_list::WaitList;
use crate::wal::frame::FrameBuf;
use crate::wal::{LogSpace, LogWriter, Reservation};
pub(crate) use counters::CommitStats;
use counters::Counters;
pub(crate) use queue::Limits;
use queue::{Group, Intake, Queue, Written, bytes_of};
pub(crate) use status::Ticket;
use status::{CommitStatus, GroupEnd};

/// What becomes of entries once they are durable, or once it is known that they may not be.
pub(crate) trait Publish: Send + Sync + std::fmt::Debug {
    /// What rides along with an entry.
    type Op: Send;
    /// What shows that only the caller can change what an entry is about, until that is published.
    type Held;

    /// The frame with sequence `seq` is durable; takes what rides along. Called by one thread at a time, in the order of sequences.
    fn publish(&self, seq: u64, ops: &mut Vec<Self::Op>);

    /// A commit failed. Called once, before anybody who waits is told.
    fn failed(&self, failure: &Failure);
}

/// Groups that a leader writes before somebody else takes over, once its own entry is among them: what it costs to wake
/// a thread is then spread over this many syncs, and no caller is kept for longer.
const LED_MAX: u32 = 8;

/// A leader on a slow disk hands over after this time, however few groups it wrote. Waking a thread takes a hundredth of it.
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
const LED_FOR: Duration = Duration::from_millis(10);
/// A model has to go the same way each time, however long that takes.
#[cfg(any(idemkv_loom, idemkv_shuttle))]
const LED_FOR: Duration = Duration::MAX;

/// What a leader has done in its turn.
#[derive(Clone, Copy, Debug, Default)]
struct Led {
    groups: usize,
    time: Duration,
}

impl Led {
    fn is_long(self) -> bool {
        self.groups >= LED_MAX as usize || self.time >= LED_FOR
    }
}

/// When a leader stops although groups are left. Every thread that has anything else to do has a turn that ends.
#[derive(Clone, Copy)]
enum Turn<'a> {
    /// Once this group is settled and the leader has led long enough.
    After(&'a CommitStatus),
    /// Once the leader has led long enough.
    Short,
    /// Once so many groups are written: those that were queued when the turn began.
    Queued(usize),
    /// After one group. The leader waits for a place for so many bytes, and has it once that group left the queue.
    ForPlace(usize),
    /// Never. For a thread that has nothing else to do.
    Endless,
}

impl Turn<'_> {
    fn is_over(self, led: Led) -> bool {
        match self {
            Self::After(own) => led.is_long() && own.end().is_some(),
            Self::Short => led.is_long(),
            Self::Queued(groups) => led.groups >= groups,
            Self::ForPlace(_) => led.groups > 0,
            Self::Endless => false,
        }
    }
}

/// What the thread that leads where no caller does has to do besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Nothing: it leads while there is something to lead for.
    Sole,
    /// Other things, which must not wait for the queue to be empty: under load it never is.
    BesideOthers,
}

/// The engine's threads that help with commits, and how they are called. Where there is none, callers do its work.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    /// Leads where no caller does. Without it tasks' entries wait until somebody leads.
    pub(crate) leader: Option<Notifier>,
    /// Publishes where whoever leads has the next group to write.
    pub(crate) press: Option<Notifier>,
    /// Moves the log to the store, which makes space in it.
    pub(crate) worker: Option<Notifier>,
}

pub(crate) struct Commit<P: Publish> {
    publisher: Arc<P>,
    space: Arc<LogSpace>,
    clock: Arc<EngineClock>,
    /// Never held across I/O, publishing, or a wait for anything but `drained`; a group's list of waiters is locked under it, and
    /// a shard of the index by whoever looks whether an entry may still come in.
    queue: Mutex<Queue<P::Op>>,
    /// A group left the queue.
    drained: Condvar,
    /// Tasks that wait for the same.
    tasks_drained: WaitList,
    threads: Threads,
    /// Somebody waits for the thread that leads.
    is_called: AtomicBool,
    /// When it has to lead though nobody waits: entries were acknowledged before they are durable. Leaf lock.
    flush_at: Mutex<Option<Deadline>>,
    timers: Arc<Timers>,
    failure: OnceLock<Failure>,
    /// In a forked child no lock is taken and nothing is written.
    origin: Origin,
    counters: Counters,
}

impl<P: Publish> Commit<P> {
    pub(crate) fn new(
        publisher: Arc<P>,
        space: Arc<LogSpace>,
        clock: Arc<EngineClock>,
        timers: Arc<Timers>,
        limits: Limits,
        threads: Threads,
    ) -> Self {
        Self {
            publisher,
            space,
            clock,
            queue: Mutex::new(Queue::new(limits)),
            drained: Condvar::new(),
            tasks_drained: WaitList::default(),
            threads,
            is_called: AtomicBool::new(false),
            flush_at: Mutex::default(),
            timers,
            failure: OnceLock::new(),
            origin: Origin::here(),
            counters: Counters::default(),
        }
    }

    /// The log is ready to be appended to. Before that no space is reserved, and so nothing is queued.
    pub(crate) fn start(&self, writer: LogWriter) {
        let mut queue = self.queue.lock();
        debug_assert!(queue.intake != Intake::Open && queue.is_empty(), "a log is started once");
        // Closed meanwhile, it stays so.
        if queue.intake == Intake::Early {
            queue.intake = Intake::Open;
        }
        queue.writer = Some(writer);
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Asked before any lock is taken: in a forked child it may be held by a thread that is not there.
    fn check_process(&self) -> Result<(), CommitError> {
        if self.origin.is_elsewhere() { Err(CommitError::Failed(Failure::Forked)) } else { Ok(()) }
    }

    /// Queues an entry, which takes its bytes from the reservation once this succeeds. Waits while the queue is full, as long as `queue_timeout`
    /// lasts. `None` where `may`, asked under the queue's lock when there is a place, says that the entry is no longer to be queued.
    pub(crate) async fn append(
        &self,
        caller: Caller,
        entry: Vec<u8>,
        mut op: Option<P::Op>,
        reservation: &mut Reservation,
        queue_timeout: &mut QueueTimeout,
        may: impl Fn() -> bool,
    ) -> Result<Option<Ticket>, CommitError> {
        let (until, full) = (queue_timeout.until(), Err(queue_full(queue_timeout)));
        let now = || self.append_now(caller, &entry, &mut op, reservation, queue_timeout, &may);
        self.timers.timeout(until, self.tasks_drained.until(now)).await.unwrap_or(full)
    }

    /// [`append`](Self::append), where there is a place, or for a thread, which waits for one in here. `None` where a task has to
    /// wait: somebody leads, so that there will be a place, and `op` was not taken.
    pub(crate) fn append_now(
        &self,
        caller: Caller,
        entry: &[u8],
        op: &mut Option<P::Op>,
        reservation: &mut Reservation,
        queue_timeout: &mut QueueTimeout,
        may: impl Fn() -> bool,
    ) -> Option<Result<Option<Ticket>, CommitError>> {
        if let Err(forked) = self.check_process() {
            return Some(Err(forked));
        }
        let bytes = bytes_of(entry);
        let admitted = match caller {
            Caller::Thread => self.admit(bytes, queue_timeout),
            Caller::Task | Caller::Member => {
                let queue = self.queue.lock();
                self.check_open(&queue).map(|()| queue)
            }
        };
        let mut queue = match admitted {
            Ok(queue) => queue,
            Err(refused) => return Some(Err(refused)),
        };
        if !may() {
            drop(queue);
            // A place may have been kept for this entry.
            self.notify_drained();
            return Some(Ok(None));
        }
        let has_place = queue.has_place(bytes);
        let ticket = op.take_if(|_| has_place).map(|op| queue.push(entry, op, reservation));
        if caller == Caller::Task || ticket.is_none() {
            self.call_leader(&queue);
        }
        ticket.map(|ticket| Ok(Some(ticket)))
    }

    /// Queues an entry at once, however full the queue is, and whatever has happened since its caller looked: for the ends of claims.
    /// Each has log space since its claim was granted, which bounds them all, and an outcome is not to be refused. Any other entry goes
    /// through [`append_if`](Self::append_if).
    pub(crate) fn append_end(
        &self,
        caller: Caller,
        entry: &[u8],
        op: P::Op,
        reservation: &mut Reservation,
        _held: P::Held,
    ) -> Result<Ticket, CommitError> {
        self.check_process()?;
        let mut queue = self.queue.lock();
        self.check_open(&queue)?;
        let ticket = queue.push(entry, op, reservation);
        self.call_leader_for(caller, &queue);
        Ok(ticket)
    }

    /// Queues entries at once, one behind the other, if `may` says so. It is asked under the queue's lock, so that the log has what is
    /// allowed by a state in the order of that state's changes. It may add to the reservation. The ticket is that of the last entry.
    pub(crate) fn append_if<'e>(
        &self,
        caller: Caller,
        entries: impl IntoIterator<Item = (&'e [u8], P::Op)>,
        reservation: &mut Reservation,
        may: impl FnOnce(&mut Reservation) -> bool,
    ) -> Result<Option<Ticket>, CommitError> {
        self.check_process()?;
        let mut queue = self.queue.lock();
        self.check_open(&queue)?;
        if !may(reservation) {
            return Ok(None);
        }
        let mut ticket = None;
        for (entry, op) in entries {
            ticket = Some(queue.push(entry, op, reservation));
        }
        self.call_leader_for(caller, &queue);
        Ok(ticket)
    }

    fn check_open(&self, queue: &Queue<P::Op>) -> Result<(), CommitError> {
        match self.failure.get() {
            Some(failure) => Err(CommitError::Failed(failure.clone())),
            None if queue.intake == Intake::Closed => Err(CommitError::Closed),
            None => Ok(()),
        }
    }

    /// Sees to it that somebody leads for entries that are queued already, where whoever queued them does not.
    fn call_leader_for(&self, caller: Caller, queue: &Queue<P::Op>) {
        // More than one group is more than anybody should leave for later.
        if caller == Caller::Task || queue.is_backed_up() {
            self.call_leader(queue);
        }
    }

    /// Sees to it that somebody leads, if nobody does.
    fn call_leader(&self, queue: &Queue<P::Op>) {
        if queue.writer.is_some() {
            self.call();
        }
    }

    /// Has what is queued written soon.
    pub(crate) fn call(&self) {
        self.is_called.store(true, Ordering::Release);
        self.call_leader_thread();
    }

    fn call_leader_thread(&self) {
        if let Some(leader) = &self.threads.leader {
            leader.notify();
        }
    }

    /// Has the engine's threads look up.
    pub(crate) fn notify_threads(&self) {
        self.call_leader_thread();
        if let Some(press) = &self.threads.press {
            press.notify();
        }
    }

    /// Has what is queued by now written within this time.
    pub(crate) fn flush_within(&self, within: Duration) {
        if self.origin.is_elsewhere() {
            return;
        }
        let deadline = Deadline::after(within);
        let mut flush_at = self.flush_at.lock();
        let is_earlier = flush_at.is_none_or(|at| deadline.is_before(at));
        if is_earlier {
            *flush_at = Some(deadline);
        }
        drop(flush_at);
        if is_earlier {
            self.call_leader_thread();
        }
    }

    /// Leads if somebody called, or if it is time to flush; gives the time until which there is nothing to do. For the
    /// engine's own threads.
    pub(crate) fn lead_if_called(&self, duty: Duty) -> Deadline {
        if self.origin.is_elsewhere() {
            return Deadline::NEVER;
        }
        let mut flush_at = self.flush_at.lock();
        let is_due = flush_at.is_some_and(Deadline::has_passed);
        let next = if is_due { flush_at.take().map(|_| Deadline::NEVER) } else { *flush_at };
        drop(flush_at);
        // Both are taken back before what they stand for is done.
        let is_called = self.is_called.swap(false, Ordering::AcqRel);
        if is_due || is_called {
            match duty {
                Duty::Sole => self.lead_if_nobody_does(|_| Turn::Endless),
                Duty::BesideOthers => self.drain(),
            }
        }
        next.unwrap_or(Deadline::NEVER)
    }

    /// Waits until everything queued by now is durable.
    pub(crate) async fn flush(&self, caller: Caller) -> Result<(), CommitError> {
        self.check_process()?;
        let mut ticket = {
            let queue = self.queue.lock();
            if let Some(failure) = self.failure.get() {
                return Err(CommitError::Failed(failure.clone()));
            }
            let Some(status) = queue.newest_not_durable() else { return Ok(()) };
            if caller == Caller::Task {
                self.call_leader(&queue);
            }
            Ticket::new(status)
        };
        self.settled(caller, &mut ticket).await
    }

    fn notify_drained(&self) {
        self.drained.notify_all();
        self.tasks_drained.wake_all();
    }

    /// Waits until the queue has a place.
    fn admit(
        &self,
        bytes: usize,
        queue_timeout: &mut QueueTimeout,
    ) -> Result<MutexGuard<'_, Queue<P::Op>>, CommitError> {
        let mut queue = self.queue.lock();
        let mut has_waited = false;
        loop {
            self.check_open(&queue)?;
            if queue.has_place(bytes) {
                return Ok(queue);
            }
            // Before the caller leads for others, not after: that too is time it waits.
            let deadline = queue_timeout.until();
            if has_waited && deadline.has_passed() {
                return Err(queue_full(queue_timeout));
            }
            has_waited = true;
            match queue.writer.take() {
                // Nobody leads, and the callers whose entries wait are on their way.
                Some(writer) => {
                    let led = self.lead(queue, writer, Turn::ForPlace(bytes));
                    queue = led.ok_or(CommitError::Failed(Failure::Forked))?;
                    queue.let_go();
                }
                None => self.wait_for_drained(&mut queue, deadline),
            }
        }
    }

    fn wait_for_drained(&self, queue: &mut MutexGuard<'_, Queue<P::Op>>, deadline: Deadline) {
        match deadline.instant() {
            Some(at) => {
                self.drained.wait_until(queue, at);
            }
            None => self.drained.wait(queue),
        }
    }

    /// Waits until the ticket's group is durable and published.
    pub(crate) async fn settled(&self, caller: Caller, ticket: &mut Ticket) -> Result<(), CommitError> {
        match caller {
            Caller::Thread => self.wait(ticket),
            Caller::Task | Caller::Member => poll_fn(|context| self.poll_settled(ticket, context)).await,
        }
    }

    /// [`settled`](Self::settled) for futures of tasks that are written by hand.
    pub(crate) fn poll_settled(
        &self,
        ticket: &mut Ticket,
        context: &Context<'_>,
    ) -> Poll<Result<(), CommitError>> {
        self.check_process()?;
        ticket.poll(context).map(|end| self.told(end))
    }

    fn told(&self, end: GroupEnd) -> Result<(), CommitError> {
        match end {
            GroupEnd::Durable => Ok(()),
            GroupEnd::Failed => Err(self.failed()),
        }
    }

    fn failed(&self) -> CommitError {
        CommitError::Failed(self.failure.get().cloned().unwrap_or(Failure::Panicked))
    }

    /// Waits until the ticket's group is durable and published; leads where nobody does.
    pub(crate) fn wait(&self, ticket: &Ticket) -> Result<(), CommitError> {
        let status = &ticket.status;
        let mut registered = false;
        loop {
            self.check_process()?;
            if let Some(end) = status.end() {
                // Whoever never waited has nobody in its part of the list.
                if registered {
                    status.wake_some();
                }
                return self.told(end);
            }
            let mut queue = self.queue.lock();
            // Where nothing waits, the group is written, and somebody publishes it.
            if !queue.is_empty()
                && let Some(writer) = queue.writer.take()
            {
                drop(self.lead(queue, writer, Turn::After(status)));
                continue;
            }
            // Under the queue's lock: whoever leads now will see this thread when it looks for its successor.
            registered = registered || status.register();
            drop(queue);
            if registered {
                park();
            }
        }
    }

    /// Writes what is queued by now, unless somebody leads. For entries that no thread waits for.
    pub(crate) fn drain(&self) {
        self.lead_if_nobody_does(|queue| Turn::Queued(queue.groups()));
    }

    /// Writes what is queued for as long as a caller does.
    pub(crate) fn lead_a_turn(&self) {
        self.lead_if_nobody_does(|_| Turn::Short);
    }

    fn lead_if_nobody_does(&self, turn: impl FnOnce(&Queue<P::Op>) -> Turn<'static>) {
        if self.origin.is_elsewhere() {
            return;
        }
        let mut queue = self.queue.lock();
        if let Some(writer) = queue.writer.take() {
            let turn = turn(&queue);
            drop(self.lead(queue, writer, turn));
        }
    }

    /// Refuses new entries, and returns when everything queued before is published and nobody leads.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        let has_started = queue.intake != Intake::Early;
        queue.intake = Intake::Closed;
        loop {
            if !has_started {
                break;
            }
            // The files are let go after this, so nobody may be writing.
            if self.failure.get().is_some() && !queue.is_writing {
                break;
            }
            match queue.writer.take() {
                Some(writer) if queue.is_settled() => {
                    queue.writer = Some(writer);
                    break;
                }
                // Also where nothing is left to be written: it publishes what no other thread does.
                Some(writer) if !queue.is_publishing => {
                    let Some(led) = self.lead(queue, writer, Turn::Short) else { return };
                    queue = led;
                }
                writer => {
                    queue.writer = writer;
                    self.wait_for_drained(&mut queue, Deadline::NEVER);
                }
            }
        }
        drop(queue);
        self.notify_drained();
    }

    /// Leads: writes groups until the queue is empty or the turn is over, and puts the writer back. `None` in a forked child, where a
    /// task that was woken meanwhile comes back.
    fn lead<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue<P::Op>>,
        mut writer: LogWriter,
        turn: Turn<'_>,
    ) -> Option<MutexGuard<'a, Queue<P::Op>>> {
        let _inside = ActivityMark::enter(self, Activity::Commits);
        let (mut led, mut is_over) = (Led::default(), false);
        // After a failure that no commit met, the log may be another engine's as soon as this one closes.
        while self.failure.get().is_none()
            && let Some(next) = queue.next()
        {
            // A caller that led for a place has its own entry to lead for next, and need not be relieved.
            is_over = turn.is_over(led) && (self.hand_over(next) || matches!(turn, Turn::ForPlace(_)));
            if is_over {
                break;
            }
            let Some(group) = queue.take_next() else { break };
            queue.is_writing = true;
            if let Turn::ForPlace(bytes) = turn {
                queue.hold(bytes);
            }
            drop(queue);
            self.notify_drained();
            if self.origin.is_elsewhere() {
                return None;
            }
            let (written, frame, took) = self.write(&mut writer, group);
            let has_failed = written.outcome.is_err();
            queue = self.queue.lock();
            queue.is_writing = false;
            queue.written.push_back(written);
            queue.keep_frame(frame);
            if has_failed {
                // The writer is not put back: nothing is ever appended behind a frame whose fate is unknown.
                return self.publish(queue);
            }
            led = Led { groups: led.groups + 1, time: led.time + took };
            if !self.leaves_publishing(&queue) {
                queue = self.publish(queue)?;
            }
        }
        if self.failure.get().is_none() {
            queue.writer = Some(writer);
        }
        // No tasks: what they wait for is told without the queue's lock, for wakers are foreign code.
        self.drained.notify_all();
        if is_over && self.calls_publisher(&queue) { Some(queue) } else { self.publish(queue) }
    }

    /// Whether somebody else publishes what is written, while whoever leads writes on.
    fn leaves_publishing(&self, queue: &Queue<P::Op>) -> bool {
        queue.is_publishing
            || !queue.is_empty()
                && queue.written_entries() > queue.limits.published_by_leader
                && self.calls_publisher(queue)
    }

    /// Whether the thread that publishes was called. While the engine is being closed it may be gone.
    fn calls_publisher(&self, queue: &Queue<P::Op>) -> bool {
        let press = self.threads.press.as_ref().filter(|_| queue.intake != Intake::Closed);
        press.inspect(|press| press.notify()).is_some()
    }

    /// Whether somebody else was woken to lead: a thread that waits for the next group, or the engine's own.
    fn hand_over(&self, next: &CommitStatus) -> bool {
        if next.wake_a_leader() {
            return true;
        }
        self.call();
        self.threads.leader.is_some()
    }

    /// Makes one group durable; says how long that took.
    fn write(&self, writer: &mut LogWriter, group: Group<P::Op>) -> (Written<P::Op>, FrameBuf, Duration) {
        let Group { mut frame, bytes, ops, reserved, status } = group;
        // A panic in here must not leave others waiting for ever.
        let unwinding = FailOnUnwind { commit: self, status: &status, at: Stage::Writing };
        let watch = Stopwatch::start();
        let appended = if self.origin.is_elsewhere_for_sure() {
            Err(Failure::Forked)
        } else {
            writer.append(&mut frame, self.clock.frame_time()).map_err(Failure::Io)
        };
        let took = watch.elapsed();
        let outcome = match appended {
            Ok(seq) => {
                self.counters.note(ops.len(), bytes, took);
                self.space.note_written(reserved);
                Ok((seq, ops))
            }
            Err(failure) => Err(failure),
        };
        frame.clear();
        std::mem::forget(unwinding);
        (Written { status, outcome }, frame, took)
    }

    /// Publishes what is written, in its order, unless somebody else does, who then goes on with it. `None` as for [`lead`](Self::lead).
    fn publish<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue<P::Op>>,
    ) -> Option<MutexGuard<'a, Queue<P::Op>>> {
        if queue.is_publishing {
            return Some(queue);
        }
        let _inside = ActivityMark::enter(self, Activity::Commits);
        let mut published = false;
        while let Some(written) = queue.written.pop_front() {
            queue.is_publishing = true;
            drop(queue);
            let ops = self.publish_one(written);
            if self.origin.is_elsewhere() {
                return None;
            }
            queue = self.queue.lock();
            queue.is_publishing = false;
            queue.keep_ops(ops);
            published = true;
        }
        if published {
            self.drained.notify_all();
        }
        Some(queue)
    }

    /// Publishes what is written. For the engine's own thread, when it is called.
    pub(crate) fn publish_what_is_written(&self) {
        if self.origin.is_elsewhere() {
            return;
        }
        drop(self.publish(self.queue.lock()));
    }

    /// Publishes one group; gives an empty vector back, to be used again.
    fn publish_one(&self, written: Written<P::Op>) -> Vec<P::Op> {
        let Written { status, outcome } = written;
        let unwinding = FailOnUnwind { commit: self, status: &status, at: Stage::Publishing };
        let ops = match outcome {
            Ok((seq, mut ops)) if self.failure.get().is_none() => {
                self.publisher.publish(seq, &mut ops);
                status.settle(GroupEnd::Durable);
                // A segment may have been filled since those in line called the worker.
                if let Some(worker) = self.threads.worker.as_ref().filter(|_| self.space.awaits_checkpoint())
                {
                    worker.notify();
                }
                ops
            }
            // Publishing panicked before, and what this one follows is not in the index.
            Ok(_) => {
                status.settle(GroupEnd::Failed);
                Vec::new()
            }
            Err(failure) => {
                self.fail(&failure);
                status.settle(GroupEnd::Failed);
                self.fail_queued();
                Vec::new()
            }
        };
        std::mem::forget(unwinding);
        ops
    }

    /// Stops all commits for good, for a reason that no commit met. What is being published now may still be acknowledged; what is being
    /// written or queued is not.
    pub(crate) fn stop(&self, failure: &Failure) {
        self.fail(failure);
        self.fail_queued();
    }

    /// Stops all commits for good. Only the publishing thread comes here, and [`stop`](Self::stop).
    fn fail(&self, failure: &Failure) {
        if self.failure.set(failure.clone()).is_ok() {
            self.publisher.failed(failure);
            self.space.wake();
        }
    }

    /// Tells all whose entries wait that a commit failed. Without the queue's lock: tasks are woken by foreign code, which may call
    /// in here again.
    fn fail_queued(&self) {
        let (written, groups) = self.queue.lock().take_all();
        let written = written.iter().map(|written| &written.status);
        written
            .chain(groups.iter().map(|group| &group.status))
            .for_each(|status| status.settle(GroupEnd::Failed));
        self.notify_drained();
    }

    /// Entries that wait to be written.
    pub(crate) fn queued(&self) -> usize {
        self.queue.lock().entries()
    }

    pub(crate) fn stats(&self) -> CommitStats {
        self.counters.stats()
    }
}

fn queue_full(queue_timeout: &QueueTimeout) -> CommitError {
    CommitError::Busy(Busy::QueueFull { waited: queue_timeout.span() })
}

/// Turns a panic of who writes or publishes into a failed commit. Forgotten where nothing went wrong.
struct FailOnUnwind<'a, P: Publish> {
    commit: &'a Commit<P>,
    status: &'a Arc<CommitStatus>,
    at: Stage,
}

enum Stage {
    Writing,
    Publishing,
}

impl<P: Publish> Drop for FailOnUnwind<'_, P> {
    fn drop(&mut self) {
        let failed = Written { status: Arc::clone(self.status), outcome: Err(Failure::Panicked) };
        if self.commit.origin.is_elsewhere() {
            return;
        }
        let mut queue = self.commit.queue.lock();
        match self.at {
            Stage::Writing => {
                queue.is_writing = false;
                queue.written.push_back(failed);
            }
            Stage::Publishing => {
                queue.is_publishing = false;
                queue.written.push_front(failed);
            }
        }
        drop(self.commit.publish(queue));
    }
}

/// What models of commits look at; see `models`.
#[cfg(all(test, idemkv_loom))]
impl<P: Publish> Commit<P> {
    pub(crate) fn publisher(&self) -> &P {
        &self.publisher
    }

    pub(crate) fn space(&self) -> &Arc<LogSpace> {
        &self.space
    }

    pub(crate) fn is_over(&self) -> bool {
        self.queue.lock().intake == Intake::Closed
    }
}

#[cfg(test)]
#[cfg(all(feature = "sim", not(any(idemkv_loom, idemkv_shuttle))))]
mod tests;
