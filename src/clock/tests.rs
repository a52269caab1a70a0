//! The engine's clock over stops, sleeps, jumps and reboots.

use super::deadline::now;
use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
const NOON: u64 = 1_800_000_000_000;

fn source(clock: &ManualClock) -> TimeSource {
    TimeSource::Manual(clock.clone())
}

fn made(clock: &ManualClock) -> EngineClock {
    EngineClock::new(source(clock))
}

fn past(mark: TimeMark) -> Past {
    Past { mark, frame: None, is_empty: false }
}

/// The file is opened again, as it was when the mark was made.
fn again(clock: &ManualClock, mark: TimeMark) -> EngineClock {
    EngineClock::resume(source(clock), &past(mark), HOUR)
}

#[track_caller]
fn assert_went_by(clock: &EngineClock, since: TimeMark, millis: u64) {
    assert_eq!(clock.now().0 - since.time.0, millis);
}

#[test]
fn never_is_the_latest_deadline_and_none_is_before_itself() {
    let [soon, late] = [HOUR, 2 * HOUR].map(|span| Deadline::at(now() + span));
    for (early, later) in [(soon, late), (soon, Deadline::NEVER)] {
        assert!(early.is_before(later) && !later.is_before(early) && !early.is_before(early));
    }
    assert!(!Deadline::NEVER.is_before(Deadline::NEVER));
}

#[test]
fn within_a_boot_a_stop_counts_in_full_whatever_the_wall_clock_does() {
    for wall in [0, 1, NOON - YEAR_MS, NOON, NOON + 100 * YEAR_MS, u64::MAX] {
        let clock = ManualClock::at_millis(NOON);
        let mark = made(&clock).mark();
        clock.advance(30 * HOUR);
        clock.sleep(50 * HOUR);
        clock.jump_wall_to_millis(wall);
        assert_went_by(&again(&clock, mark), mark, 80 * HOUR_MS);
    }
}

/// Two clocks are read, one after the other, and the thread is held up in between.
#[test]
fn a_thread_that_is_held_up_as_it_writes_the_time_makes_no_key_expire_early_after_a_reboot() {
    let clock = ManualClock::at_millis(NOON);
    let engine = made(&clock);
    let held_up = || {
        let clock = clock.clone();
        move || clock.advance(HOUR)
    };
    let frame = after_read::with(held_up(), || engine.frame_time());
    let mark = after_read::with(held_up(), || engine.mark());
    let at_least = |time: Timestamp, wall_max: Timestamp| {
        assert!(time.0 <= wall_max.0 - 1_000, "{time:?} and {wall_max:?}");
    };
    at_least(frame.time, frame.wall_max);
    at_least(mark.time, mark.wall_max);
}

#[test]
fn a_mark_of_long_ago_in_the_same_boot_gives_the_true_present() {
    let clock = ManualClock::at_millis(NOON);
    let first = made(&clock);
    let backup = first.mark();
    clock.advance(90 * HOUR);
    let later = first.frame_time();
    clock.advance(HOUR);
    assert_went_by(&again(&clock, backup), backup, 91 * HOUR_MS);
    let with_log = Past { mark: backup, frame: Some(later), is_empty: false };
    assert_went_by(&EngineClock::resume(source(&clock), &with_log, HOUR), backup, 91 * HOUR_MS);
}

#[test]
fn many_openings_in_a_boot_add_nothing() {
    let clock = ManualClock::at_millis(NOON);
    let first = made(&clock).mark();
    let mut mark = first;
    for _ in 0..1_000 {
        clock.advance(Duration::from_millis(3));
        mark = again(&clock, mark).mark();
    }
    assert_eq!(mark.time.0 - first.time.0, 3_000);
    assert_eq!(mark.boot_ms - first.boot_ms, 3_000);
}

