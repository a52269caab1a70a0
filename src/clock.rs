//! Time. The only module that reads a clock.
//!
//! The engine runs on its own clock: it starts from the wall clock when the file is opened, advances
//! with the monotonic clock after that, and never goes back below the highest time the file has seen.
//! [`EngineClock::resume`] holds the rule for what a wall clock that jumped may do.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(idemkv_shuttle)]
use crate::sync::time::now;
#[cfg(feature = "sim")]
use crate::sync::{Arc, AtomicU64, Ordering};

/// A point in time on the engine's clock, in whole milliseconds since the Unix epoch.
///
/// The engine's clock equals the wall clock at the moment a file is created, then runs with the
/// monotonic clock of the machine; see `Options::max_clock_jump` for what happens between two openings.
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

    /// Milliseconds on a clock that never goes back, from an arbitrary origin.
    #[inline]
    fn monotonic_ms(&self) -> u64 {
        match self {
            Self::System => system_monotonic_ms(),
            #[cfg(feature = "sim")]
            Self::Manual(clock) => clock.monotonic_ms.load(Ordering::Acquire),
        }
    }
}

/// The kernel's coarse clock: it is read on every lookup, costs a quarter of the precise one, and is
/// at most one scheduler tick (1 to 10 ms) late, never early. A record may live that much longer.
#[cfg(target_os = "linux")]
#[inline]
fn system_monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "this module owns the clock")]
fn system_monotonic_ms() -> u64 {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    millis(ORIGIN.get_or_init(Instant::now).elapsed())
}

/// What a file remembers of time: the highest engine time it has seen, and by how much the wall clock
/// was ahead of the engine's clock then (negative: behind).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeMark {
    pub(crate) high_water: Timestamp,
    pub(crate) wall_ahead_ms: i64,
}

/// The engine's clock while a file is open.
#[derive(Debug)]
pub(crate) struct EngineClock {
    source: TimeSource,
    start: Timestamp,
    origin_ms: u64,
    wall_ahead_ms: i64,
}

impl EngineClock {
    /// The clock of a new file: it starts at the wall clock.
    pub(crate) fn new(source: TimeSource) -> Self {
        let wall = source.wall();
        Self { start: wall, origin_ms: source.monotonic_ms(), wall_ahead_ms: 0, source }
    }

    /// The clock of a file that is opened again.
    ///
    /// Between two openings only the wall clock can tell how much time went by, and it may lie: a machine
    /// that boots in 2099 must not expire every key, one that boots in 1970 must not stop time. So the
    /// engine's clock advances by what the wall clock says went by, but by `jump_max` at most, and never goes back.
    /// What was cut off stays a lag behind the wall clock: keys live longer by it, never shorter.
    pub(crate) fn resume(source: TimeSource, mark: TimeMark, jump_max: Duration) -> Self {
        let wall = source.wall();
        let wall_then = i128::from(mark.high_water.0) + i128::from(mark.wall_ahead_ms);
        let gap = i128::from(wall.0) - wall_then;
        let advance = gap.clamp(0, i128::from(millis(jump_max)));
        let advance = u64::try_from(advance).unwrap_or(0);
        let start = Timestamp(mark.high_water.0.saturating_add(advance));
        let ahead = i128::from(wall.0) - i128::from(start.0);
        let wall_ahead_ms = i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX });
        Self { start, origin_ms: source.monotonic_ms(), wall_ahead_ms, source }
    }

    /// The engine's time now; never less than an earlier answer.
    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        let elapsed = self.source.monotonic_ms().saturating_sub(self.origin_ms);
        Timestamp(self.start.0.saturating_add(elapsed))
    }

    /// What to write into the file so that a later opening can go on from here.
    pub(crate) fn mark(&self) -> TimeMark {
        TimeMark { high_water: self.now(), wall_ahead_ms: self.wall_ahead_ms }
    }

    /// By how much the wall clock is ahead of the engine's (negative: behind), as measured at open.
    pub(crate) fn wall_ahead_ms(&self) -> i64 {
        self.wall_ahead_ms
    }
}

