//! The queue: groups that wait to be written, and written groups that wait to be published.

use std::collections::VecDeque;

use super::status::{CommitStatus, GroupEnd, Ticket};
use crate::clock::Stopwatch;
use crate::error::Failure;
use crate::sync::Arc;
use crate::task::wait_queue::{Turn, WaitQueue, Waiting, Wakeups};
use crate::wal::frame::{FrameBuf, entry_bytes_max};
use crate::wal::{LogWriter, Reservation};

/// Limits of the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of entries in one group.
    pub(crate) group_bytes: usize,
    /// Bytes of entries in all groups that wait.
    pub(crate) queue_bytes: usize,
    /// Entries in all groups that wait.
    pub(crate) queue_entries: usize,
    /// Up to so many entries the leader publishes itself though the next group waits: handing
    /// over would take longer.
    pub(crate) published_by_leader: usize,
}

/// The most buffers of groups that are kept for reuse.
const SPARES: usize = 4;

/// Entries that are written, and synced, together.
pub(super) struct Group<T> {
    pub(super) frame: FrameBuf,
    pub(super) bytes: usize,
    pub(super) ops: Vec<T>,
    /// Bytes of log that are reserved for its entries.
    pub(super) reserved: u64,
    pub(super) status: Arc<CommitStatus>,
}

/// A group that was written, or whose write failed.
pub(super) struct Written<T> {
    pub(super) status: Arc<CommitStatus>,
    /// The sequence of its frame, and the operations to publish.
    pub(super) outcome: Result<(u64, Vec<T>), Failure>,
}

/// Whether entries are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    /// The log is not ready to be appended to.
    Early,
    Open,
    Closed,
}

pub(super) struct Queue<T> {
    pub(super) limits: Limits,
    /// Groups that take no more entries.
    full: VecDeque<Group<T>>,
    filling: Option<Group<T>>,
    /// Bytes of all that waits.
    bytes: usize,
    entries: usize,
    /// Callers that wait for a place. No later caller gets one before them.
    pub(super) line: WaitQueue,
    /// Entries, and their bytes, that callers of the line were given places for and have not
    /// queued yet.
    given: usize,
    given_bytes: usize,
    /// The newest group, published or not.
    newest: Option<Arc<CommitStatus>>,
    /// `None` if a thread leads, a commit failed, or the log is not ready yet.
    pub(super) writer: Option<LogWriter>,
    /// Since when a group is being written; `None` if none is.
    pub(super) writing: Option<Stopwatch>,
    /// In the order in which they were written. They are published in that order, by one thread at
    /// a time.
    pub(super) written: VecDeque<Written<T>>,
    /// A thread is publishing, and continues while there are groups.
    pub(super) is_publishing: bool,
    pub(super) intake: Intake,
    /// Buffers of groups that are done, to be used again.
    frames: Vec<FrameBuf>,
    ops: Vec<Vec<T>>,
}

/// Bytes of an entry as the frame counts them: it has its length in front.
pub(super) fn bytes_of(entry: &[u8]) -> usize {
    entry.len() + size_of::<u32>()
}