#[test]
fn a_sleep_counts_once_it_is_noticed_and_a_mark_notices_it() {
    let clock = ManualClock::at_millis(NOON);
    let engine = made(&clock);
    let before = engine.mark();
    clock.sleep(8 * HOUR);
    assert_went_by(&engine, before, 0);
    engine.notice_sleep();
    assert_went_by(&engine, before, 8 * HOUR_MS);
    clock.sleep(HOUR);
    assert_eq!(engine.mark().time.0, before.time.0 + 9 * HOUR_MS);
    assert_went_by(&engine, before, 9 * HOUR_MS);
}

#[test]
fn over_a_reboot_a_stop_counts_by_the_wall_clock_up_to_the_limit() {
    for (stop, counted) in [(0, 0), (60_000, 60_000), (HOUR_MS, HOUR_MS), (2 * HOUR_MS, HOUR_MS)] {
        let clock = ManualClock::at_millis(NOON);
        let mark = made(&clock).mark();
        clock.reboot();
        clock.advance(Duration::from_millis(stop));
        assert_went_by(&again(&clock, mark), mark, counted);
    }
}

#[test]
fn a_jump_forward_over_a_reboot_counts_up_to_the_limit_and_is_not_counted_again() {
    for wall in [NOON + 2 * HOUR_MS, NOON + 100 * YEAR_MS, u64::MAX] {
        let clock = ManualClock::at_millis(NOON);
        let mark = made(&clock).mark();
        clock.reboot();
        clock.jump_wall_to_millis(wall);
        let wrong = again(&clock, mark);
        assert_went_by(&wrong, mark, HOUR_MS);
        let marked = wrong.mark();
        for wall in [NOON, wall] {
            clock.reboot();
            clock.jump_wall_to_millis(wall);
            assert_went_by(&again(&clock, marked), marked, 0);
        }
    }
}

#[test]
fn a_wall_clock_that_is_wrong_for_one_boot_and_right_in_the_next_counts_the_time_between_once() {
    let clock = ManualClock::at_millis(NOON);
    let mark = made(&clock).mark();
    clock.reboot();
    clock.jump_wall_to_millis(0);
    let wrong = again(&clock, mark);
    assert_went_by(&wrong, mark, 0);
    clock.advance(10 * Duration::from_secs(1));
    let marked = wrong.mark();
    clock.reboot();
    clock.jump_wall_to_millis(NOON + 60_000);
    assert_went_by(&again(&clock, marked), mark, 10_000 + 60_000);
}

#[test]
fn a_wall_clock_set_forward_while_the_file_was_open_is_not_taken_for_a_stop() {
    let clock = ManualClock::at_millis(0);
    let engine = made(&clock);
    let mark = engine.mark();
    clock.jump_wall_to_millis(NOON);
    let frame = engine.frame_time();
    clock.reboot();
    clock.advance(Duration::from_secs(5));
    let past = Past { mark, frame: Some(frame), is_empty: false };
    assert_went_by(&EngineClock::resume(source(&clock), &past, HOUR), mark, 5_000);
}

/// The commit of the store for which the mark is made may fail, on a full disk say.
#[test]
fn a_wall_clock_set_forward_is_noted_by_a_frame_and_not_by_a_mark() {
    let clock = ManualClock::at_millis(0);
    let engine = made(&clock);
    clock.jump_wall_to_millis(NOON);
    assert_eq!(engine.mark().wall_max, Timestamp(NOON));
    assert!(engine.has_wall_leapt());
    assert_eq!(engine.frame_time().wall_max, Timestamp(NOON));
    assert!(!engine.has_wall_leapt());
}

/// The time of the stop counted as a leap that had been noted, and hid a shorter one.
#[test]
fn a_stop_hides_no_later_leap_of_the_wall_clock() {
    let clock = ManualClock::at_millis(NOON);
    for reboots in [false, true] {
        let mark = made(&clock).mark();
        clock.advance(2 * HOUR);
        if reboots {
            clock.reboot();
        }
        let engine = again(&clock, mark);
        assert!(!engine.has_wall_leapt(), "the stop is no leap");
        clock.jump_wall_to_millis(clock.wall_millis() + HOUR_MS);
        assert!(engine.has_wall_leapt(), "{reboots}");
    }
}