/// A clock that is moved by hand, for tests.
///
/// ```
/// use idemkv::sim::ManualClock;
/// use std::time::Duration;
///
/// let clock = ManualClock::at_millis(1_800_000_000_000);
/// clock.advance(Duration::from_secs(1)); // time goes by: wall and monotonic clock together
/// clock.jump_wall_to_millis(0);          // somebody sets the wall clock: only it moves
/// ```
#[cfg(feature = "sim")]
#[derive(Clone, Debug)]
pub struct ManualClock {
    wall_ms: Arc<AtomicU64>,
    monotonic_ms: Arc<AtomicU64>,
}

#[cfg(feature = "sim")]
impl ManualClock {
    /// A clock whose wall time is `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub fn at_millis(millis: u64) -> Self {
        Self { wall_ms: Arc::new(AtomicU64::new(millis)), monotonic_ms: Arc::new(AtomicU64::new(0)) }
    }

    /// A clock of its own that shows the same time.
    #[must_use]
    pub fn fork(&self) -> Self {
        let copy = |time: &AtomicU64| Arc::new(AtomicU64::new(time.load(Ordering::Acquire)));
        Self { wall_ms: copy(&self.wall_ms), monotonic_ms: copy(&self.monotonic_ms) }
    }

    /// Lets `span` go by.
    pub fn advance(&self, span: Duration) {
        let step = millis(span);
        self.wall_ms.fetch_add(step, Ordering::AcqRel);
        self.monotonic_ms.fetch_add(step, Ordering::AcqRel);
        #[cfg(idemkv_shuttle)]
        crate::sync::time::pass(span);
    }

    /// Sets the wall clock, as an administrator or a time server might; no time goes by.
    pub fn jump_wall_to_millis(&self, millis: u64) {
        self.wall_ms.store(millis, Ordering::Release);
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const YEAR_MS: u64 = 365 * 24 * 3_600_000;

    fn resumed(wall: u64, high_water: u64, wall_ahead_ms: i64) -> EngineClock {
        let source = TimeSource::Manual(ManualClock::at_millis(wall));
        let mark = TimeMark { high_water: Timestamp(high_water), wall_ahead_ms };
        EngineClock::resume(source, mark, HOUR)
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
    fn a_short_stop_counts_in_full() {
        let clock = resumed(1_060_000, 1_000_000, 0);
        assert_eq!(clock.now(), Timestamp(1_060_000));
        assert_eq!(clock.wall_ahead_ms(), 0);
    }

    #[test]
    fn a_jump_forward_of_any_size_advances_by_the_limit_only() {
        for jump in [2 * 3_600_000, YEAR_MS, 100 * YEAR_MS, u64::MAX - 1_000_000] {
            let clock = resumed(1_000_000 + jump, 1_000_000, 0);
            assert_eq!(clock.now(), Timestamp(1_000_000 + 3_600_000));
        }
    }

    #[test]
    fn a_jump_back_stops_nothing_and_is_not_counted_again_when_it_is_mended() {
        let clock = resumed(0, 1_000_000, 0);
        assert_eq!(clock.now(), Timestamp(1_000_000));
        assert_eq!(clock.wall_ahead_ms(), -1_000_000);
        // Ten seconds of that run, then a reopen five seconds later on the same, still wrong, wall clock.
        let again = resumed(15_000, 1_010_000, -1_000_000);
        assert_eq!(again.now(), Timestamp(1_015_000));
    }

    #[test]
    fn a_lag_stays_and_the_next_stop_is_counted_from_it() {
        let lagging = resumed(1_000_000 + YEAR_MS, 1_000_000, 0);
        let mark = lagging.mark();
        let next = resumed(1_000_000 + YEAR_MS + 5_000, mark.high_water.0, mark.wall_ahead_ms);
        assert_eq!(next.now().saturating_since(mark.high_water), Duration::from_secs(5));
    }

    #[test]
    fn a_jump_beyond_all_reason_is_not_counted_again_at_the_next_opening() {
        let first = resumed(u64::MAX, 1_000_000, 0);
        let mark = first.mark();
        let next = resumed(u64::MAX, mark.high_water.0, mark.wall_ahead_ms);
        assert_eq!(next.now(), first.now());
    }

    #[test]
    fn the_edges_of_the_representable_do_not_overflow() {
        for (wall, high, ahead) in
            [(0, u64::MAX, i64::MIN), (u64::MAX, 0, i64::MIN), (u64::MAX, u64::MAX, i64::MAX)]
        {
            let clock = resumed(wall, high, ahead);
            assert!(clock.now() >= Timestamp(high));
        }
    }
}
