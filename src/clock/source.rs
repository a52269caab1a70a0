//! Where time comes from: the system's clocks, or a manual clock.

#[cfg(not(target_os = "linux"))]
use std::time::Instant;
use std::time::{SystemTime, UNIX_EPOCH};

use super::boot_id::BootId;
#[cfg(target_os = "linux")]
use super::linux;
#[cfg(target_os = "linux")]
use super::linux::{boot as system_boot, monotonic_ms as system_monotonic_ms, slept_ms as system_slept_ms};
#[cfg(feature = "sim")]
use super::manual::ManualClock;
use super::timestamp::{Timestamp, millis};
#[cfg(feature = "sim")]
use crate::sync::Ordering;

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

/// The latest wall-clock time that is accepted. Every span can be added to it, and its distance
/// from any time below it fits the file.
const WALL_MAX: Timestamp = Timestamp(i64::MAX.cast_unsigned());

impl TimeSource {
    /// Wall clock, milliseconds since the epoch; a clock set before 1970 reads as zero, one beyond
    /// [`WALL_MAX`] as that.
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
    pub(super) fn coarse_wall(&self) -> Timestamp {
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
    pub(super) fn monotonic_ms(&self) -> u64 {
        match self {
            Self::System => system_monotonic_ms(),
            #[cfg(feature = "sim")]
            Self::Manual(clock) => clock.monotonic_ms.load(Ordering::Acquire),
        }
    }

    /// How long the machine has slept since it booted, as far as can be told.
    pub(super) fn slept_ms(&self) -> u64 {
        match self {
            Self::System => system_slept_ms(),
            #[cfg(feature = "sim")]
            Self::Manual(clock) => clock.slept_ms.load(Ordering::Acquire),
        }
    }

    /// The boot of the machine, from which the other clocks count; `None` if the system does not
    /// say.
    pub(super) fn boot(&self) -> Option<BootId> {
        match self {
            Self::System => system_boot().map(BootId),
            #[cfg(feature = "sim")]
            Self::Manual(clock) => clock.boot(),
        }
    }
}

#[cfg(all(target_os = "linux", feature = "postgres"))]
pub(super) use linux::boot_ms;

#[cfg(all(not(target_os = "linux"), feature = "postgres"))]
pub(super) fn boot_ms() -> u64 {
    system_monotonic_ms()
}

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
