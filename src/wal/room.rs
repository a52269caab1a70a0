//! Space in the log: which segments are free, and how much of them is promised.
//!
//! Everything that is appended was promised space before, so an append never finds the log full. A claim is promised
//! space for its intent and its completion at once.
//!
//! A log starts small. Its last segment is as long as the file is, and grows in steps until it is as long as the others.

use std::collections::VecDeque;

use crate::line::{Line, Rank, Rings};
use crate::sync::{AtomicU64, Mutex, Ordering};

mod place;

/// Bytes that a new log is made with, where its segments are not shorter.
pub(crate) const FIRST_BYTES: u64 = 256 << 10;

/// A frame never spans segments, so up to one longest frame may stay unused at the end of each segment but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of a segment that is not the last; a multiple of the sector size.
    pub(crate) segment: u64,
    /// Bytes of the longest frame.
    pub(crate) frame_max: u64,
}

#[derive(Debug)]
pub(crate) struct Room {
    geometry: Geometry,
    state: Mutex<State>,
    /// Of what is promised: bytes of entries that are queued and not written yet. Taken back under the lock of `state`, so that under it
    /// this is never less than what is promised to them.
    queued: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Segments with nothing in them that is still needed.
    free: VecDeque<u32>,
    /// Full segments, oldest first, each with the sequence of its last frame.
    sealed: VecDeque<(u32, u64)>,
    /// The segment that is written now.
    active: Option<Active>,
    /// Bytes promised and not yet written.
    promised: u64,
    /// Bytes of all segments together.
    bytes: u64,
    /// Bytes that would be there after a power cut.
    durable_bytes: u64,
    /// The most bytes that somebody asked for and did not get since the log grew.
    wanted: u64,
    /// Counts calls of [`Room::wake`], so that one that comes right before a wait is not missed.
    wakes: u64,
    /// Bytes of segments that the log may grow to, as those said who wait only while space may come.
    bytes_max: Option<u64>,
    /// Callers that wait for a promise. Nobody is promised anything in front of them.
    line: Line,
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

    /// Bytes of frames that certainly fit, whatever their lengths.
    ///
    /// Frames are placed one after the other, and go on in the next segment where one does not fit. What is lost by that at the end of
    /// a segment is less than a longest frame. So of the next segments, however many, the bytes of all but one longest frame for each but the last fit.
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
        self.promised.saturating_add(bytes) <= self.capacity(geometry)
    }
}

