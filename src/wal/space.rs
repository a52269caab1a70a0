//! Space in the log: which segments are free, and how much of them is reserved.
//!
//! Every append uses up a [`Reservation`], so it never finds the log full. A claim reserves space for its intent and its completion at
//! once.
//!
//! A log starts small. Its last segment is as long as the file is, and grows in steps until it is as long as the others.

use std::collections::VecDeque;

use crate::fork;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::task::wait_queue::{Priority, WaitQueue, Wakeups};

mod request;
mod reservation;

pub(crate) use request::Request;
pub(crate) use reservation::Reservation;

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
pub(crate) struct LogSpace {
    geometry: Geometry,
    /// Forks before it was made. A forked child must not take its lock.
    generation: u64,
    state: Mutex<State>,
    /// Of the reserved bytes: those of entries that are queued and not written yet. Taken back under the lock of `state`, so that under it
    /// this is never less than what is reserved for them.
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
    /// Bytes reserved and not yet written.
    reserved: u64,
    /// Bytes of all segments together.
    bytes: u64,
    /// Bytes that would be there after a power cut.
    durable_bytes: u64,
    /// The most bytes that somebody asked for and did not get since the log grew.
    wanted: u64,
    /// Counts calls of [`LogSpace::wake`], so that one that comes right before a wait is not missed.
    wakes: u64,
    /// Bytes of segments that the log may grow to, as those said who wait only while space may come.
    bytes_max: Option<u64>,
    /// Callers that wait for a reservation. No other caller gets one before them.
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
        self.reserved.saturating_add(bytes) <= self.capacity(geometry)
    }
}

