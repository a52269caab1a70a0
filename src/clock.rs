//! Time. The only module that reads a clock.
//!
//! The engine has a clock of its own. A new file starts it at the wall clock. Within one boot of
//! the machine it runs with the boot clock, over stops and sleeps. [`EngineClock::resume`] has the
//! rule for an opening, [`EngineClock::now`] what runs while it is open.

mod boot_id;
mod deadline;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(feature = "sim")]
mod manual;
mod source;
mod timestamp;

pub(crate) use boot_id::BootId;
pub(crate) use deadline::{Deadline, QueueTimeout, Stopwatch};
#[cfg(feature = "sim")]
pub use manual::ManualClock;
pub(crate) use source::TimeSource;
pub use timestamp::Timestamp;
pub(crate) use timestamp::millis;

use std::time::Duration;

use crossbeam::utils::CachePadded;

use crate::sync::{Ordering, UnseenI64, UnseenU64};

/// What every frame of the log says of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameTime {
    pub(crate) time: Timestamp,
    /// The highest time that a wall clock was ever seen to show.
    pub(crate) wall_max: Timestamp,
}

/// What the file says of time: readings of all clocks, taken at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeMark {
    pub(crate) time: Timestamp,
    /// The highest time that a wall clock was ever seen to show.
    pub(crate) wall_max: Timestamp,
    pub(crate) boot: Option<BootId>,
    /// The boot clock: how long the machine had been running or asleep since it booted.
    pub(crate) boot_ms: u64,
}

/// What an opening finds in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Past {
    pub(crate) mark: TimeMark,
    /// What the last frame of the log says, if there is one that counts.
    pub(crate) frame: Option<FrameTime>,
    /// The file has nothing that could expire.
    pub(crate) is_empty: bool,
}

/// The engine's clock while a file is open.
#[derive(Debug)]
pub(crate) struct EngineClock {
    source: TimeSource,
    /// The engine's time when the boot clock showed `origin_ms`.
    start: Timestamp,
    origin_ms: u64,
    /// How long the machine has slept. Only grows.
    slept_ms: UnseenU64,
    boot: Option<BootId>,
    /// On a cache line of its own, away from what lookups read.
    wall: CachePadded<WallSeen>,
}

/// What was seen of the wall clock. Written with every commit.
#[derive(Debug)]
struct WallSeen {
    max_ms: UnseenU64,
    /// By how much `max_ms` was ahead of the engine's time in the last frame or mark.
    told_ahead_ms: UnseenI64,
}

/// A wall clock that was set forward by more than this is worth a frame of its own.
const LEAP_MS: i64 = 1_000;

fn ahead_ms(wall: Timestamp, time: Timestamp) -> i64 {
    let (ahead, behind) = (wall.0.saturating_sub(time.0), time.0.saturating_sub(wall.0));
    i64::try_from(ahead).unwrap_or(i64::MAX).saturating_sub_unsigned(behind)
}

impl EngineClock {
    /// The clock of a new file: it starts at the wall clock.
    pub(crate) fn new(source: TimeSource) -> Self {
        let wall = source.wall();
        Self::start(source, wall, wall)
    }

