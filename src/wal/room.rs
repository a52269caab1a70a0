//! Room in the log: which segments are free, and how much of them is promised.
//!
//! Everything that is appended was promised room before, so an append never finds the log full. A claim is promised
//! room for its intent and its completion at once.

use std::collections::VecDeque;

use crate::clock::Deadline;
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering};
use crate::wakers::Wakers;

/// A frame never spans segments, so up to one longest frame of each segment may stay unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of a segment; a multiple of the sector size.
    pub(crate) segment: u64,
    /// Bytes of the longest frame.
    pub(crate) frame_max: u64,
}

impl Geometry {
    fn capacity(self) -> u64 {
        self.segment.saturating_sub(self.frame_max)
    }
}

#[derive(Debug)]
pub(crate) struct Room {
    geometry: Geometry,
    state: Mutex<State>,
    changed: Condvar,
    /// Of what is promised: bytes of entries that are queued and not written yet. Taken back under the lock of `state`, so that under it
    /// this is never less than what is promised to them.
    queued: AtomicU64,
    /// Tasks that wait for a change.
    tasks: Wakers,
}

#[derive(Debug)]
struct State {
    /// Segments with nothing in them that is still needed.
    free: VecDeque<u32>,
    /// Full segments, oldest first, each with the sequence of its last frame.
    sealed: VecDeque<(u32, u64)>,
    /// Bytes left in the segment that is written now.
    active_left: u64,
    /// Bytes promised and not yet written.
    promised: u64,
    segments: u32,
    /// Segments that would be there after a power cut.
    durable_segments: u32,
    /// Counts calls of [`Room::wake`], so that one that comes right before a wait is not missed.
    wakes: u64,
}

impl State {
    fn capacity(&self, geometry: Geometry) -> u64 {
        self.free.len() as u64 * geometry.capacity() + self.active_left.saturating_sub(geometry.frame_max)
    }

    fn fits(&self, geometry: Geometry, bytes: u64) -> bool {
        self.promised.saturating_add(bytes) <= self.capacity(geometry)
    }
}

impl Room {
    /// Room in a log of `segments` segments, all free and all durable.
    pub(crate) fn new(geometry: Geometry, segments: u32) -> Self {
        let state = State {
            free: (0..segments).collect(),
            sealed: VecDeque::new(),
            active_left: 0,
            promised: 0,
            segments,
            durable_segments: segments,
            wakes: 0,
        };
        Self {
            geometry,
            state: Mutex::new(state),
            changed: Condvar::new(),
            queued: AtomicU64::new(0),
            tasks: Wakers::default(),
        }
    }

    /// Promises `bytes`, if there is room for them beside all earlier promises.
    pub(crate) fn try_promise(&self, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let fits = state.fits(self.geometry, bytes);
        if fits {
            state.promised += bytes;
        }
        fits
    }

    /// Takes a promise back, because its bytes are written or will never be.
    pub(crate) fn withdraw(&self, bytes: u64) {
        let mut state = self.state.lock();
        debug_assert!(state.promised >= bytes, "only what was promised is taken back");
        state.promised = state.promised.saturating_sub(bytes);
        drop(state);
        self.notify();
    }

    /// Notes that an entry is queued which was promised so many bytes.
    pub(crate) fn queue(&self, bytes: u64) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes the promise of queued entries back, which are written.
    pub(crate) fn withdraw_queued(&self, bytes: u64) {
        let mut state = self.state.lock();
        debug_assert!(state.promised >= bytes, "only what was promised is taken back");
        state.promised = state.promised.saturating_sub(bytes);
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
        drop(state);
        self.notify();
    }

    /// Whether `bytes` could fit without the end of a claim: in a log that has grown to `segments_max`, once all that is queued is
    /// written, and moved to the store.
    pub(crate) fn may_come(&self, bytes: u64, segments_max: u32) -> bool {
        let state = self.state.lock();
        let claims = state.promised.saturating_sub(self.queued.load(Ordering::Relaxed));
        let more = u64::from(segments_max.saturating_sub(state.segments)) + state.sealed.len() as u64;
        let best = state.capacity(self.geometry) + more * self.geometry.capacity();
        claims.saturating_add(bytes) <= best
    }

    /// How often those who wait were told to look again.
    pub(crate) fn wakes(&self) -> u64 {
        self.state.lock().wakes
    }

    /// Waits until something changed, or until the deadline. `wakes` is from before the caller looked.
    pub(crate) fn wait(&self, bytes: u64, wakes: u64, deadline: Deadline) {
        let mut state = self.state.lock();
        if state.fits(self.geometry, bytes) || state.wakes != wakes {
            return;
        }
        match deadline.instant() {
            Some(at) => {
                self.changed.wait_until(&mut state, at);
            }
            None => self.changed.wait(&mut state),
        }
    }

    /// Waits until `ready` gives something; it is asked again whenever something changed. For tasks.
    pub(crate) async fn until<T>(&self, ready: impl FnMut() -> Option<T>) -> T {
        self.tasks.until(ready).await
    }

    fn notify(&self) {
        self.changed.notify_all();
        self.tasks.wake_all();
    }

    /// Wakes all who wait, so that they look again.
    pub(crate) fn wake(&self) {
        self.state.lock().wakes += 1;
        self.notify();
    }

    /// Whether less than one segment is left beyond all promises: time to grow or to checkpoint.
    pub(crate) fn is_short(&self) -> bool {
        let state = self.state.lock();
        !state.fits(self.geometry, self.geometry.capacity())
    }

