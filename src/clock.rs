//! Time. The only module that reads a clock.
//!
//! The engine has a clock of its own. A new file starts it at the wall clock. Within one boot of the machine it runs with the boot
//! clock, over stops and sleeps. [`EngineClock::resume`] has the rule for an opening, [`EngineClock::now`] what runs while it is open.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::utils::CachePadded;

#[cfg(idemkv_shuttle)]
use crate::sync::time::now;
#[cfg(feature = "sim")]
use crate::sync::{Arc, AtomicBool, AtomicU64};
use crate::sync::{Ordering, UnseenI64, UnseenU64};

#[cfg(target_os = "linux")]
mod linux;

/// A point in time on the engine's clock, in whole milliseconds since the Unix epoch.
///
/// The engine's clock equals the wall clock at the moment a file is created. After that it measures what time goes by;
/// `Options::max_clock_jump` has the rule.
///
/// ```
/// use idemkv::Timestamp;
/// use std::time::Duration;
///
/// let noon = Timestamp::from_millis(1_800_000_000_000);
/// let later = noon.saturating_add(Duration::from_secs(90));
/// assert_eq!(later.saturating_since(noon), Duration::from_secs(90));
/// assert_eq!(noon.saturating_since(later), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This time plus `span`, rounded down to milliseconds; the last representable time if it would overflow.
    #[must_use]
    pub fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// How long after `earlier` this time is; zero if it is not after it.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The same point as a [`SystemTime`]; `None` where the platform can't represent it.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms since the epoch", self.0)
    }
}

/// Whole milliseconds of a duration, saturating.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(not(idemkv_shuttle))]
#[expect(clippy::disallowed_methods, reason = "this module owns the clock")]
fn now() -> Instant {
    Instant::now()
}

/// A running stopwatch, for statistics only.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.0)
    }
}

/// A deadline in real time, for bounded waits of threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(span: Duration) -> Self {
        Self(now().checked_add(span))
    }

    pub(crate) const NEVER: Self = Self(None);

    pub(crate) fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    pub(crate) fn min(self, other: Self) -> Self {
        Self(self.0.into_iter().chain(other.0).min())
    }

    pub(crate) fn is_before(self, other: Self) -> bool {
        self.0.is_some_and(|at| other.0.is_none_or(|other| at < other))
    }

    /// The instant to wait until; `None` means for ever.
    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }

    pub(crate) fn has_passed(self) -> bool {
        self.0.is_some_and(|at| now() >= at)
    }
}

/// How long one call waits, for whatever it waits: one span for all its waits, from the first of them on.
#[derive(Debug)]
pub(crate) struct QueueTimeout {
    span: Duration,
    until: Option<Deadline>,
}

impl QueueTimeout {
    pub(crate) fn new(span: Duration) -> Self {
        Self { span, until: None }
    }

    /// Until when the call waits. The first wait sets it.
    pub(crate) fn until(&mut self) -> Deadline {
        *self.until.get_or_insert_with(|| Deadline::after(self.span))
    }

    pub(crate) fn span(&self) -> Duration {
        self.span
    }
}

/// Where raw time comes from.
#[derive(Clone, Debug, Default)]
pub(crate) enum TimeSource {
    /// The machine's clocks.
    #[default]
    System,
    /// A clock moved by hand.
    #[cfg(feature = "sim")]
    Manual(ManualClock),
}

/// The latest time that a wall clock is believed to show. Every span can be added to it, and its distance from any time
/// below it fits the file.
const WALL_MAX: Timestamp = Timestamp(i64::MAX.cast_unsigned());

