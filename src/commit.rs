//! Group commit: callers queue entries, one of them writes for all.
//!
//! A caller that finds the log idle becomes the leader: it takes the writer, writes the group at the head of the queue,
//! syncs, publishes, wakes those who wait for it, and goes on with the next group until the queue is empty or it has
//! led long enough; then a follower takes over. A lone caller pays for no hand-over. Tasks must not block, so for their
//! entries a thread of the engine's own leads ([`Commit::lead_if_called`]), where no caller happens to.
//! Whoever holds the [`LogWriter`] is the leader; `None` in its place means that somebody leads, or that a commit failed.

use std::collections::VecDeque;
use std::time::Duration;

use crate::caller::Caller;
use crate::clock::{Deadline, EngineClock, Stopwatch};
use crate::error::{Busy, CommitError, Failure};
use crate::nudge::Nudge;
use crate::sync::{
    Arc, AtomicBool, AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard, OnceLock, Ordering, Thread, current,
    park,
};
use crate::timers::Timers;
use crate::wakers::Wakers;
use crate::wal::{LogWriter, Room, frame::FrameBuf};

/// What becomes of entries once they are durable, or once it is known that they may not be.
pub(crate) trait Publish: Send + Sync + std::fmt::Debug {
    /// What rides along with an entry.
    type Op: Send;

    /// The frame with sequence `seq` is durable; takes what rides along. Called by one thread at a time, in the order of sequences.
    fn publish(&self, seq: u64, ops: &mut Vec<Self::Op>);

    /// A commit failed. Called once, before anybody who waits is told.
    fn failed(&self, failure: &Failure);
}

/// Limits of the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of entries in one group.
    pub(crate) group_bytes: usize,
    /// Bytes of entries in all groups that wait.
    pub(crate) queue_bytes: usize,
    /// Entries in all groups that wait.
    pub(crate) queue_entries: usize,
}

/// Groups that a leader writes beyond the one with its own entry before somebody else takes over: what it costs to wake
/// a thread is then spread over this many syncs, and no caller is kept for longer.
const LED_MAX: u32 = 8;

/// How many threads a woken thread wakes in turn.
const WAKES: usize = 2;

/// When somebody who leads may stop although groups are left.
#[derive(Clone, Copy)]
enum Turn<'a> {
    /// Once this group is settled and it has led long enough.
    After(&'a Fate),
    /// Once it has led long enough.
    Short,
    /// Never.
    Endless,
}

impl Turn<'_> {
    fn is_over(self, led: u32) -> bool {
        match self {
            Self::After(own) => led >= LED_MAX && own.is_settled(),
            Self::Short => led >= LED_MAX,
            Self::Endless => false,
        }
    }
}

pub(crate) struct Commit<P: Publish> {
    publisher: Arc<P>,
    room: Arc<Room>,
    clock: Arc<EngineClock>,
    limits: Limits,
    /// Never held across I/O, publishing, or a wait for anything but `drained`; a group's list of waiters is locked under it, and
    /// a shard of the index by whoever looks whether an entry may still come in.
    queue: Mutex<Queue<P::Op>>,
    /// A group left the queue.
    drained: Condvar,
    /// Tasks that wait for the same.
    tasks_drained: Wakers,
    /// Calls the thread that leads where no caller does; `None` where there is none, and tasks' entries wait until somebody leads.
    leader: Option<Nudge>,
    /// Somebody waits for that thread.
    is_called: AtomicBool,
    /// When it has to lead though nobody waits: entries were acknowledged before they are durable. Leaf lock.
    flush_at: Mutex<Option<Deadline>>,
    timers: Arc<Timers>,
    failure: OnceLock<Failure>,
    stats: Counters,
}

struct Queue<T> {
    groups: VecDeque<Group<T>>,
    bytes: usize,
    entries: usize,
    writer: Option<LogWriter>,
    /// The fate of the group that is being written.
    writing: Option<Arc<Fate>>,
    closed: bool,
    /// Buffers of written groups, to be used again.
    spare: Vec<(FrameBuf, Vec<T>)>,
}

impl<T> Queue<T> {
    /// Takes away all that waits, after a failure.
    fn take_all(&mut self) -> VecDeque<Group<T>> {
        self.bytes = 0;
        self.entries = 0;
        std::mem::take(&mut self.groups)
    }
}

/// Bytes of an entry as the frame counts them: it has its length in front.
fn bytes_of(entry: &[u8]) -> usize {
    entry.len() + size_of::<u32>()
}