    /// Whether there are full segments, which a checkpoint would free.
    pub(crate) fn has_sealed(&self) -> bool {
        !self.state.lock().sealed.is_empty()
    }

    /// Bytes of the log file.
    pub(crate) fn file_bytes(&self) -> u64 {
        super::HEADER_BYTES + u64::from(self.segments()) * self.geometry.segment
    }

    pub(crate) fn segments(&self) -> u32 {
        self.state.lock().segments
    }

    pub(crate) fn durable_segments(&self) -> u32 {
        self.state.lock().durable_segments
    }

    /// Adds the segment with the next number.
    pub(crate) fn add_segment(&self) {
        let mut state = self.state.lock();
        let number = state.segments;
        state.free.push_back(number);
        state.segments += 1;
        drop(state);
        self.notify();
    }

    /// The segment to write on into when the active one is full; its last frame had sequence `last_seq`.
    ///
    /// `None` only where an append was not promised.
    pub(crate) fn next_segment(&self, active: Option<u32>, last_seq: u64) -> Option<u32> {
        let mut state = self.state.lock();
        let next = state.free.pop_front()?;
        if let Some(active) = active {
            state.sealed.push_back((active, last_seq));
        }
        state.active_left = self.geometry.segment;
        Some(next)
    }

    /// Notes that a frame of `bytes` was written into the active segment, and that the sync after it covered `durable` segments.
    pub(crate) fn wrote(&self, bytes: u64, durable: u32) {
        let mut state = self.state.lock();
        state.durable_segments = state.durable_segments.max(durable);
        state.active_left = state.active_left.saturating_sub(bytes);
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
        drop(state);
        self.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry { segment: 100, frame_max: 20 };

    #[test]
    fn promises_stop_where_a_worst_case_would_not_fit() {
        let room = Room::new(GEOMETRY, 2);
        assert!(room.try_promise(160));
        assert!(!room.try_promise(1));
        room.withdraw(1);
        assert!(room.try_promise(1));
    }

    #[test]
    fn what_was_promised_always_fits_whatever_the_frames() {
        // Frames of every size, each promised before; the log of three segments is never found full.
        for size in 1..=20_u64 {
            let room = Room::new(GEOMETRY, 3);
            let mut promised = 0;
            while room.try_promise(size) {
                promised += 1;
            }
            let (mut active, mut left) = (None, 0);
            for frame in 0..promised {
                if left < size {
                    active = room.next_segment(active, frame);
                    assert!(active.is_some(), "frames of {size}: {frame} of {promised} fitted");
                    left = GEOMETRY.segment;
                }
                left -= size;
                room.wrote(size, 3);
                room.withdraw(size);
            }
        }
    }

    #[test]
    fn segments_come_back_once_their_last_frame_is_checkpointed() {
        let room = Room::new(GEOMETRY, 2);
        let first = room.next_segment(None, 0);
        let second = room.next_segment(first, 5);
        assert_eq!(second, Some(1));
        assert_eq!(room.next_segment(second, 9), None);
        room.recycle(4);
        assert_eq!(room.next_segment(second, 9), None);
        room.recycle(5);
        assert_eq!(room.next_segment(second, 9), Some(0));
    }

    #[test]
    fn a_wake_between_the_look_and_the_wait_is_not_missed() {
        let room = Room::new(GEOMETRY, 1);
        assert!(room.try_promise(80));
        let wakes = room.wakes();
        room.wake();
        room.wait(1, wakes, Deadline::NEVER);
    }

    #[test]
    fn whoever_waits_for_ever_is_woken_when_there_is_room() {
        let room = &Room::new(GEOMETRY, 1);
        assert!(room.try_promise(80));
        std::thread::scope(|threads| {
            for _ in 0..3 {
                let wakes = room.wakes();
                let waiter = threads.spawn(move || {
                    while !room.try_promise(20) {
                        room.wait(20, wakes, Deadline::NEVER);
                    }
                });
                // Most likely it waits by then; it is woken in any case.
                (0..100).for_each(|_| std::thread::yield_now());
                room.withdraw(20);
                waiter.join().unwrap();
            }
        });
        // What fits by now is not waited for.
        room.withdraw(20);
        room.wait(20, room.wakes(), Deadline::NEVER);
    }

    #[test]
    fn a_new_segment_makes_room() {
        let room = Room::new(GEOMETRY, 1);
        assert!(room.try_promise(80) && !room.try_promise(80));
        room.add_segment();
        assert!(room.try_promise(80));
        assert_eq!(room.segments(), 2);
    }

    #[test]
    fn room_may_come_by_growth_a_checkpoint_or_a_commit_and_otherwise_only_by_the_end_of_claims() {
        let room = Room::new(GEOMETRY, 2);
        assert!(room.try_promise(160));
        assert!(room.may_come(80, 3), "the log may grow");
        assert!(!room.may_come(1, 2), "claims have it all");
        // One of them queues its entry, of which nobody knows how little it takes.
        room.queue(30);
        assert!(room.may_come(30, 2) && !room.may_come(31, 2));
        room.withdraw_queued(30);
        assert!(room.try_promise(30) && !room.may_come(1, 2));
        // A full segment would be freed by a checkpoint.
        let first = room.next_segment(None, 0);
        room.next_segment(first, 5);
        room.withdraw(80);
        assert!(!room.try_promise(1) && room.may_come(50, 2));
    }
}