impl LogSpace {
    /// Space in a log that is not open for writing yet: there is none.
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
        // Who came before the log was prepared, as after a full disk, is in line already.
        let wakeups = self.serve(&mut state);
        drop(state);
        wakeups.wake();
        self.wake();
    }

    /// Whether the calling process is a forked child of the one that made this.
    fn is_elsewhere(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Sets `bytes` aside, if there is space for them beside all reservations, and no caller of this priority waits.
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

    /// Takes reserved bytes back that will not be written.
    fn give_back(&self, bytes: u64) {
        let mut state = self.state.lock();
        debug_assert!(state.reserved >= bytes, "only reserved bytes are given back");
        state.reserved = state.reserved.saturating_sub(bytes);
        let wakeups = self.serve(&mut state);
        drop(state);
        wakeups.wake();
    }

    /// Notes that an entry is queued that has so many of the reserved bytes.
    fn note_queued(&self, bytes: u64) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes the reserved bytes of queued entries back, which are written.
    pub(crate) fn note_written(&self, bytes: u64) {
        let mut state = self.state.lock();
        debug_assert!(state.reserved >= bytes, "only reserved bytes are written");
        state.reserved = state.reserved.saturating_sub(bytes);
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
        let wakeups = self.serve(&mut state);
        drop(state);
        wakeups.wake();
    }

    /// Whether `bytes` could fit without the end of a claim: in a log that has grown to `bytes_max`, once all that is queued is
    /// written, and moved to the store.
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

    /// Sets space aside for callers in line, as far as there is some. Called when there is more space, and when entries were written that
    /// could have left some: callers for whom none may come are woken, so that they look again.
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

    /// Wakes all who wait, so that they look again: something else happened than that there is space.
    pub(crate) fn wake(&self) {
        let mut state = self.state.lock();
        state.wakes += 1;
        let wakeups = state.line.wake_all();
        drop(state);
        wakeups.wake();
    }

    /// Bytes to grow by, where less is left beyond all reservations than half of the log, or than somebody asked for; more than a segment
    /// need not be left. `None` where the log need not grow, or has as many bytes as it may.
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

    /// Whether the full segments have so many bytes, or somebody waits for space.
    pub(crate) fn is_recycling_wanted(&self, bytes: u64) -> bool {
        let state = self.state.lock();
        let full = state.sealed.iter().map(|(segment, _)| state.len_of(self.geometry, *segment));
        !state.line.is_empty() || full.sum::<u64>() >= bytes
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
        let wakeups = self.serve(&mut state);
        drop(state);
        wakeups.wake();
    }

    /// Where a frame of `bytes` goes; the one before it had sequence `last_seq`.
    ///
    /// `None` only where nothing was reserved for the frame.
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
        let wakeups = self.serve(&mut state);
        drop(state);
        wakeups.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use super::*;
    use crate::clock::Deadline;
    use crate::sync::Arc;

    const GEOMETRY: Geometry = Geometry { segment: 100, frame_max: 20 };

    /// Of so many bytes.
    fn space(bytes: u64) -> Arc<LogSpace> {
        let space = LogSpace::new(GEOMETRY);
        space.open(bytes);
        Arc::new(space)
    }

    fn reserve(space: &Arc<LogSpace>, bytes: u64) -> Option<Reservation> {
        Reservation::try_new(space, Priority::Other, bytes)
    }

    /// All that there is.
    fn reserve_all(space: &Arc<LogSpace>) -> Vec<Reservation> {
        std::iter::from_fn(|| reserve(space, 1)).collect()
    }

    fn line_up(space: &Arc<LogSpace>, bytes: u64) -> Request<'_> {
        Request::line_up(space, bytes, Priority::Other, None)
    }

    fn is_served(request: &mut Request<'_>) -> Option<Reservation> {
        request.look(|| None::<()>).map(|reserved| reserved.unwrap())
    }

    #[test]
    fn reservations_stop_where_a_worst_case_would_not_fit() {
        let space = space(200);
        let (_most, one) = (reserve(&space, 179).unwrap(), reserve(&space, 1).unwrap());
        assert!(reserve(&space, 1).is_none());
        drop(one);
        assert!(reserve(&space, 1).is_some());
    }

    #[test]
    fn nothing_is_reserved_before_the_log_is_open() {
        let space = Arc::new(LogSpace::new(GEOMETRY));
        assert!(reserve(&space, 1).is_none() && space.spot(1, 0).is_none());
        space.open(100);
        assert!(reserve(&space, 1).is_some());
    }

    #[test]
    fn bytes_that_are_lent_or_queued_are_not_given_back_by_the_drop() {
        let space = space(200);
        let mut reservation = reserve(&space, 100).unwrap();
        reservation.join(reserve(&space, 80).unwrap());
        assert_eq!((reservation.lacks(180), reservation.lacks(190)), (0, 10));
        reservation.spend(50);
        let lent = reservation.lend(30);
        drop(reservation);
        assert!(reserve(&space, 101).is_none() && reserve(&space, 100).is_some());
        space.note_written(50);
        Reservation::none(&space).take_back(lent);
        assert!(reserve(&space, 180).is_some());
    }

    /// Frames of all lengths, each reserved before, in logs of all lengths that grow at any time: the log is never found full.
    #[test]
    fn what_was_promised_always_fits_whatever_the_frames() {
        let mut random = 1_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for round in 0..2_000_u64 {
            let space = space(20 + draw(400));
            let (mut reserved, mut seq) = (VecDeque::new(), 0);
            for _ in 0..60 {
                let size = 1 + draw(GEOMETRY.frame_max);
                reserved.extend(reserve(&space, size).map(|reservation| (size, reservation)));
                if draw(16) == 0
                    && let Some(bytes) = space.growth(600)
                {
                    space.grow(1 + draw(bytes));
                }
                if draw(8) == 0 {
                    space.recycle(seq.max(3) - 3);
                }
                // Some frames hold several entries.
                let (mut frame, mut written) = (0, Vec::new());
                while draw(2) == 0
                    && let Some((size, _)) = reserved.front()
                    && frame + size <= GEOMETRY.frame_max
                {
                    frame += size;
                    written.extend(reserved.pop_front());
                }
                if frame > 0 {
                    let spot = space.spot(frame, seq);
                    assert!(spot.is_some(), "round {round}: a frame of {frame} does not fit");
                    space.wrote(frame, 0);
                    drop(written);
                    seq += 1;
                }
            }
            for (size, _reservation) in reserved {
                assert!(space.spot(size, seq).is_some(), "round {round}: what is left does not fit");
                space.wrote(size, 0);
                seq += 1;
            }
        }
    }

    #[test]
    fn segments_come_back_once_their_last_frame_is_checkpointed() {
        let space = space(200);
        let fill = |last_seq| {
            let spot = space.spot(100, last_seq);
            space.wrote(100, 0);
            spot.map(|spot| spot.segment)
        };
        assert_eq!((fill(0), fill(5)), (Some(0), Some(1)));
        assert_eq!(space.spot(100, 9), None);
        space.recycle(4);
        assert_eq!(space.spot(100, 9), None);
        space.recycle(5);
        assert_eq!(fill(9), Some(0));
    }

    #[test]
    fn a_log_doubles_until_it_has_a_segment_and_then_grows_by_segments() {
        let space = space(30);
        let (mut lengths, mut all) = (Vec::new(), reserve_all(&space));
        while let Some(bytes) = space.growth(300) {
            space.grow(bytes);
            lengths.push(space.bytes());
            all.extend(reserve_all(&space));
        }
        assert_eq!(lengths, [100, 200, 300]);
    }

    #[test]
    fn a_log_grows_by_as_much_as_a_caller_asked_for_and_no_further() {
        let space = space(30);
        assert_eq!(space.growth(300), None, "half of it is left");
        assert!(reserve(&space, 90).is_none());
        while let Some(bytes) = space.growth(300).filter(|_| reserve(&space, 90).is_none()) {
            space.grow(bytes);
        }
        assert_eq!(space.bytes(), 100);
    }

    #[test]
    fn the_segment_that_is_written_grows_with_the_file() {
        let space = space(30);
        assert_eq!(space.spot(20, 0).map(|spot| (spot.segment, spot.at)), Some((0, 0)));
        space.wrote(20, 30);
        assert_eq!(space.spot(20, 1), None);
    }

    #[test]
    fn a_short_segment_that_was_full_has_its_new_length_once_it_is_free() {
        let space = space(130);
        for seq in 0..2 {
            assert!(space.spot(20, seq).is_some());
            space.wrote(20, 130);
        }
        space.grow(70);
        assert_eq!(space.bytes(), 200);
        let reserved = reserve(&space, 140);
        assert!(reserved.is_some(), "two segments of 100, of which 40 bytes are written and 20 may be lost");
        assert!(reserve(&space, 1).is_none());
    }

    #[test]
    fn a_wake_between_the_look_and_the_wait_is_not_missed() {
        let space = space(100);
        let _all = reserve(&space, 100).unwrap();
        let mut request = line_up(&space, 1);
        assert!(is_served(&mut request).is_none());
        space.wake();
        request.wait(Deadline::NEVER);
    }

    #[test]
    fn a_log_grows_until_it_has_the_space_that_the_first_in_line_needs() {
        let space = space(30);
        let mut request = line_up(&space, 150);
        while let Some(bytes) = space.growth(400) {
            space.grow(bytes);
        }
        assert!(is_served(&mut request).is_some(), "{} bytes", space.bytes());
    }

    #[test]
    fn a_thread_that_waits_for_ever_is_woken_when_there_is_space() {
        let space = &space(100);
        let mut parts: Vec<_> = (0..5).map(|_| reserve(space, 20).unwrap()).collect();
        let kept = std::thread::scope(|threads| {
            let mut kept = Vec::new();
            for _ in 0..3 {
                let waiter = threads.spawn(move || {
                    let mut request = line_up(space, 20);
                    loop {
                        if let Some(reservation) = is_served(&mut request) {
                            return reservation;
                        }
                        request.wait(Deadline::NEVER);
                    }
                });
                // Most likely it waits by then; it is woken in any case.
                (0..100).for_each(|_| std::thread::yield_now());
                drop(parts.pop());
                kept.push(waiter.join().unwrap());
            }
            kept
        });
        // A request for space that is there does not wait.
        drop(parts.pop());
        let mut request = line_up(space, 20);
        request.wait(Deadline::NEVER);
        assert!(is_served(&mut request).is_some());
        drop(kept);
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
        let space = space(100);
        let mut all = reserve(&space, 100).unwrap();
        all.spend(20);
        let count = std::sync::Arc::new(Count::default());
        let waker = std::task::Waker::from(std::sync::Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let in_vain = || (!space.may_come(20, 100)).then_some("in vain");
        let mut patient = line_up(&space, 20);
        let mut requests = [0; 2].map(|_| Request::line_up(&space, 20, Priority::Other, Some(100)));
        assert!(patient.poll(&context, || None::<()>).is_pending());
        assert!(requests.iter_mut().all(|request| request.poll(&context, in_vain).is_pending()));
        assert!(space.spot(20, 0).is_some());
        space.wrote(20, 100);
        space.note_written(20);
        for (woken, mut request) in (1..).zip(requests) {
            assert_eq!(count.0.load(Ordering::Relaxed), woken, "nobody tells it");
            assert!(matches!(request.poll(&context, in_vain), Poll::Ready(Err("in vain"))));
        }
        assert!(patient.poll(&context, || None::<()>).is_pending());
    }

    #[test]
    fn space_that_is_given_back_wakes_only_the_callers_that_get_it() {
        let space = space(1_000);
        let mut parts: Vec<_> = (0..82).map(|_| reserve(&space, 10).unwrap()).collect();
        let count = std::sync::Arc::new(Count::default());
        let waker = std::task::Waker::from(std::sync::Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let woken = || count.0.load(Ordering::Relaxed);
        let mut requests: VecDeque<_> = (0..1_000).map(|_| line_up(&space, 10)).collect();
        assert!(requests.iter_mut().all(|request| request.poll(&context, || None::<()>).is_pending()));
        let mut kept = Vec::new();
        for served in 1..=50 {
            drop(parts.pop());
            assert_eq!(woken(), served);
            let Poll::Ready(Ok(reservation)) = requests[0].poll(&context, || None::<()>) else {
                panic!("it is the first in line")
            };
            kept.push(reservation);
            assert!(
                requests[1].poll(&context, || None::<()>).is_pending(),
                "not in the order of their coming"
            );
            drop(requests.pop_front());
        }
        // One that stops waiting once it was served leaves its space to the next.
        drop(parts.pop());
        drop(requests.pop_front());
        kept.extend(is_served(&mut requests[0]));
        assert_eq!(kept.len(), 51);
        drop(requests.pop_front());
        // When something else happens all look.
        let before = woken();
        space.wake();
        assert_eq!(woken() - before, requests.len());
        let closed = |request: &mut Request<'_>| {
            matches!(request.poll(&context, || Some("closed")), Poll::Ready(Err("closed")))
        };
        assert!(requests.iter_mut().all(closed));
        drop(requests);
        drop((parts, kept));
        assert!(reserve(&space, 820).is_some(), "bytes were lost");
    }

    #[test]
    fn nobody_is_promised_space_in_front_of_those_who_wait_but_the_ends_of_claims() {
        let space = space(100);
        let (small_part, large_part) = (reserve(&space, 30).unwrap(), reserve(&space, 60).unwrap());
        let mut large = line_up(&space, 50);
        assert!(reserve(&space, 10).is_none(), "it came later");
        let _claim = Reservation::try_new(&space, Priority::Claim, 10).unwrap();
        let mut end = Request::line_up(&space, 20, Priority::Claim, None);
        assert!(Reservation::try_new(&space, Priority::Claim, 1).is_none(), "it came later");
        drop(large_part);
        let _end = is_served(&mut end).unwrap();
        assert!(is_served(&mut large).is_none());
        // It gives way, and space that is enough for others is theirs.
        let mut small = line_up(&space, 10);
        drop(large);
        assert!(is_served(&mut small).is_some());
        drop(small_part);
    }

    #[test]
    fn space_may_come_by_growth_a_checkpoint_or_a_commit_and_otherwise_only_by_the_end_of_claims() {
        let space = space(200);
        let mut claims = reserve(&space, 180).unwrap();
        assert!(space.may_come(80, 300), "the log may grow");
        assert!(!space.may_come(1, 200), "claims have it all");
        // One of them queues its entry, of which nobody knows how little it takes.
        claims.spend(30);
        assert!(space.may_come(30, 200) && !space.may_come(31, 200));
        space.note_written(30);
        claims.join(reserve(&space, 30).unwrap());
        assert!(!space.may_come(1, 200));
        // A full segment would be freed by a checkpoint.
        for seq in 0..2 {
            assert!(space.spot(90, seq).is_some());
            space.wrote(90, 200);
        }
        claims.spend(170);
        space.note_written(170);
        assert!(reserve(&space, 1).is_none() && space.may_come(50, 200));
    }
}