struct Group<T> {
    frame: FrameBuf,
    bytes: usize,
    ops: Vec<T>,
    /// Room that was promised to its entries.
    promised: u64,
    fate: Arc<Fate>,
}

/// What became of a group.
#[derive(Debug, Default)]
struct Fate {
    state: AtomicU8,
    /// Threads that wait. Leaf lock.
    waiters: Mutex<Vec<Thread>>,
    /// Tasks that wait.
    tasks: Wakers,
}

const PENDING: u8 = 0;
const DURABLE: u8 = 1;
const FAILED: u8 = 2;

impl Fate {
    fn settle(&self, state: u8) {
        let waiters = self.waiters.lock();
        self.state.store(state, Ordering::Release);
        drop(waiters);
        self.tasks.wake_all();
        self.wake_some();
    }

    /// Wakes a few; each of them wakes a few more. The leader has no time to wake them all.
    fn wake_some(&self) {
        let mut waiters = self.waiters.lock();
        let from = waiters.len().saturating_sub(WAKES);
        let woken = waiters.split_off(from);
        drop(waiters);
        woken.iter().for_each(Thread::unpark);
    }

    /// Wakes a thread to take over, if one waits; leaves it in the list, for it may find that somebody else leads by then.
    fn wake_a_leader(&self) -> bool {
        let thread = self.waiters.lock().first().cloned();
        thread.is_some_and(|thread| {
            thread.unpark();
            true
        })
    }

    fn is_settled(&self) -> bool {
        self.state.load(Ordering::Acquire) != PENDING
    }

    /// Puts the calling thread into the list, unless the group is settled.
    fn register(&self) -> bool {
        let mut waiters = self.waiters.lock();
        let pending = self.state.load(Ordering::Acquire) == PENDING;
        if pending {
            waiters.push(current());
        }
        pending
    }
}

/// A place in the queue.
#[derive(Debug)]
#[must_use = "an entry is durable once its ticket was waited for"]
pub(crate) struct Ticket(Arc<Fate>);

/// Counters, for statistics.
#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    group_max: AtomicU64,
    micros_total: AtomicU64,
    micros_max: AtomicU64,
}

/// What [`Commit::stats`] gives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CommitStats {
    pub(crate) commits: u64,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) group_max: u64,
    pub(crate) time_total: Duration,
    pub(crate) time_max: Duration,
}

