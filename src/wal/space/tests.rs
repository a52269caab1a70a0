//! Space in the log: reservations, the line of callers, growing and recycling.

use std::task::{Context, Poll};

use super::*;
use crate::clock::Deadline;
use crate::sync::Arc;

const GEOMETRY: Geometry = Geometry { segment: 100, frame_max: 20 };

/// A reservation of so many bytes.
fn space(bytes: u64) -> Arc<LogSpace> {
    let space = LogSpace::new(GEOMETRY);
    space.open(bytes);
    Arc::new(space)
}

fn reserve(space: &Arc<LogSpace>, bytes: u64) -> Option<Reservation> {
    Reservation::try_new(space, Priority::Other, bytes)
}

/// Reserves all free space.
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

/// Frames of all lengths, each reserved before, in logs of all lengths that grow at any time: the
/// log is never found full.
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

/// The caller came while queued entries promised space, and they freed less than expected: frames
/// take more than their entries.
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
        assert!(requests[1].poll(&context, || None::<()>).is_pending(), "not in the order of their coming");
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