#[test]
fn without_the_name_of_a_boot_a_stop_counts_as_over_a_reboot() {
    let clock = ManualClock::at_millis(NOON);
    clock.hide_boot();
    let mark = made(&clock).mark();
    assert_eq!(mark.boot, None);
    clock.advance(2 * HOUR);
    assert_went_by(&again(&clock, mark), mark, HOUR_MS);
}

#[test]
fn a_boot_clock_that_went_back_leaves_it_to_the_wall_clock_and_goes_on_from_there() {
    let clock = ManualClock::at_millis(NOON);
    clock.advance(10 * HOUR);
    let mark = made(&clock).mark();
    clock.jump_boot_to_millis(5_000);
    clock.jump_wall_to_millis(clock.wall_millis() + 60_000);
    let put_back = again(&clock, mark);
    assert_went_by(&put_back, mark, 60_000);
    let marked = put_back.mark();
    clock.advance(2 * HOUR);
    assert_went_by(&again(&clock, marked), mark, 60_000 + 2 * HOUR_MS);
}

#[test]
fn a_file_with_nothing_in_it_takes_a_later_wall_clock_as_it_is() {
    let clock = ManualClock::at_millis(0);
    let mark = made(&clock).mark();
    let opened = |mark, is_empty| {
        let past = Past { is_empty, ..past(mark) };
        EngineClock::resume(source(&clock), &past, HOUR)
    };
    clock.jump_wall_to_millis(NOON);
    assert_eq!(opened(mark, false).now(), Timestamp(0));
    let right = opened(mark, true);
    assert_eq!((right.now(), right.wall_ahead_ms()), (Timestamp(NOON), 0));
    let marked = right.mark();
    clock.jump_wall_to_millis(0);
    assert_eq!(opened(marked, true).now(), Timestamp(NOON));
    clock.reboot();
    assert_eq!(opened(marked, true).now(), Timestamp(NOON));
}

#[test]
fn the_lag_is_told_as_it_is_now() {
    let clock = ManualClock::at_millis(NOON);
    let engine = made(&clock);
    assert_eq!(engine.wall_ahead_ms(), 0);
    clock.advance(HOUR);
    assert_eq!(engine.wall_ahead_ms(), 0);
    clock.jump_wall_to_millis(NOON);
    assert_eq!(engine.wall_ahead_ms(), -HOUR_MS.cast_signed());
    clock.jump_wall_to_millis(u64::MAX);
    assert!(engine.wall_ahead_ms() > 0);
}

#[test]
fn the_edges_of_the_representable_do_not_overflow() {
    let edges = [0, 1, i64::MAX.cast_unsigned(), u64::MAX - 1, u64::MAX];
    for wall in edges {
        let clock = ManualClock::at_millis(wall);
        for (time, boot_ms, wall_max) in
            edges.into_iter().flat_map(|time| edges.map(|boot_ms| (time, boot_ms, wall)))
        {
            for (boot, slept) in [(clock.boot(), 0), (None, 0), (clock.boot(), u64::MAX)] {
                let mark = TimeMark { time: Timestamp(time), wall_max: Timestamp(wall_max), boot, boot_ms };
                let clock = clock.fork();
                clock.sleep(Duration::from_millis(slept));
                let frame = Some(FrameTime { time: Timestamp(wall), wall_max: Timestamp(time) });
                for is_empty in [false, true] {
                    let opened = EngineClock::resume(
                        source(&clock),
                        &Past { mark, frame, is_empty },
                        Duration::from_millis(u64::MAX),
                    );
                    assert!(opened.now() >= Timestamp(time));
                    clock.advance(HOUR);
                    assert!(opened.mark().time >= opened.now());
                }
            }
        }
    }
}