impl<P: Publish> Commit<P> {
    pub(crate) fn new(
        publisher: Arc<P>,
        room: Arc<Room>,
        clock: Arc<EngineClock>,
        timers: Arc<Timers>,
        limits: Limits,
        writer: LogWriter,
        leader: Option<Nudge>,
    ) -> Self {
        let queue = Queue {
            groups: VecDeque::new(),
            bytes: 0,
            entries: 0,
            writer: Some(writer),
            writing: None,
            closed: false,
            spare: Vec::new(),
        };
        Self {
            publisher,
            room,
            clock,
            limits,
            queue: Mutex::new(queue),
            drained: Condvar::new(),
            tasks_drained: Wakers::default(),
            leader,
            is_called: AtomicBool::new(false),
            flush_at: Mutex::default(),
            timers,
            failure: OnceLock::new(),
            stats: Counters::default(),
        }
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Queues an entry whose room, `promised` bytes of log, was promised before. Waits while the queue is full, for at most
    /// `patience`. The promise is the queue's once this succeeds. `None` where `may`, asked under the queue's lock when there is a
    /// place, says that it is no longer to be queued.
    pub(crate) async fn append(
        &self,
        caller: Caller,
        entry: &[u8],
        op: P::Op,
        promised: u64,
        patience: Duration,
        may: impl Fn() -> bool,
    ) -> Result<Option<Ticket>, CommitError> {
        let bytes = bytes_of(entry);
        if caller == Caller::Thread {
            let mut queue = self.admit(bytes, patience)?;
            return Ok(may().then(|| self.push(&mut queue, entry, op, promised)));
        }
        let mut op = Some(op);
        let admitted = self.tasks_drained.until(|| {
            let mut queue = self.queue.lock();
            match self.check_open(&queue) {
                Err(refused) => Some(Err(refused)),
                Ok(()) if !may() => Some(Ok(None)),
                Ok(()) if self.has_place(&queue, bytes) => {
                    let pushed = op.take().map(|op| self.push(&mut queue, entry, op, promised));
                    if caller == Caller::Task {
                        self.call_leader(&queue);
                    }
                    Some(Ok(pushed))
                }
                Ok(()) => {
                    self.call_leader(&queue);
                    None
                }
            }
        });
        let full = Err(CommitError::Busy(Busy::QueueFull { waited: patience }));
        self.timers.timeout(Deadline::after(patience), admitted).await.unwrap_or(full)
    }

    /// Queues an entry at once, however full the queue is: for the ends of claims. Room in the log was promised to each
    /// when its claim was granted, which bounds them all, and what a claim came to is not to be refused.
    pub(crate) fn append_promised(
        &self,
        caller: Caller,
        entry: &[u8],
        op: P::Op,
        promised: u64,
    ) -> Result<Ticket, CommitError> {
        let mut queue = self.queue.lock();
        self.check_open(&queue)?;
        let ticket = self.push(&mut queue, entry, op, promised);
        self.call_leader_for(caller, &queue);
        Ok(ticket)
    }

    /// Queues entries at once, one behind the other, if `may` says so. It is asked under the queue's lock, so that the log has what is
    /// allowed by a state in the order of that state's changes. The ticket is that of the last entry.
    pub(crate) fn append_promised_if<'e>(
        &self,
        caller: Caller,
        entries: impl IntoIterator<Item = (&'e [u8], P::Op, u64)>,
        may: impl FnOnce() -> bool,
    ) -> Result<Option<Ticket>, CommitError> {
        let mut queue = self.queue.lock();
        self.check_open(&queue)?;
        if !may() {
            return Ok(None);
        }
        let mut ticket = None;
        for (entry, op, promised) in entries {
            ticket = Some(self.push(&mut queue, entry, op, promised));
        }
        self.call_leader_for(caller, &queue);
        Ok(ticket)
    }

    fn push(&self, queue: &mut Queue<P::Op>, entry: &[u8], op: P::Op, promised: u64) -> Ticket {
        let bytes = bytes_of(entry);
        queue.bytes += bytes;
        queue.entries += 1;
        let mut group = match queue.groups.pop_back() {
            Some(last) if last.bytes + bytes <= self.limits.group_bytes => last,
            full => {
                queue.groups.extend(full);
                let (frame, ops) = queue.spare.pop().unwrap_or_default();
                Group { frame, bytes: 0, ops, promised: 0, fate: Arc::default() }
            }
        };
        group.frame.push(entry);
        group.bytes += bytes;
        group.ops.push(op);
        group.promised += promised;
        let ticket = Ticket(Arc::clone(&group.fate));
        queue.groups.push_back(group);
        ticket
    }

    fn check_open(&self, queue: &Queue<P::Op>) -> Result<(), CommitError> {
        match self.failure.get() {
            Some(failure) => Err(CommitError::Failed(failure.clone())),
            None if queue.closed => Err(CommitError::Closed),
            None => Ok(()),
        }
    }

    /// Whether an entry of so many bytes may come in. One that is longer than the whole queue may be is let in alone.
    fn has_place(&self, queue: &Queue<P::Op>, bytes: usize) -> bool {
        let fits =
            queue.bytes + bytes <= self.limits.queue_bytes && queue.entries < self.limits.queue_entries;
        fits || queue.groups.is_empty()
    }

    /// Sees to it that somebody leads for entries that are queued already, where whoever queued them does not.
    fn call_leader_for(&self, caller: Caller, queue: &Queue<P::Op>) {
        // More than one group is more than anybody should leave for later.
        if caller == Caller::Task || queue.groups.len() > 1 {
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
        self.nudge_leader();
    }

    pub(crate) fn nudge_leader(&self) {
        if let Some(leader) = &self.leader {
            leader.nudge();
        }
    }

    /// Has what is queued by now written within this time.
    pub(crate) fn flush_within(&self, within: Duration) {
        let deadline = Deadline::after(within);
        let mut flush_at = self.flush_at.lock();
        let is_earlier = flush_at.is_none_or(|at| deadline.is_before(at));
        if is_earlier {
            *flush_at = Some(deadline);
        }
        drop(flush_at);
        if is_earlier {
            self.nudge_leader();
        }
    }

    /// Leads if somebody called, or if it is time to flush; gives the time until which there is nothing to do. For the
    /// engine's own thread.
    pub(crate) fn lead_if_called(&self) -> Deadline {
        let mut flush_at = self.flush_at.lock();
        let is_due = flush_at.is_some_and(Deadline::has_passed);
        let next = if is_due { flush_at.take().map(|_| Deadline::NEVER) } else { *flush_at };
        drop(flush_at);
        // Both are taken back before what they stand for is done.
        let is_called = self.is_called.swap(false, Ordering::AcqRel);
        if is_due || is_called {
            self.drain();
        }
        next.unwrap_or(Deadline::NEVER)
    }

    /// Waits until everything queued by now is durable.
    pub(crate) async fn flush(&self, caller: Caller) -> Result<(), CommitError> {
        let ticket = {
            let queue = self.queue.lock();
            if let Some(failure) = self.failure.get() {
                return Err(CommitError::Failed(failure.clone()));
            }
            let last = queue.groups.back().map(|group| &group.fate).or(queue.writing.as_ref());
            let Some(fate) = last else { return Ok(()) };
            if caller == Caller::Task {
                self.call_leader(&queue);
            }
            Ticket(Arc::clone(fate))
        };
        self.settled(caller, &ticket).await
    }

    fn notify_drained(&self) {
        self.drained.notify_all();
        self.tasks_drained.wake_all();
    }

    /// Waits until the queue has a place.
    fn admit(&self, bytes: usize, patience: Duration) -> Result<MutexGuard<'_, Queue<P::Op>>, CommitError> {
        let mut deadline = None;
        let mut queue = self.queue.lock();
        loop {
            self.check_open(&queue)?;
            if self.has_place(&queue, bytes) {
                return Ok(queue);
            }
            if let Some(writer) = queue.writer.take() {
                // Nobody leads, and those whose entries wait are on their way: lead for them.
                queue = self.lead(queue, writer, Turn::Short);
                continue;
            }
            let at = *deadline.get_or_insert_with(|| Deadline::after(patience));
            if at.has_passed() {
                return Err(CommitError::Busy(Busy::QueueFull { waited: patience }));
            }
            self.wait_for_drained(&mut queue, at);
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
    pub(crate) async fn settled(&self, caller: Caller, ticket: &Ticket) -> Result<(), CommitError> {
        if caller == Caller::Thread {
            return self.wait(ticket);
        }
        let fate = &ticket.0;
        match fate.tasks.until(|| fate.is_settled().then(|| fate.state.load(Ordering::Acquire))).await {
            DURABLE => Ok(()),
            _ => Err(self.failed()),
        }
    }

    fn failed(&self) -> CommitError {
        CommitError::Failed(self.failure.get().cloned().unwrap_or(Failure::Panicked))
    }

    /// Waits until the ticket's group is durable and published; leads where nobody does.
    fn wait(&self, ticket: &Ticket) -> Result<(), CommitError> {
        let fate = &ticket.0;
        let mut registered = false;
        loop {
            match fate.state.load(Ordering::Acquire) {
                DURABLE => {
                    fate.wake_some();
                    return Ok(());
                }
                FAILED => {
                    fate.wake_some();
                    return Err(self.failed());
                }
                _ => {}
            }
            let mut queue = self.queue.lock();
            if let Some(writer) = queue.writer.take() {
                drop(self.lead(queue, writer, Turn::After(fate)));
                continue;
            }
            // Under the queue's lock: whoever leads now will see this thread when it looks for its successor.
            registered = registered || fate.register();
            drop(queue);
            if registered {
                park();
            }
        }
    }

    /// Writes whatever is queued and not being written. For entries that no thread waits for.
    pub(crate) fn drain(&self) {
        self.lead_if_nobody_does(Turn::Endless);
    }

    /// Writes what is queued for as long as a caller does.
    pub(crate) fn lead_a_turn(&self) {
        self.lead_if_nobody_does(Turn::Short);
    }

    fn lead_if_nobody_does(&self, turn: Turn<'_>) {
        let mut queue = self.queue.lock();
        if let Some(writer) = queue.writer.take() {
            drop(self.lead(queue, writer, turn));
        }
    }

    /// Refuses new entries, and returns when everything queued before is settled and nobody leads.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        loop {
            if self.failure.get().is_some() {
                break;
            }
            match queue.writer.take() {
                Some(writer) if queue.groups.is_empty() => {
                    queue.writer = Some(writer);
                    break;
                }
                Some(writer) => queue = self.lead(queue, writer, Turn::Short),
                None => self.wait_for_drained(&mut queue, Deadline::NEVER),
            }
        }
        drop(queue);
        self.notify_drained();
    }

    /// Leads: writes groups until the queue is empty or the turn is over, and puts the writer back.
    fn lead<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue<P::Op>>,
        mut writer: LogWriter,
        turn: Turn<'_>,
    ) -> MutexGuard<'a, Queue<P::Op>> {
        let mut led = 0;
        while let Some(group) = queue.groups.pop_front() {
            if turn.is_over(led) && self.hand_over(&group.fate) {
                queue.groups.push_front(group);
                break;
            }
            queue.bytes -= group.bytes;
            queue.entries -= group.ops.len();
            queue.writing = Some(Arc::clone(&group.fate));
            drop(queue);
            self.notify_drained();
            let written = self.write(&mut writer, group);
            queue = self.queue.lock();
            match written {
                Some(spare) if queue.spare.len() < 4 => queue.spare.push(spare),
                Some(_) => {}
                // The writer is not put back: nothing is ever appended behind a frame whose fate is unknown.
                None => {
                    drop(queue);
                    self.fail_queued();
                    return self.queue.lock();
                }
            }
            led += 1;
        }
        queue.writer = Some(writer);
        queue.writing = None;
        self.notify_drained();
        queue
    }

    /// Whether somebody else was woken to lead: a thread that waits for the next group, or the engine's own.
    fn hand_over(&self, next: &Fate) -> bool {
        if next.wake_a_leader() {
            return true;
        }
        self.call();
        self.leader.is_some()
    }

    /// Makes one group durable and publishes it; gives its buffers back. `None` after a failure.
    fn write(&self, writer: &mut LogWriter, mut group: Group<P::Op>) -> Option<(FrameBuf, Vec<P::Op>)> {
        // A panic in here must not leave others waiting for ever.
        let unwinding = FailOnUnwind { commit: self, fate: &group.fate };
        let watch = Stopwatch::start();
        let written = writer.append(&mut group.frame, self.clock.now());
        let result = match written {
            Ok(seq) => {
                self.stats.note(&group.frame, group.bytes, watch.elapsed());
                self.room.withdraw(group.promised);
                self.publisher.publish(seq, &mut group.ops);
                group.fate.settle(DURABLE);
                group.frame.clear();
                Some((std::mem::take(&mut group.frame), std::mem::take(&mut group.ops)))
            }
            Err(failure) => {
                self.fail(&Failure::Io(failure));
                group.fate.settle(FAILED);
                None
            }
        };
        std::mem::forget(unwinding);
        result
    }

    /// Stops all commits for good. Only who leads comes here, and nobody leads after that.
    fn fail(&self, failure: &Failure) {
        drop(self.failure.set(failure.clone()));
        self.publisher.failed(failure);
        self.room.wake();
    }

    /// Tells all whose entries wait that a commit failed. Without the queue's lock: tasks are woken by foreign code, which may call
    /// in here again.
    fn fail_queued(&self) {
        let groups = self.queue.lock().take_all();
        for group in groups {
            group.fate.settle(FAILED);
        }
        self.notify_drained();
    }

    pub(crate) fn stats(&self) -> CommitStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CommitStats {
            commits: load(&self.stats.commits),
            entries: load(&self.stats.entries),
            bytes: load(&self.stats.bytes),
            group_max: load(&self.stats.group_max),
            time_total: Duration::from_micros(load(&self.stats.micros_total)),
            time_max: Duration::from_micros(load(&self.stats.micros_max)),
        }
    }
}

impl Counters {
    fn note(&self, frame: &FrameBuf, bytes: usize, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let entries = u64::from(frame.entries());
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.group_max.fetch_max(entries, Ordering::Relaxed);
        self.micros_total.fetch_add(micros, Ordering::Relaxed);
        self.micros_max.fetch_max(micros, Ordering::Relaxed);
    }
}

/// Turns a panic of a leader into a failed commit. Forgotten where nothing went wrong.
struct FailOnUnwind<'a, P: Publish> {
    commit: &'a Commit<P>,
    fate: &'a Arc<Fate>,
}

impl<P: Publish> Drop for FailOnUnwind<'_, P> {
    fn drop(&mut self) {
        self.commit.fail(&Failure::Panicked);
        self.fate.settle(FAILED);
        self.commit.fail_queued();
    }
}

/// What models of commits look at; see `models`.
#[cfg(all(test, idemkv_loom))]
impl<P: Publish> Commit<P> {
    pub(crate) fn publisher(&self) -> &P {
        &self.publisher
    }

    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    pub(crate) fn is_over(&self) -> bool {
        self.queue.lock().closed
    }
}
