//! `LogSpace`: which segments of the log are free, and how much of them is reserved.
//!
//! Every append uses up a [`Reservation`], so it never finds the log full. A claim reserves space
//! for its intent and its completion at once.
//!
//! A log starts small. Its last segment ends with the file, and grows in steps until it is as
//! long as the others.

use std::collections::VecDeque;

use crate::fork;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::task::wait_queue::{Priority, WaitQueue, Wakeups};

mod request;
mod reservation;

pub(crate) use request::Request;
pub(crate) use reservation::Reservation;

/// Bytes of a new log, unless its segments are shorter.
pub(crate) const FIRST_BYTES: u64 = 256 << 10;

/// A frame never spans segments, so up to one longest frame may stay unused at the end of each
/// segment but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of a segment that is not the last; a multiple of the sector size.
    pub(crate) segment: u64,
    /// Bytes of the longest frame.
    pub(crate) frame_max: u64,
}

#[derive(Debug)]
pub(crate) struct LogSpace {
    geometry: Geometry,
    /// The process that made it. A forked child must not take its lock.
    generation: u64,
    state: Mutex<State>,
    /// The reserved bytes of entries that are queued and not written yet. Reduced only under the
    /// lock of `state`, so that under it this is never less than the bytes reserved for those
    /// entries.
    queued: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Segments whose content is no longer needed.
    free: VecDeque<u32>,
    /// Full segments, oldest first, each with the sequence of its last frame.
    sealed: VecDeque<(u32, u64)>,
    /// The segment that is being written.
    active: Option<Active>,
    /// Bytes reserved and not yet written.
    reserved: u64,
    /// Bytes of all segments together.
    bytes: u64,
    /// Bytes that survive a power cut.
    durable_bytes: u64,
    /// The most bytes that a caller asked for in vain since the log last grew.
    wanted: u64,
    /// Counts calls of [`LogSpace::wake`], so that a call right before a wait is not missed.
    wakes: u64,
    /// The log's limit in bytes of segments, from the waiters that wait only while space may
    /// come.
    bytes_max: Option<u64>,
    /// Callers that wait for a reservation. No later caller gets one before them.
    line: WaitQueue,
}

#[derive(Clone, Copy, Debug)]
struct Active {
    segment: u32,
    /// Where the next frame goes.
    at: u64,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) segment: u32,
    /// Offset in the segment.
    pub(crate) at: u64,
    /// Bytes of all segments at this moment: a sync of the frame makes them durable as well.
    pub(crate) log_bytes: u64,
}

impl State {
    fn segments(&self, geometry: Geometry) -> u32 {
        u32::try_from(self.bytes.div_ceil(geometry.segment)).unwrap_or(u32::MAX)
    }

    /// Bytes of a segment: the last one may be shorter than the others.
    fn len_of(&self, geometry: Geometry, segment: u32) -> u64 {
        self.bytes.saturating_sub(u64::from(segment) * geometry.segment).min(geometry.segment)
    }

    /// Bytes of the full segments.
    fn full_bytes(&self, geometry: Geometry) -> u64 {
        self.sealed.iter().map(|(segment, _)| self.len_of(geometry, *segment)).sum()
    }

    /// Bytes of frames, of any lengths, that certainly fit.
    ///
    /// Frames are placed one after the other; a frame that does not fit goes to the next segment.
    /// The unused end of a segment is then shorter than a longest frame. So the bytes that fit
    /// are the sum of the segments, minus one longest frame for each segment but the last.
    fn capacity(&self, geometry: Geometry) -> u64 {
        let left = |active: Active| self.len_of(geometry, active.segment).saturating_sub(active.at);
        let free = self.free.iter().map(|segment| self.len_of(geometry, *segment));
        let (mut sum, mut lost, mut capacity) = (0_u64, 0, 0);
        for len in self.active.map(left).into_iter().chain(free) {
            sum += len;
            capacity = capacity.max(sum.saturating_sub(lost));
            lost += geometry.frame_max;
        }
        capacity
    }

    fn fits(&self, geometry: Geometry, bytes: u64) -> bool {
        self.reserved.saturating_add(bytes) <= self.capacity(geometry)
    }
}