impl TimeSource {
    /// Wall clock, milliseconds since the epoch; a clock set before 1970 reads as zero, one beyond [`WALL_MAX`] as that.
    #[expect(clippy::disallowed_methods, reason = "this module owns the clock")]
    pub(crate) fn wall(&self) -> Timestamp {
        let wall = match self {
            Self::System => Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)),
            #[cfg(feature = "sim")]
            Self::Manual(clock) => Timestamp(clock.wall_ms.load(Ordering::Acquire)),
        };
        wall.min(WALL_MAX)
    }

    /// The same, at most a tick late: it is read with every commit.
    fn coarse_wall(&self) -> Timestamp {
        match self {
            #[cfg(target_os = "linux")]
            Self::System => Timestamp(linux::wall_ms()).min(WALL_MAX),
            #[cfg(not(target_os = "linux"))]
            Self::System => self.wall(),
            #[cfg(feature = "sim")]
            Self::Manual(_) => self.wall(),
        }
    }

    /// Milliseconds on a clock that never goes back and stands still while the machine sleeps.
    #[inline]
    fn monotonic_ms(&self) -> u64 {
        match self {
            Self::System => system_monotonic_ms(),
            #[cfg(feature = "sim")]
            Self::Manual(clock) => clock.monotonic_ms.load(Ordering::Acquire),
        }
    }

    /// How long the machine has slept since it booted, as far as can be told.
    fn slept_ms(&self) -> u64 {
        match self {
            Self::System => system_slept_ms(),
            #[cfg(feature = "sim")]
            Self::Manual(clock) => clock.slept_ms.load(Ordering::Acquire),
        }
    }

    /// The boot of the machine that the other clocks count from; `None` where the system does not say.
    fn boot(&self) -> Option<BootId> {
        match self {
            Self::System => system_boot().map(BootId),
            #[cfg(feature = "sim")]
            Self::Manual(clock) => clock.boot(),
        }
    }
}

#[cfg(target_os = "linux")]
use linux::{boot as system_boot, monotonic_ms as system_monotonic_ms, slept_ms as system_slept_ms};

#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "this module owns the clock")]
fn system_monotonic_ms() -> u64 {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    millis(ORIGIN.get_or_init(Instant::now).elapsed())
}

#[cfg(not(target_os = "linux"))]
fn system_slept_ms() -> u64 {
    0
}

#[cfg(not(target_os = "linux"))]
fn system_boot() -> Option<[u8; 16]> {
    None
}

/// The name of one boot of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BootId(pub(crate) [u8; 16]);

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
    /// 1. In the boot that the mark was made in, the boot clock says exactly how much time went by. The wall clock does not matter.
    /// 2. Otherwise only a wall clock can tell, and it may be wrong by decades. What it says beyond the highest time that a wall
    ///    clock ever showed went by, but `jump_max` at most. So a clock that is wrong for one opening and right for the next counts
    ///    at most once; keys live longer by what is not counted.
    /// 3. A file that has nothing that could expire takes the wall clock as it is, if that is later.
    ///
    /// The clock never goes back behind what the file has seen. A boot clock that did (a virtual machine that was put back) says
    /// nothing of the time between: that is case 2.
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
    /// A sleep of the machine counts from the next call of [`notice_sleep`](Self::notice_sleep) on.
    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        self.at(self.boot_ms())
    }

    /// The boot clock, with the sleeps that were noticed. Of two coarse numbers, which makes it late by a tick at most, never early:
    /// what a later opening reads of it is not less.
    #[inline]
    fn boot_ms(&self) -> u64 {
        self.source.monotonic_ms().saturating_add(self.slept_ms.load(Ordering::Relaxed))
    }

    #[inline]
    fn at(&self, boot_ms: u64) -> Timestamp {
        Timestamp(self.start.0.saturating_add(boot_ms.saturating_sub(self.origin_ms)))
    }

    /// Adds what the machine has slept since the last call. The worker calls it with every tick; lookups don't, it costs several times
    /// what they may.
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

    /// Whether the wall clock was set forward since the last frame or mark. If a reboot came before the next one, an opening would take
    /// that for time that went by.
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

/// The clocks of a machine, moved by hand, for tests.
///
/// ```
/// use idemkv::sim::ManualClock;
/// use std::time::Duration;
///
/// let clock = ManualClock::at_millis(1_800_000_000_000);
/// clock.advance(Duration::from_secs(1)); // time goes by: all clocks together
/// clock.jump_wall_to_millis(0);          // somebody sets the wall clock: only it moves
/// clock.sleep(Duration::from_secs(1));   // the machine sleeps: the monotonic clock stands still
/// clock.reboot();                        // another boot: only the wall clock goes on
/// ```
#[cfg(feature = "sim")]
#[derive(Clone, Debug)]
pub struct ManualClock {
    wall_ms: Arc<AtomicU64>,
    monotonic_ms: Arc<AtomicU64>,
    /// The boot clock is ahead of the monotonic clock by this.
    slept_ms: Arc<AtomicU64>,
    /// What the wall clock showed at first stands for the machine.
    machine: u64,
    boots: Arc<AtomicU64>,
    is_boot_hidden: Arc<AtomicBool>,
}

