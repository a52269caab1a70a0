//! A manual clock, for tests.

use std::time::Duration;

use super::boot_id::BootId;
use super::timestamp::millis;
use crate::sync::Ordering;
#[cfg(feature = "sim")]
use crate::sync::{Arc, AtomicBool, AtomicU64};

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
    pub(super) wall_ms: Arc<AtomicU64>,
    pub(super) monotonic_ms: Arc<AtomicU64>,
    /// The boot clock is ahead of the monotonic clock by this.
    pub(super) slept_ms: Arc<AtomicU64>,
    /// The first time of the wall clock identifies the machine.
    machine: u64,
    boots: Arc<AtomicU64>,
    is_boot_hidden: Arc<AtomicBool>,
}

#[cfg(feature = "sim")]
impl ManualClock {
    /// A machine that boots when the wall clock shows `millis` milliseconds after the Unix epoch.
    /// Two that boot at the same time count as the same boot.
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

    /// A separate clock that shows the same time, in the same boot.
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

    /// Lets `span` pass.
    pub fn advance(&self, span: Duration) {
        let step = millis(span);
        self.wall_ms.fetch_add(step, Ordering::AcqRel);
        self.monotonic_ms.fetch_add(step, Ordering::AcqRel);
        #[cfg(idemkv_shuttle)]
        crate::sync::time::pass(span);
    }

    /// Lets `span` pass while the machine sleeps: wall clock and boot clock run, the monotonic
    /// clock stands still. An engine notices at its next step, checkpoint or close.
    pub fn sleep(&self, span: Duration) {
        let step = millis(span);
        self.wall_ms.fetch_add(step, Ordering::AcqRel);
        self.slept_ms.fetch_add(step, Ordering::AcqRel);
    }

    /// Sets the wall clock, as an administrator or a time server might; no time passes.
    pub fn jump_wall_to_millis(&self, millis: u64) {
        self.wall_ms.store(millis, Ordering::Release);
    }

    /// Reboots the machine: boot clock and monotonic clock start again, the wall clock runs on.
    /// No process survives a reboot: drop the engines on this clock first.
    pub fn reboot(&self) {
        self.boots.fetch_add(1, Ordering::AcqRel);
        self.jump_boot_to_millis(0);
        self.is_boot_hidden.store(false, Ordering::Release);
    }

    /// Sets the boot clock, as on a virtual machine that is reset to a snapshot; no time passes.
    /// The boot is the same. Drop the engines on this clock first.
    pub fn jump_boot_to_millis(&self, millis: u64) {
        self.slept_ms.store(0, Ordering::Release);
        self.monotonic_ms.store(millis, Ordering::Release);
    }

    /// Until the next reboot the machine does not say which boot this is, as on systems other than
    /// Linux.
    pub fn hide_boot(&self) {
        self.is_boot_hidden.store(true, Ordering::Release);
    }

    pub(super) fn boot(&self) -> Option<BootId> {
        let mut id = [0; 16];
        let boot =
            self.machine.to_le_bytes().into_iter().chain(self.boots.load(Ordering::Acquire).to_le_bytes());
        id.iter_mut().zip(boot).for_each(|(to, from)| *to = from);
        (!self.is_boot_hidden.load(Ordering::Acquire)).then_some(BootId(id))
    }
}