impl LogSpace {
    /// The space of a log that is not open for writing yet: none.
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self { geometry, generation: fork::generation(), state: Mutex::default(), queued: AtomicU64::new(0) }
    }

    /// The log has so many bytes of segments, all free and all durable.
    pub(crate) fn open(&self, bytes: u64) {
        let mut state = self.state.lock();
        debug_assert!(state.bytes == 0, "a log is opened once");
        state.bytes = bytes;
        state.durable_bytes = bytes;
        state.free = (0..state.segments(self.geometry)).collect();
        // A caller that came before the log was prepared, as after a full disk, is in line
        // already.
        let wakeups = self.serve(&mut state);
        drop(state);
        wakeups.wake();
        // The task that was woken last may have forked.
        if !self.is_elsewhere() {
            self.wake();
        }
    }

    /// Whether the calling process is a forked child of the one that made this.
    fn is_elsewhere(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Reserves `bytes`, if there is space for them beside all reservations, and no caller of
    /// this priority waits.
    fn try_set_aside(&self, priority: Priority, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let fits = bytes == 0 || state.line.is_free_for(priority) && state.fits(self.geometry, bytes);
        if fits {
            state.reserved += bytes;
        } else {
            state.wanted = state.wanted.max(bytes);
        }
        fits
    }

    /// Frees reserved bytes that will not be written.
    fn give_back(&self, bytes: u64) {
        let mut state = self.state.lock();
        debug_assert!(state.reserved >= bytes, "only reserved bytes are given back");
        state.reserved = state.reserved.saturating_sub(bytes);
        let wakeups = self.serve(&mut state);
        drop(state);
        wakeups.wake();
    }

    /// Notes that a queued entry now has so many of the reserved bytes.
    fn note_queued(&self, bytes: u64) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Frees the reserved bytes of queued entries, once these are written.
    pub(crate) fn note_written(&self, bytes: u64) {
        let mut state = self.state.lock();
        debug_assert!(state.reserved >= bytes, "only reserved bytes are written");
        state.reserved = state.reserved.saturating_sub(bytes);
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
        let wakeups = self.serve(&mut state);
        drop(state);
        wakeups.wake();
    }

    /// Whether the log is shorter than `bytes_max`, and can grow.
    pub(crate) fn may_grow(&self, bytes_max: u64) -> bool {
        (1..bytes_max).contains(&self.state.lock().bytes)
    }

    /// Whether `bytes` could fit without the end of a claim: in a log that has grown to
    /// `bytes_max`, once all queued entries are written and moved to the store.
    pub(crate) fn may_come(&self, bytes: u64, bytes_max: u64) -> bool {
        self.may_come_to(&self.state.lock(), bytes, bytes_max)
    }

    fn may_come_to(&self, state: &State, bytes: u64, bytes_max: u64) -> bool {
        let claims = state.reserved.saturating_sub(self.queued.load(Ordering::Relaxed));
        let mut best = State { active: state.active, bytes: bytes_max.max(state.bytes), ..State::default() };
        let new = state.segments(self.geometry)..best.segments(self.geometry);
        let sealed = state.sealed.iter().map(|(segment, _)| *segment);
        best.free = state.free.iter().copied().chain(sealed).chain(new).collect();
        claims.saturating_add(bytes) <= best.capacity(self.geometry)
    }

    /// Reserves space for callers in line, as far as there is some. Called when there is more
    /// space, and when entries were written that could have left some. Callers for whom no space
    /// may come any more are woken, so that they check again.
    #[inline]
    fn serve(&self, state: &mut State) -> Wakeups {
        if state.line.is_empty() { Wakeups::default() } else { self.serve_line(state) }
    }

    fn serve_line(&self, state: &mut State) -> Wakeups {
        let capacity = state.capacity(self.geometry);
        let reserved = &mut state.reserved;
        let mut wakeups = state.line.serve(|bytes| {
            let fits = reserved.saturating_add(bytes) <= capacity;
            *reserved += if fits { bytes } else { 0 };
            fits
        });
        if let (Some(bytes), Some(max)) = (state.line.first_hopeful_bytes(), state.bytes_max)
            && !self.may_come_to(state, bytes, max)
        {
            state.wakes += 1;
            state.line.wake_first_hopeful(&mut wakeups);
        }
        wakeups
    }

    /// Wakes all waiters, so that they check again, for another event than free space.
    pub(crate) fn wake(&self) {
        let mut state = self.state.lock();
        state.wakes += 1;
        let wakeups = state.line.wake_all();
        drop(state);
        wakeups.wake();
    }

    /// Bytes by which the log should grow. It grows while the unreserved space is less than half
    /// of the log, or less than a caller asked for, but not once a whole segment is unreserved.
    /// `None` if the log need not grow, or has reached its limit.
    pub(crate) fn growth(&self, bytes_max: u64) -> Option<u64> {
        let state = self.state.lock();
        if state.bytes == 0 {
            // It is not open yet.
            return None;
        }
        // A caller in line asks once, and may want more than the log has grown by since.
        let wanted = state.wanted.max(state.line.first_bytes());
        let enough = (state.bytes / 2).min(self.geometry.segment - self.geometry.frame_max).max(wanted);
        if state.fits(self.geometry, enough) || state.bytes >= bytes_max {
            return None;
        }
        // Twice as long, or one segment longer, but never over the end of the last segment.
        let to_end = self.geometry.segment - state.bytes % self.geometry.segment;
        Some(state.bytes.max(FIRST_BYTES.min(self.geometry.segment)).min(to_end))
    }

    /// Whether callers wait for space.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.state.lock().line.is_empty()
    }

    /// Whether there are full segments, which a checkpoint would free.
    pub(crate) fn has_sealed(&self) -> bool {
        !self.state.lock().sealed.is_empty()
    }

    /// Whether the full segments have so many bytes, or a caller waits for space.
    pub(crate) fn is_recycling_wanted(&self, bytes: u64) -> bool {
        let state = self.state.lock();
        !state.line.is_empty() || state.full_bytes(self.geometry) >= bytes
    }

    /// Whether callers wait for space that a checkpoint would make.
    pub(crate) fn awaits_checkpoint(&self) -> bool {
        let state = self.state.lock();
        !state.line.is_empty() && !state.sealed.is_empty()
    }

    /// Bytes of the log file.
    pub(crate) fn file_bytes(&self) -> u64 {
        super::HEADER_BYTES + self.bytes()
    }

    /// Bytes that no later claim can have now: reserved, written to the active segment, or full
    /// and not yet stored.
    pub(crate) fn used_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.full_bytes(self.geometry) + state.active.map_or(0, |active| active.at) + state.reserved
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// Bytes of segments that survive a power cut.
    pub(crate) fn durable_bytes(&self) -> u64 {
        self.state.lock().durable_bytes
    }

    /// Notes that the file is so many bytes longer, in its last segment or a new one.
    pub(crate) fn grow(&self, bytes: u64) {
        let mut state = self.state.lock();
        let before = state.segments(self.geometry);
        state.bytes += bytes;
        state.wanted = 0;
        let new = before..state.segments(self.geometry);
        state.free.extend(new);
        let wakeups = self.serve(&mut state);
        drop(state);
        wakeups.wake();
    }

    /// Where a frame of `bytes` goes; the one before it had sequence `last_seq`.
    ///
    /// `None` only if nothing was reserved for the frame.
    pub(crate) fn spot(&self, bytes: u64, last_seq: u64) -> Option<Spot> {
        let mut state = self.state.lock();
        loop {
            if let Some(Active { segment, at }) = state.active
                && at + bytes <= state.len_of(self.geometry, segment)
            {
                return Some(Spot { segment, at, log_bytes: state.bytes });
            }
            let next = state.free.pop_front()?;
            if let Some(full) = state.active.replace(Active { segment: next, at: 0 }) {
                state.sealed.push_back((full.segment, last_seq));
            }
        }
    }

    /// Notes that a frame of `bytes` was written at its spot, and that the sync after it covered
    /// `durable` bytes of segments.
    pub(crate) fn wrote(&self, bytes: u64, durable: u64) {
        let mut state = self.state.lock();
        state.durable_bytes = state.durable_bytes.max(durable);
        if let Some(active) = &mut state.active {
            active.at += bytes;
        }
    }

    /// Frees every full segment whose frames are all at or below `seq`.
    pub(crate) fn recycle(&self, seq: u64) {
        let mut state = self.state.lock();
        while let Some(&(segment, last)) = state.sealed.front()
            && last <= seq
        {
            state.sealed.pop_front();
            state.free.push_back(segment);
        }
        let wakeups = self.serve(&mut state);
        drop(state);
        wakeups.wake();
    }
}

#[cfg(test)]
mod tests;
