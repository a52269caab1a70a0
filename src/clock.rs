//! Time. The only module that reads a clock.
//!
//! The engine has its own clock. A new file starts it at the wall clock. Within one boot of the
//! machine it runs with the boot clock, over stops and sleeps. [`EngineClock::resume`] has the
//! rule for an opening, [`EngineClock::now`] the rule while the file is open.

#[cfg(test)]
pub(crate) mod after_read;
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

/// Milliseconds on a clock that never goes back and counts while the machine sleeps, as far as
/// the system has one. Rounded down, and never zero.
#[cfg(feature = "postgres")]
#[inline]
pub(crate) fn boot_ms() -> u64 {
    source::boot_ms().max(1)
}

/// The times in every frame of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameTime {
    pub(crate) time: Timestamp,
    /// The highest time that a wall clock was ever seen to show.
    pub(crate) wall_max: Timestamp,
}

/// The times in the file: readings of all clocks, taken at one moment.
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
    /// The times of the last frame of the log, if there is one that counts.
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
    /// On its own cache line, away from the fields that lookups read.
    wall: CachePadded<WallSeen>,
}

/// Readings of the wall clock. Written with every commit.
#[derive(Debug)]
struct WallSeen {
    max_ms: UnseenU64,
    /// By how much `max_ms` was ahead of the engine's time in the last frame, or at the opening,
    /// which writes it down.
    told_ahead_ms: UnseenI64,
}

/// If the wall clock was set forward by more than this, the worker writes a frame for it.
const LEAP_MS: i64 = 1_000;

fn ahead_ms(wall: Timestamp, time: Timestamp) -> i64 {
    let (ahead, behind) = (wall.0.saturating_sub(time.0), time.0.saturating_sub(wall.0));
    i64::try_from(ahead).unwrap_or(i64::MAX).saturating_sub_unsigned(behind)
}

impl EngineClock {
    /// The clock of a new file: it starts at the wall clock.
    pub(crate) fn new(source: TimeSource) -> Self {
        let wall = source.wall();
        Self::start(source, wall, |_boot, _origin_ms| wall)
    }

    /// The clock of a file that is opened again.
    ///
    /// 1. In the boot in which the mark was made, the boot clock says exactly how much time has
    ///    passed. The wall clock does not matter.
    /// 2. Otherwise only the wall clock can tell, and it may be wrong by decades. The engine's
    ///    clock advances by the wall clock's time beyond its highest earlier value, but by at
    ///    most `jump_max`. So a clock that is wrong for one opening and right for the next counts
    ///    at most once. Keys live longer by the time that is not counted.
    /// 3. A file with nothing that could expire takes the wall clock as it is, if that is later.
    ///
    /// The clock never goes below the highest time that the file has seen. If the boot clock went
    /// back (a virtual machine was reset to a snapshot), case 2 applies.
    pub(crate) fn resume(source: TimeSource, past: &Past, jump_max: Duration) -> Self {
        let Past { mark, frame, is_empty } = *past;
        let wall = source.wall();
        let last = frame.unwrap_or(FrameTime { time: mark.time, wall_max: mark.wall_max });
        let high = mark.time.max(last.time);
        let wall_max = mark.wall_max.max(last.wall_max);
        Self::start(source, wall.max(wall_max), |boot, origin_ms| {
            let gone_by = origin_ms.checked_sub(mark.boot_ms);
            let start = match gone_by.filter(|_| boot.is_some() && boot == mark.boot) {
                Some(gone_by) => high.max(mark.time.saturating_add(Duration::from_millis(gone_by))),
                None => high.saturating_add(wall.saturating_since(wall_max).min(jump_max)),
            };
            if is_empty { start.max(wall) } else { start }
        })
    }

    fn start(
        source: TimeSource,
        wall_max: Timestamp,
        start: impl FnOnce(Option<BootId>, u64) -> Timestamp,
    ) -> Self {
        let slept_ms = source.slept_ms();
        let (boot, origin_ms) = (source.boot(), source.monotonic_ms().saturating_add(slept_ms));
        let start = start(boot, origin_ms);
        Self {
            start,
            origin_ms,
            slept_ms: UnseenU64::new(slept_ms),
            boot,
            wall: CachePadded::new(WallSeen {
                max_ms: UnseenU64::new(wall_max.0),
                told_ahead_ms: UnseenI64::new(ahead_ms(wall_max, start)),
            }),
            source,
        }
    }

    /// The engine's time now; never less than an earlier answer.
    ///
    /// A sleep of the machine counts after the next call of [`notice_sleep`](Self::notice_sleep).
    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        let now = self.at(self.boot_ms());
        #[cfg(test)]
        after_read::run();
        now
    }

    /// The boot clock, with the noticed sleeps. It is the sum of two coarse numbers, so it is
    /// late by at most a tick and never early: a later opening does not read less.
    #[inline]
    fn boot_ms(&self) -> u64 {
        self.source.monotonic_ms().saturating_add(self.slept_ms.load(Ordering::Relaxed))
    }

    #[inline]
    fn at(&self, boot_ms: u64) -> Timestamp {
        Timestamp(self.start.0.saturating_add(boot_ms.saturating_sub(self.origin_ms)))
    }

    /// Adds the time that the machine has slept since the last call. The worker calls it with
    /// every tick. Lookups don't, because it costs several times as much as they may.
    pub(crate) fn notice_sleep(&self) {
        let slept_ms = self.source.slept_ms();
        if slept_ms > self.slept_ms.load(Ordering::Relaxed) {
            self.slept_ms.fetch_max(slept_ms, Ordering::Relaxed);
        }
    }

    /// The times for a frame, from which an opening after a crash continues.
    ///
    /// The wall clock is read last. If the thread is held up before that, an opening in the next
    /// boot counts too little time; the other way round it would count that time twice.
    pub(crate) fn frame_time(&self) -> FrameTime {
        let told = self.times();
        self.wall.told_ahead_ms.store(ahead_ms(told.wall_max, told.time), Ordering::Relaxed);
        told
    }

    fn times(&self) -> FrameTime {
        let time = self.now();
        let wall = self.source.coarse_wall();
        let before = self.wall.max_ms.fetch_max(wall.0, Ordering::Relaxed);
        FrameTime { time, wall_max: wall.max(Timestamp(before)) }
    }

    /// Whether the wall clock was set forward since the last frame. If a reboot came before the
    /// next one, an opening would count the change as time that has passed. A [`mark`](Self::mark)
    /// does not count: the commit that has it may fail, and the engine goes on.
    pub(crate) fn has_wall_leapt(&self) -> bool {
        self.wall_ahead_ms() > self.wall.told_ahead_ms.load(Ordering::Relaxed).saturating_add(LEAP_MS)
    }

    /// The times for the file, from which a later opening continues.
    pub(crate) fn mark(&self) -> TimeMark {
        self.notice_sleep();
        let boot_ms = self.boot_ms();
        let wall_max = self.times().wall_max;
        TimeMark { time: self.at(boot_ms), wall_max, boot: self.boot, boot_ms }
    }

    /// By how much the wall clock is ahead of the engine's clock (negative: behind).
    pub(crate) fn wall_ahead_ms(&self) -> i64 {
        ahead_ms(self.source.wall(), self.now())
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
