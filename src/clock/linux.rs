//! The clocks of Linux, and the name of a boot.

use std::io::ErrorKind;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// The kernel's coarse clock: every lookup reads it. It costs a quarter of the precise one, and
/// is at most one scheduler tick (1 to 10 ms) late, never early. A record may live that much
/// longer.
#[inline]
pub(super) fn monotonic_ms() -> u64 {
    ms_since_boot(ClockId::MonotonicCoarse)
}

/// The wall clock in the same coarseness, in milliseconds since 1970; zero before that.
pub(super) fn wall_ms() -> u64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Milliseconds on a clock that starts at the boot.
#[inline]
#[expect(clippy::cast_sign_loss, reason = "no time is before the boot")]
fn ms_since_boot(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

/// The boot clock, which also counts while the machine sleeps, in milliseconds rounded down.
#[cfg(feature = "postgres")]
#[inline]
pub(super) fn boot_ms() -> u64 {
    ms_since_boot(ClockId::Boottime)
}

/// How far the boot clock is ahead of the monotonic clock, which stands still while the machine
/// sleeps.
///
/// The boot clock is read first, so a delay between the two readings makes the difference
/// smaller, never larger. The largest of three differences has the shortest delay.
pub(super) fn slept_ms() -> u64 {
    let nanos = |clock| {
        let now = clock_gettime(clock);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
    };
    let ahead = |_| {
        let boot = nanos(ClockId::Boottime);
        boot.saturating_sub(nanos(ClockId::Monotonic))
    };
    (0..3).map(ahead).max().unwrap_or(0) / 1_000_000
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const TIME_NAMESPACE: &str = "/proc/self/ns/time";
/// The time namespace that every process is in unless it asks for another; its number is fixed in
/// the kernel.
const FIRST_NAMESPACE: &str = "time:[4026531834]";

/// The boot of the machine. `None` without `/proc`, and in another time namespace, where the boot
/// clock has an offset.
pub(super) fn boot() -> Option<[u8; 16]> {
    match std::fs::read_link(TIME_NAMESPACE) {
        Ok(namespace) if namespace == Path::new(FIRST_NAMESPACE) => {}
        // A kernel without time namespaces.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Ok(_) | Err(_) => return None,
    }
    parse(&std::fs::read_to_string(BOOT_ID).ok()?)
}

/// The 32 digits of a UUID.
fn parse(text: &str) -> Option<[u8; 16]> {
    let digits = text.trim_end().chars().filter(|digit| *digit != '-').collect::<String>();
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let id = u128::from_str_radix(&digits, 16).ok().filter(|id| *id != 0)?;
    Some(id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_has_one_name_and_the_boot_clock_is_not_behind_the_monotonic_one() {
        assert_eq!(boot(), boot());
        let before = slept_ms();
        assert!(slept_ms() >= before, "the machine can't have slept less");
    }

    #[test]
    fn a_name_that_is_not_one_is_none() {
        let id = "8f1b4f3a-0c5e-4d1c-9a53-7f0d4e2a6b90";
        assert_eq!(parse(&format!("{id}\n")).unwrap()[..4], [0x8f, 0x1b, 0x4f, 0x3a]);
        for bad in ["", "\n", &id[1..], &id.replace('8', "g"), "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse(&format!("+{}", &id.replace('-', "")[1..])), None);
    }
}