#[cfg(feature = "sim")]
impl ManualClock {
    /// A machine that boots when the wall clock shows `millis` milliseconds after the Unix epoch. Two that boot at the same time
    /// count as the same boot.
    #[must_use]
    pub fn at_millis(millis: u64) -> Self {
        Self {
            wall_ms: Arc::new(AtomicU64::new(millis)),
            monotonic_ms: Arc::new(AtomicU64::new(0)),
            slept_ms: Arc::new(AtomicU64::new(0)),
            machine: millis,
            boots: Arc::new(AtomicU64::new(0)),
            is_boot_hidden: Arc::new(AtomicBool::new(false)),
        }
    }

    /// A clock of its own that shows the same time, in the same boot.
    #[must_use]
    pub fn fork(&self) -> Self {
        let copy = |time: &AtomicU64| Arc::new(AtomicU64::new(time.load(Ordering::Acquire)));
        Self {
            wall_ms: copy(&self.wall_ms),
            monotonic_ms: copy(&self.monotonic_ms),
            slept_ms: copy(&self.slept_ms),
            machine: self.machine,
            boots: copy(&self.boots),
            is_boot_hidden: Arc::new(AtomicBool::new(self.is_boot_hidden.load(Ordering::Acquire))),
        }
    }

    /// What the wall clock shows.
    #[must_use]
    pub fn wall_millis(&self) -> u64 {
        self.wall_ms.load(Ordering::Acquire)
    }

    /// Lets `span` go by.
    pub fn advance(&self, span: Duration) {
        let step = millis(span);
        self.wall_ms.fetch_add(step, Ordering::AcqRel);
        self.monotonic_ms.fetch_add(step, Ordering::AcqRel);
        #[cfg(idemkv_shuttle)]
        crate::sync::time::pass(span);
    }

    /// Lets `span` go by while the machine sleeps: wall clock and boot clock go on, the monotonic clock stands still. An engine
    /// notices with its next step, checkpoint or close.
    pub fn sleep(&self, span: Duration) {
        let step = millis(span);
        self.wall_ms.fetch_add(step, Ordering::AcqRel);
        self.slept_ms.fetch_add(step, Ordering::AcqRel);
    }

    /// Sets the wall clock, as an administrator or a time server might; no time goes by.
    pub fn jump_wall_to_millis(&self, millis: u64) {
        self.wall_ms.store(millis, Ordering::Release);
    }

    /// Boots the machine anew: boot clock and monotonic clock start again, the wall clock goes on. No process survives that: drop
    /// the engines on this clock first.
    pub fn reboot(&self) {
        self.boots.fetch_add(1, Ordering::AcqRel);
        self.jump_boot_to_millis(0);
        self.is_boot_hidden.store(false, Ordering::Release);
    }

    /// Sets the boot clock, as on a virtual machine that is put back to an earlier moment; no time goes by. The boot is the same.
    /// Drop the engines on this clock first.
    pub fn jump_boot_to_millis(&self, millis: u64) {
        self.slept_ms.store(0, Ordering::Release);
        self.monotonic_ms.store(millis, Ordering::Release);
    }

    /// Until the next reboot the machine does not say which boot this is, as on systems other than Linux.
    pub fn hide_boot(&self) {
        self.is_boot_hidden.store(true, Ordering::Release);
    }

    fn boot(&self) -> Option<BootId> {
        let mut id = [0; 16];
        let boot =
            self.machine.to_le_bytes().into_iter().chain(self.boots.load(Ordering::Acquire).to_le_bytes());
        id.iter_mut().zip(boot).for_each(|(to, from)| *to = from);
        (!self.is_boot_hidden.load(Ordering::Acquire)).then_some(BootId(id))
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