impl<T> Queue<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            full: VecDeque::new(),
            filling: None,
            bytes: 0,
            entries: 0,
            line: WaitQueue::default(),
            given: 0,
            given_bytes: 0,
            newest: None,
            writer: None,
            writing: None,
            written: VecDeque::new(),
            is_publishing: false,
            intake: Intake::Early,
            frames: Vec::new(),
            ops: Vec::new(),
        }
    }

    /// Queues an entry, whose bytes of log come from the reservation.
    pub(super) fn push(&mut self, entry: &[u8], op: T, reservation: &mut Reservation) -> Ticket {
        let reserved = entry_bytes_max(entry.len()) as u64;
        reservation.spend(reserved);
        let bytes = bytes_of(entry);
        self.bytes += bytes;
        self.entries += 1;
        let group_bytes = self.limits.group_bytes;
        let Self { full, filling, frames, ops, newest, .. } = self;
        if let Some(group) = filling.take_if(|group| group.bytes + bytes > group_bytes) {
            full.push_back(group);
        }
        let group = filling.get_or_insert_with(|| {
            let (frame, ops) = (frames.pop().unwrap_or_default(), ops.pop().unwrap_or_default());
            let status = Arc::default();
            *newest = Some(Arc::clone(&status));
            Group { frame, bytes: 0, ops, reserved: 0, status }
        });
        group.frame.push(entry);
        group.bytes += bytes;
        group.ops.push(op);
        group.reserved += reserved;
        Ticket::new(&group.status)
    }

    /// Whether an entry of so many bytes fits beside those for which places were given.
    fn fits(&self, bytes: usize) -> bool {
        self.bytes + self.given_bytes + bytes <= self.limits.queue_bytes
            && self.entries + self.given < self.limits.queue_entries
    }

    /// Whether a call may queue an entry of so many bytes: one with a turn in line once it was
    /// given a place, any other if no caller waits. An entry may always be queued alone, however
    /// long it is, and even if a task does not come for the place that it was given.
    pub(super) fn has_place(&self, turn: Option<Turn>, bytes: usize) -> bool {
        let is_next = match turn {
            Some(turn) if !self.line.has(turn) => return true,
            Some(turn) => self.line.is_first(turn),
            None => self.line.is_empty(),
        };
        is_next && (self.fits(bytes) || self.is_empty())
    }

    /// Takes a caller with an entry of so many bytes out of the line, and its place if it was
    /// given one. What is returned is dropped without the lock.
    pub(super) fn leave_line(&mut self, turn: Turn, bytes: usize) -> Option<Waiting> {
        let left = self.line.leave(turn);
        if left.is_none() {
            self.given -= 1;
            self.given_bytes -= bytes;
        }
        left
    }

    /// Gives free places to the first in line. One goes alone into an empty queue, so tasks that
    /// do not come for their places cannot hold up the line.
    pub(super) fn serve_line(&mut self) -> Wakeups {
        if self.line.is_empty() {
            return Wakeups::default();
        }
        let mut line = std::mem::take(&mut self.line);
        let mut may_go_alone = self.is_empty();
        let wakeups = line.serve(|bytes| {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            let is_free = self.fits(bytes) || may_go_alone;
            may_go_alone = false;
            if is_free {
                self.given += 1;
                self.given_bytes += bytes;
            }
            is_free
        });
        self.line = line;
        wakeups
    }

    /// Groups that wait to be written.
    pub(super) fn groups(&self) -> usize {
        self.full.len() + usize::from(self.filling.is_some())
    }

    /// Entries that wait to be written.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Whether nothing waits to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.filling.is_none()
    }

    /// Whether more than one group waits.
    pub(super) fn is_backed_up(&self) -> bool {
        !self.full.is_empty()
    }

    /// The group that is to be written next.
    pub(super) fn next(&self) -> Option<&Arc<CommitStatus>> {
        self.full.front().or(self.filling.as_ref()).map(|group| &group.status)
    }

    /// Takes the group that is to be written next.
    pub(super) fn take_next(&mut self) -> Option<Group<T>> {
        let group = self.full.pop_front().or_else(|| self.filling.take())?;
        self.bytes -= group.bytes;
        self.entries -= group.ops.len();
        Some(group)
    }

    /// The status of the newest group, unless it is durable: then all groups before it are
    /// durable too.
    pub(super) fn newest_not_durable(&self) -> Option<&Arc<CommitStatus>> {
        self.newest.as_ref().filter(|status| status.end() != Some(GroupEnd::Durable))
    }

    /// Entries that wait to be published.
    pub(super) fn written_entries(&self) -> usize {
        let entries = |written: &Written<T>| written.outcome.as_ref().map_or(0, |(_, ops)| ops.len());
        self.written.iter().map(entries).sum()
    }

    /// Whether everything that was queued is written, and what was written published.
    pub(super) fn is_settled(&self) -> bool {
        self.is_empty() && self.written.is_empty() && !self.is_publishing
    }

    /// Removes all waiting groups, after a failure.
    pub(super) fn take_all(&mut self) -> (VecDeque<Written<T>>, Vec<Group<T>>) {
        let written = std::mem::take(&mut self.written);
        (written, std::iter::from_fn(|| self.take_next()).collect())
    }

    /// Keeps an empty frame, to be used again.
    pub(super) fn keep_frame(&mut self, frame: FrameBuf) {
        if self.frames.len() < SPARES {
            self.frames.push(frame);
        }
    }

    /// Keeps an empty vector, to be used again.
    #[inline]
    pub(super) fn keep_ops(&mut self, ops: Vec<T>) {
        if self.ops.len() < SPARES {
            self.ops.push(ops);
        }
    }

    #[cfg(test)]
    pub(super) fn spares(&self) -> (usize, usize) {
        (self.frames.len(), self.ops.len())
    }
}