impl Room {
    /// Space in a log that is not open for writing yet: there is none.
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self { geometry, state: Mutex::default(), queued: AtomicU64::new(0) }
    }

    /// The log has so many bytes of segments, all free and all durable.
    pub(crate) fn open(&self, bytes: u64) {
        let mut state = self.state.lock();
        debug_assert!(state.bytes == 0, "a log is opened once");
        state.bytes = bytes;
        state.durable_bytes = bytes;
        state.free = (0..state.segments(self.geometry)).collect();
        // Who came before the log was prepared, as after a full disk, is in line already.
        let rings = self.serve(&mut state);
        drop(state);
        rings.ring();
        self.wake();
    }

    /// Promises `bytes`, if there is space for them beside all earlier promises, and nobody waits for a promise.
    #[cfg(test)]
    pub(crate) fn try_promise(&self, bytes: u64) -> bool {
        self.try_promise_to(Rank::Other, bytes)
    }

    /// [`try_promise`](Self::try_promise), in front of those who wait with a lower rank.
    pub(crate) fn try_promise_to(&self, rank: Rank, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let fits = bytes == 0 || state.line.is_free_for(rank) && state.fits(self.geometry, bytes);
        if fits {
            state.promised += bytes;
        } else {
            state.wanted = state.wanted.max(bytes);
        }
        fits
    }

    /// Takes a promise back, because its bytes are written or will never be.
    pub(crate) fn withdraw(&self, bytes: u64) {
        let mut state = self.state.lock();
        debug_assert!(state.promised >= bytes, "only what was promised is taken back");
        state.promised = state.promised.saturating_sub(bytes);
        let rings = self.serve(&mut state);
        drop(state);
        rings.ring();
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
        let rings = self.serve(&mut state);
        drop(state);
        rings.ring();
    }

    /// Whether `bytes` could fit without the end of a claim: in a log that has grown to `bytes_max`, once all that is queued is
    /// written, and moved to the store.
    pub(crate) fn may_come(&self, bytes: u64, bytes_max: u64) -> bool {
        self.may_come_to(&self.state.lock(), bytes, bytes_max)
    }

    fn may_come_to(&self, state: &State, bytes: u64, bytes_max: u64) -> bool {
        let claims = state.promised.saturating_sub(self.queued.load(Ordering::Relaxed));
        let mut best = State { active: state.active, bytes: bytes_max.max(state.bytes), ..State::default() };
        let new = state.segments(self.geometry)..best.segments(self.geometry);
        let sealed = state.sealed.iter().map(|(segment, _)| *segment);
        best.free = state.free.iter().copied().chain(sealed).chain(new).collect();
        claims.saturating_add(bytes) <= best.capacity(self.geometry)
    }

    /// Makes promises to those who wait, as far as there is space. Called wherever there is more of it, or something became of what was
    /// to give some: those for whom none may come are woken, so that they look again.
    #[inline]
    fn serve(&self, state: &mut State) -> Rings {
        if state.line.is_empty() { Rings::default() } else { self.serve_line(state) }
    }

    fn serve_line(&self, state: &mut State) -> Rings {
        let capacity = state.capacity(self.geometry);
        let promised = &mut state.promised;
        let mut rings = state.line.serve(|bytes| {
            let fits = promised.saturating_add(bytes) <= capacity;
            *promised += if fits { bytes } else { 0 };
            fits
        });
        if let (Some(bytes), Some(max)) = (state.line.first_hopeful_bytes(), state.bytes_max)
            && !self.may_come_to(state, bytes, max)
        {
            state.wakes += 1;
            state.line.wake_first_hopeful(&mut rings);
        }
        rings
    }

    /// Wakes all who wait, so that they look again: something else happened than that there is space.
    pub(crate) fn wake(&self) {
        let mut state = self.state.lock();
        state.wakes += 1;
        let rings = state.line.wake_all();
        drop(state);
        rings.ring();
    }

    /// Bytes to grow by, where less is left beyond all promises than half of the log, or than somebody asked for; more than a segment
    /// need not be left. `None` where the log need not grow, or has as many bytes as it may.
    pub(crate) fn growth(&self, bytes_max: u64) -> Option<u64> {
        let state = self.state.lock();
        if state.bytes == 0 {
            // It is not open yet.
            return None;
        }
        // Whoever waits in line asks once, and may want more than the log has grown by since.
        let wanted = state.wanted.max(state.line.first_bytes());
        let enough = (state.bytes / 2).min(self.geometry.segment - self.geometry.frame_max).max(wanted);
        if state.fits(self.geometry, enough) || state.bytes >= bytes_max {
            return None;
        }
        // Twice as long, or one segment longer, but never over the end of the last segment.
        let to_end = self.geometry.segment - state.bytes % self.geometry.segment;
        Some(state.bytes.max(FIRST_BYTES.min(self.geometry.segment)).min(to_end))
    }

    /// Whether there are full segments, which a checkpoint would free.
    pub(crate) fn has_sealed(&self) -> bool {
        !self.state.lock().sealed.is_empty()
    }

    /// Whether the full segments have so many bytes, or somebody waits for space.
    pub(crate) fn is_recycling_wanted(&self, bytes: u64) -> bool {
        let state = self.state.lock();
        let full = state.sealed.iter().map(|(segment, _)| state.len_of(self.geometry, *segment));
        !state.line.is_empty() || full.sum::<u64>() >= bytes
    }

    /// Bytes of the log file.
    pub(crate) fn file_bytes(&self) -> u64 {
        super::HEADER_BYTES + self.bytes()
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// Bytes of segments that would be there after a power cut.
    pub(crate) fn durable_bytes(&self) -> u64 {
        self.state.lock().durable_bytes
    }

    /// The file is so many bytes longer: its last segment is, or a new one is there.
    pub(crate) fn grow(&self, bytes: u64) {
        let mut state = self.state.lock();
        let before = state.segments(self.geometry);
        state.bytes += bytes;
        state.wanted = 0;
        let new = before..state.segments(self.geometry);
        state.free.extend(new);
        let rings = self.serve(&mut state);
        drop(state);
        rings.ring();
    }

    /// Where a frame of `bytes` goes; the one before it had sequence `last_seq`.
    ///
    /// `None` only where an append was not promised.
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

    /// Notes that a frame of `bytes` was written at its spot, and that the sync after it covered `durable` bytes of segments.
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
        let rings = self.serve(&mut state);
        drop(state);
        rings.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use super::*;
    use crate::clock::Deadline;

    const GEOMETRY: Geometry = Geometry { segment: 100, frame_max: 20 };

    /// Of so many bytes.
    fn room(bytes: u64) -> Room {
        let room = Room::new(GEOMETRY);
        room.open(bytes);
        room
    }

    #[test]
    fn promises_stop_where_a_worst_case_would_not_fit() {
        let room = room(200);
        assert!(room.try_promise(180));
        assert!(!room.try_promise(1));
        room.withdraw(1);
        assert!(room.try_promise(1));
    }

    #[test]
    fn nothing_is_promised_before_the_log_is_open() {
        let room = Room::new(GEOMETRY);
        assert!(!room.try_promise(1) && room.spot(1, 0).is_none());
        room.open(100);
        assert!(room.try_promise(1));
    }

    /// Frames of all lengths, each promised before, in logs of all lengths that grow at any time: the log is never found full.
    #[test]
    fn what_was_promised_always_fits_whatever_the_frames() {
        let mut random = 1_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for round in 0..2_000_u64 {
            let room = room(20 + draw(400));
            let (mut promised, mut seq) = (VecDeque::new(), 0);
            for _ in 0..60 {
                let size = 1 + draw(GEOMETRY.frame_max);
                if room.try_promise(size) {
                    promised.push_back(size);
                }
                if draw(16) == 0
                    && let Some(bytes) = room.growth(600)
                {
                    room.grow(1 + draw(bytes));
                }
                if draw(8) == 0 {
                    room.recycle(seq.max(3) - 3);
                }
                // Some frames hold several entries.
                let mut frame = 0;
                while draw(2) == 0
                    && let Some(size) =
                        promised.front().copied().filter(|size| frame + size <= GEOMETRY.frame_max)
                {
                    promised.pop_front();
                    frame += size;
                }
                if frame > 0 {
                    let spot = room.spot(frame, seq);
                    assert!(spot.is_some(), "round {round}: a frame of {frame} does not fit");
                    room.wrote(frame, 0);
                    room.withdraw(frame);
                    seq += 1;
                }
            }
            for size in promised {
                assert!(room.spot(size, seq).is_some(), "round {round}: what is left does not fit");
                room.wrote(size, 0);
                room.withdraw(size);
                seq += 1;
            }
        }
    }

    #[test]
    fn segments_come_back_once_their_last_frame_is_checkpointed() {
        let room = room(200);
        let fill = |last_seq| {
            let spot = room.spot(100, last_seq);
            room.wrote(100, 0);
            spot.map(|spot| spot.segment)
        };
        assert_eq!((fill(0), fill(5)), (Some(0), Some(1)));
        assert_eq!(room.spot(100, 9), None);
        room.recycle(4);
        assert_eq!(room.spot(100, 9), None);
        room.recycle(5);
        assert_eq!(fill(9), Some(0));
    }

    #[test]
    fn a_log_doubles_until_it_has_a_segment_and_then_grows_by_segments() {
        let room = room(30);
        let mut lengths = Vec::new();
        while room.try_promise(1) {}
        while let Some(bytes) = room.growth(300) {
            room.grow(bytes);
            lengths.push(room.bytes());
            // All that there is is promised.
            while room.try_promise(1) {}
        }
        assert_eq!(lengths, [100, 200, 300]);
    }

    #[test]
    fn a_log_grows_by_what_somebody_asked_for_and_no_further() {
        let room = room(30);
        assert_eq!(room.growth(300), None, "half of it is left");
        assert!(!room.try_promise(90));
        while let Some(bytes) = room.growth(300).filter(|_| !room.try_promise(90)) {
            room.grow(bytes);
        }
        assert_eq!(room.bytes(), 100);
    }

    #[test]
    fn the_segment_that_is_written_grows_with_the_file() {
        let room = room(30);
        assert_eq!(room.spot(20, 0).map(|spot| (spot.segment, spot.at)), Some((0, 0)));
        room.wrote(20, 30);
        assert_eq!(room.spot(20, 1), None);
    }

    #[test]
    fn a_short_segment_that_was_full_has_its_new_length_once_it_is_free() {
        let room = room(130);
        for seq in 0..2 {
            assert!(room.spot(20, seq).is_some());
            room.wrote(20, 130);
        }
        room.grow(70);
        assert_eq!(room.bytes(), 200);
        assert!(
            room.try_promise(140),
            "two segments of 100, of which 40 bytes are written and 20 may be lost"
        );
        assert!(!room.try_promise(1));
    }

    #[test]
    fn a_wake_between_the_look_and_the_wait_is_not_missed() {
        let room = room(100);
        assert!(room.try_promise(100));
        let mut place = room.line_up(1, Rank::Other, None);
        assert_eq!(place.look(|| None::<()>), None);
        room.wake();
        place.wait(Deadline::NEVER);
    }

    #[test]
    fn a_log_grows_until_it_has_what_the_first_in_line_needs() {
        let room = room(30);
        let mut place = room.line_up(150, Rank::Other, None);
        while let Some(bytes) = room.growth(400) {
            room.grow(bytes);
        }
        assert_eq!(place.look(|| None::<()>), Some(Ok(())), "{} bytes", room.bytes());
    }

    #[test]
    fn a_thread_that_waits_for_ever_is_woken_when_there_is_space() {
        let room = &room(100);
        assert!(room.try_promise(100));
        std::thread::scope(|threads| {
            for _ in 0..3 {
                let waiter = threads.spawn(move || {
                    let mut place = room.line_up(20, Rank::Other, None);
                    while place.look(|| None::<()>).is_none() {
                        place.wait(Deadline::NEVER);
                    }
                });
                // Most likely it waits by then; it is woken in any case.
                (0..100).for_each(|_| std::thread::yield_now());
                room.withdraw(20);
                waiter.join().unwrap();
            }
        });
        // What is there by now is not waited for.
        room.withdraw(20);
        let mut place = room.line_up(20, Rank::Other, None);
        place.wait(Deadline::NEVER);
        assert_eq!(place.look(|| None::<()>), Some(Ok(())));
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(std::sync::atomic::AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It came while queued entries would give some, and they gave less than was hoped for: frames take more than their entries.
    #[test]
    fn a_caller_that_waits_only_while_space_may_come_is_woken_when_none_may() {
        let room = room(100);
        assert!(room.try_promise(100));
        room.queue(20);
        let count = std::sync::Arc::new(Count::default());
        let waker = std::task::Waker::from(std::sync::Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let in_vain = || (!room.may_come(20, 100)).then_some("in vain");
        let mut patient = room.line_up(20, Rank::Other, None);
        let mut places = [0; 2].map(|_| room.line_up(20, Rank::Other, Some(100)));
        assert!(patient.poll(&context, || None::<()>).is_pending());
        assert!(places.iter_mut().all(|place| place.poll(&context, in_vain).is_pending()));
        assert!(room.spot(20, 0).is_some());
        room.wrote(20, 100);
        room.withdraw_queued(20);
        for (woken, mut place) in (1..).zip(places) {
            assert_eq!(count.0.load(Ordering::Relaxed), woken, "nobody tells it");
            assert_eq!(place.poll(&context, in_vain), Poll::Ready(Err("in vain")));
        }
        assert!(patient.poll(&context, || None::<()>).is_pending());
    }

    #[test]
    fn space_that_is_given_back_wakes_those_alone_who_are_promised_it() {
        let room = room(1_000);
        assert!(room.try_promise(820));
        let count = std::sync::Arc::new(Count::default());
        let waker = std::task::Waker::from(std::sync::Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let woken = || count.0.load(Ordering::Relaxed);
        let mut places: VecDeque<_> = (0..1_000).map(|_| room.line_up(10, Rank::Other, None)).collect();
        assert!(places.iter_mut().all(|place| place.poll(&context, || None::<()>).is_pending()));
        for served in 1..=50 {
            room.withdraw(10);
            assert_eq!(woken(), served);
            assert!(places[0].poll(&context, || None::<()>).is_ready());
            assert!(places[1].poll(&context, || None::<()>).is_pending(), "not in the order of their coming");
            drop(places.pop_front());
        }
        // One that stops waiting once it was served leaves its promise to the next.
        room.withdraw(10);
        drop(places.pop_front());
        assert!(places[0].poll(&context, || None::<()>).is_ready());
        drop(places.pop_front());
        // When something else happens all look.
        let before = woken();
        room.wake();
        assert_eq!(woken() - before, places.len());
        assert!(
            places
                .iter_mut()
                .all(|place| place.poll(&context, || Some("closed")) == Poll::Ready(Err("closed")))
        );
        drop(places);
        room.withdraw(820);
        assert!(room.try_promise(820), "a promise was lost");
    }

    #[test]
    fn nobody_is_promised_space_in_front_of_those_who_wait_but_the_ends_of_claims() {
        let room = room(100);
        assert!(room.try_promise(90));
        let mut large = room.line_up(50, Rank::Other, None);
        assert!(!room.try_promise(10), "it came later");
        assert!(room.try_promise_to(Rank::Claim, 10));
        let mut end = room.line_up(20, Rank::Claim, None);
        assert!(!room.try_promise_to(Rank::Claim, 1), "it came later");
        room.withdraw(60);
        assert_eq!(end.look(|| None::<()>), Some(Ok(())));
        assert_eq!(large.look(|| None::<()>), None);
        // It gives way, and space that is enough for others is theirs.
        let mut small = room.line_up(10, Rank::Other, None);
        drop(large);
        assert_eq!(small.look(|| None::<()>), Some(Ok(())));
    }

    #[test]
    fn space_may_come_by_growth_a_checkpoint_or_a_commit_and_otherwise_only_by_the_end_of_claims() {
        let room = room(200);
        assert!(room.try_promise(180));
        assert!(room.may_come(80, 300), "the log may grow");
        assert!(!room.may_come(1, 200), "claims have it all");
        // One of them queues its entry, of which nobody knows how little it takes.
        room.queue(30);
        assert!(room.may_come(30, 200) && !room.may_come(31, 200));
        room.withdraw_queued(30);
        assert!(room.try_promise(30) && !room.may_come(1, 200));
        // A full segment would be freed by a checkpoint.
        for seq in 0..2 {
            assert!(room.spot(90, seq).is_some());
            room.wrote(90, 200);
        }
        room.withdraw(170);
        assert!(!room.try_promise(1) && room.may_come(50, 200));
    }
}
