//! Leading: one thread at a time takes groups from the queue and makes them durable.

use std::time::Duration;

use super::publishing::{FailOnUnwind, Stage};
use super::queue::{Group, Intake, Queue, Written};
use super::status::CommitStatus;
use super::{Commit, Publish};
use crate::activity::{Activity, ActivityMark};
use crate::clock::{Deadline, Stopwatch};
use crate::error::Failure;
use crate::sync::{MutexGuard, Ordering};
use crate::wal::LogWriter;
use crate::wal::frame::FrameBuf;

/// Groups that a leader writes before another thread takes over, counted from its own entry's
/// group: waking a thread then costs little for each sync, and no caller is kept for longer.
pub(super) const LED_MAX: u32 = 8;

/// A leader on a slow disk hands over after this time, however few groups it wrote. Waking a
/// thread takes a hundredth of it.
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
pub(super) const LED_FOR: Duration = Duration::from_millis(10);

/// A model must behave the same each time, so its turns do not depend on time.
#[cfg(any(idemkv_loom, idemkv_shuttle))]
const LED_FOR: Duration = Duration::MAX;

/// The work of a leader in its turn so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Led {
    pub(super) groups: usize,
    pub(super) time: Duration,
}

impl Led {
    fn is_long(self) -> bool {
        self.groups >= LED_MAX as usize || self.time >= LED_FOR
    }
}

/// When a leader stops although groups are left. Every thread with other work has a turn that
/// ends.
#[derive(Clone, Copy)]
pub(super) enum Turn<'a> {
    /// Once this group is settled and the leader has led long enough.
    After(&'a CommitStatus),
    /// Once the leader has led long enough.
    Short,
    /// After so many groups, those that were queued when the turn began; on a slow disk once the
    /// leader has led long enough.
    Queued(usize),
    /// After one group. The leader waits in line for a place.
    ForPlace,
    /// Never. For a thread without other work.
    Endless,
}

impl Turn<'_> {
    pub(super) fn is_over(self, led: Led) -> bool {
        match self {
            Self::After(own) => led.is_long() && own.end().is_some(),
            Self::Short => led.is_long(),
            Self::Queued(groups) => led.groups >= groups || led.time >= LED_FOR,
            Self::ForPlace => led.groups > 0,
            Self::Endless => false,
        }
    }
}

/// The other work of a thread that leads where no caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// None: it leads until the queue is empty.
    Sole,
    /// Other work, which must not wait until the queue is empty: under load it never is.
    BesideOthers,
}

impl<P: Publish> Commit<P> {
    /// Leads if it was woken, or if it is time to flush; returns the time until which there is
    /// nothing to do. For the engine's own threads.
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

    /// Writes the entries queued so far, unless a thread leads. For entries for which no thread
    /// waits.
    pub(crate) fn drain(&self) {
        self.lead_if_nobody_does(|queue| Turn::Queued(queue.groups()));
    }

    /// Leads with the turn of a caller.
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

    /// Leads: writes groups until the queue is empty or the turn is over, and puts the writer
    /// back. `None` in a forked child, if a task that was woken meanwhile forked.
    pub(super) fn lead<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue<P::Op>>,
        mut writer: LogWriter,
        turn: Turn<'_>,
    ) -> Option<MutexGuard<'a, Queue<P::Op>>> {
        let _inside = ActivityMark::enter(self, Activity::Commits);
        let (mut led, mut is_over) = (Led::default(), false);
        // After a failure that no commit met, the log may be another engine's as soon as this one
        // closes.
        while self.failure.get().is_none()
            && let Some(next) = queue.next()
        {
            // A caller that led for a place has its own entry to lead for next, and need not be
            // relieved.
            is_over = turn.is_over(led) && (self.hand_over(next) || matches!(turn, Turn::ForPlace));
            if is_over {
                break;
            }
            let Some(group) = queue.take_next() else { break };
            let watch = Stopwatch::start();
            queue.writing = Some(watch);
            self.give_places(queue);
            if self.origin.is_elsewhere() {
                return None;
            }
            let (written, frame, took) = self.write(&mut writer, group, watch);
            // It woke tasks that wait for log space.
            if self.origin.is_elsewhere() {
                return None;
            }
            let has_failed = written.outcome.is_err();
            queue = self.queue.lock();
            queue.writing = None;
            queue.written.push_back(written);
            queue.keep_frame(frame);
            if has_failed {
                // The writer is not put back: nothing is ever appended behind a frame whose fate
                // is unknown.
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
        // No tasks: what they wait for is told without the queue's lock, for wakers are foreign
        // code.
        self.drained.notify_all();
        if is_over && self.calls_publisher(&queue) { Some(queue) } else { self.publish(queue) }
    }

    /// Whether another thread was woken to lead: a thread that waits for the next group, or the
    /// engine's own.
    fn hand_over(&self, next: &CommitStatus) -> bool {
        if next.wake_a_leader() {
            return true;
        }
        self.call();
        self.threads.leader.is_some()
    }

    /// Whether another thread publishes the written groups, while the leader writes on.
    fn leaves_publishing(&self, queue: &Queue<P::Op>) -> bool {
        queue.is_publishing
            || !queue.is_empty()
                && queue.written_entries() > queue.limits.published_by_leader
                && self.calls_publisher(queue)
    }

    /// Whether the publishing thread was woken. While the engine closes it may be gone.
    pub(super) fn calls_publisher(&self, queue: &Queue<P::Op>) -> bool {
        let press = self.threads.press.as_ref().filter(|_| queue.intake != Intake::Closed);
        press.inspect(|press| press.notify()).is_some()
    }

    /// Makes one group durable; returns how long that took, by this watch.
    pub(super) fn write(
        &self,
        writer: &mut LogWriter,
        group: Group<P::Op>,
        watch: Stopwatch,
    ) -> (Written<P::Op>, FrameBuf, Duration) {
        let Group { mut frame, bytes, ops, reserved, status } = group;
        // A panic in here must not leave others waiting for ever.
        let unwinding = FailOnUnwind::new(self, &status, Stage::Writing);
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
}