    /// The clock of a file that is opened again.
    ///
    /// 1. In the boot that the mark was made in, the boot clock says exactly how much time went
    ///    by. The wall clock does not matter.
    /// 2. Otherwise only a wall clock can tell, and it may be wrong by decades. What it says
    ///    beyond the highest time that a wall clock ever showed went by, but `jump_max` at most.
    ///    So a clock that is wrong for one opening and right for the next counts at most once;
    ///    keys live longer by what is not counted.
    /// 3. A file that has nothing that could expire takes the wall clock as it is, if that is
    ///    later.
    ///
    /// The clock never goes back behind what the file has seen. A boot clock that did (a virtual
    /// machine that was put back) says nothing of the time between: that is case 2.
    pub(crate) fn resume(source: TimeSource, past: &Past, jump_max: Duration) -> Self {
        let Past { mark, frame, is_empty } = *past;
        let wall = source.wall();
        let last = frame.unwrap_or(FrameTime { time: mark.time, wall_max: mark.wall_max });
        let high = mark.time.max(last.time);
        let wall_max = mark.wall_max.max(last.wall_max);
        let clock = Self::start(source, high, wall.max(wall_max));
        let gone_by = clock.origin_ms.checked_sub(mark.boot_ms);
        let start = match gone_by.filter(|_| clock.boot.is_some() && clock.boot == mark.boot) {
            Some(gone_by) => high.max(mark.time.saturating_add(Duration::from_millis(gone_by))),
            None => high.saturating_add(wall.saturating_since(wall_max).min(jump_max)),
        };
        Self { start: if is_empty { start.max(wall) } else { start }, ..clock }
    }

    fn start(source: TimeSource, start: Timestamp, wall_max: Timestamp) -> Self {
        let slept_ms = source.slept_ms();
        Self {
            start,
            origin_ms: source.monotonic_ms().saturating_add(slept_ms),
            slept_ms: UnseenU64::new(slept_ms),
            boot: source.boot(),
            wall: CachePadded::new(WallSeen {
                max_ms: UnseenU64::new(wall_max.0),
                told_ahead_ms: UnseenI64::new(ahead_ms(wall_max, start)),
            }),
            source,
        }
    }

    /// The engine's time now; never less than an earlier answer.
    ///
    /// A sleep of the machine counts from the next call of [`notice_sleep`](Self::notice_sleep)
    /// on.
    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        self.at(self.boot_ms())
    }

    /// The boot clock, with the sleeps that were noticed. Of two coarse numbers, which makes it
    /// late by a tick at most, never early: what a later opening reads of it is not less.
    #[inline]
    fn boot_ms(&self) -> u64 {
        self.source.monotonic_ms().saturating_add(self.slept_ms.load(Ordering::Relaxed))
    }

    #[inline]
    fn at(&self, boot_ms: u64) -> Timestamp {
        Timestamp(self.start.0.saturating_add(boot_ms.saturating_sub(self.origin_ms)))
    }

    /// Adds what the machine has slept since the last call. The worker calls it with every tick;
    /// lookups don't, it costs several times what they may.
    pub(crate) fn notice_sleep(&self) {
        let slept_ms = self.source.slept_ms();
        if slept_ms > self.slept_ms.load(Ordering::Relaxed) {
            self.slept_ms.fetch_max(slept_ms, Ordering::Relaxed);
        }
    }

    /// What to write into a frame, so that an opening after a crash can go on from there.
    pub(crate) fn frame_time(&self) -> FrameTime {
        let wall = self.source.coarse_wall();
        let before = self.wall.max_ms.fetch_max(wall.0, Ordering::Relaxed);
        let told = FrameTime { time: self.now(), wall_max: wall.max(Timestamp(before)) };
        self.wall.told_ahead_ms.store(ahead_ms(told.wall_max, told.time), Ordering::Relaxed);
        told
    }

    /// Whether the wall clock was set forward since the last frame or mark. If a reboot came
    /// before the next one, an opening would take that for time that went by.
    pub(crate) fn has_wall_leapt(&self) -> bool {
        self.wall_ahead_ms() > self.wall.told_ahead_ms.load(Ordering::Relaxed).saturating_add(LEAP_MS)
    }

    /// What to write into the file, so that a later opening can go on from there.
    pub(crate) fn mark(&self) -> TimeMark {
        self.notice_sleep();
        let wall_max = self.frame_time().wall_max;
        let boot_ms = self.boot_ms();
        TimeMark { time: self.at(boot_ms), wall_max, boot: self.boot, boot_ms }
    }

    /// By how much the wall clock is ahead of the engine's now (negative: behind).
    pub(crate) fn wall_ahead_ms(&self) -> i64 {
        ahead_ms(self.source.wall(), self.now())
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
