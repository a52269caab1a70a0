//! The timekeeper: fires deadlines of tasks and ends leases that are over.

use std::time::Duration;

use crate::Timestamp;
use crate::clock::Deadline;
use crate::engine::core::Core;
use crate::foreign::contain;
use crate::task::notifier::Listener;

/// The most by which the engine's clock is late.
const CLOCK_TICK: Duration = Duration::from_millis(10);

/// The most leases that are ended before deadlines fire again, and slow reads are relieved: the
/// observer hears of each, and may take its time.
const LEASES_MAX: usize = 16;

impl Core {
    /// Fires deadlines and ends leases that are over. It does no I/O and waits for no thread, so
    /// a slow disk or a checkpoint delays neither.
    pub(in crate::engine) fn keep_time(&self) {
        self.clock.notice_sleep();
        loop {
            // Code of others may have run: in a forked child it may be locked for ever.
            if !self.is_closed() {
                self.reads.relieve();
            }
            self.timers.fire();
            if self.is_closed() || !self.expire_some_leases(self.clock.now()) {
                return;
            }
        }
    }

    /// When to [keep time](Self::keep_time) next.
    pub(in crate::engine) fn next_end(&self) -> Deadline {
        let timer = self.timers.next().map_or(Deadline::NEVER, Deadline::at);
        let lease = self.leases.next().map_or(Deadline::NEVER, |at| {
            // Read before the engine's clock: if the thread is held up in between, it looks too
            // early and once more, not too late.
            let before = Deadline::after(Duration::ZERO);
            // Once a tick in any case: the machine may sleep meanwhile, and leases go on.
            before.later_by((at.saturating_since(self.clock.now()) + CLOCK_TICK).min(self.tick()))
        });
        timer.min(lease).min(self.reads.next_look())
    }

    /// Ends a few leases that are over. Whether more may be.
    fn expire_some_leases(&self, now: Timestamp) -> bool {
        let due = self.leases.take_due(now, LEASES_MAX);
        // The task that was woken last may have forked.
        for attempt in due.iter().take_while(|_| !self.health.is_forked()) {
            self.expire_if_due(attempt);
        }
        due.len() == LEASES_MAX
    }
}

/// The thread that waits for deadlines and the ends of leases. It has no other work, because that
/// work would delay them.
pub(in crate::engine) fn keep_time(core: &Core, listener: &Listener) {
    // Asked before each look, too: code of others may have forked.
    while core.health.is_open() && listener.wait(core.next_end()) && core.health.is_open() {
        // A panic of code of others is not the next deadline's affair.
        contain(|| core.keep_time());
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::clock::after_read;
    use crate::engine::calls::lookup::tests::claim;
    use crate::sim::{ManualClock, SimDisk};
    use crate::{Engine, Policy};

    /// An engine whose timekeeper has one lease to watch, of so many milliseconds.
    fn engine(clock: &ManualClock, lease_ms: u64) -> Engine {
        let options = Engine::options().disk(&SimDisk::new()).clock(clock).stepped();
        options.policy(Policy::default().lease(Duration::from_millis(lease_ms))).open("x.idem").unwrap()
    }

    #[test]
    fn a_timekeeper_that_is_held_up_between_two_clocks_looks_too_early_not_too_late() {
        let engine = engine(&ManualClock::at_millis(1_000), 100);
        let claim = claim(&engine, "key");
        let read_at = Rc::new(Cell::new(Deadline::NEVER));
        let note = Rc::clone(&read_at);
        let held_up = move || {
            note.set(Deadline::after(Duration::ZERO));
            let until = Deadline::after(Duration::from_millis(1));
            while !until.has_passed() {
                std::hint::spin_loop();
            }
        };
        let next = after_read::with(held_up, || engine.handle.core().next_end());
        let latest = read_at.get().later_by(Duration::from_millis(100) + CLOCK_TICK);
        assert!(!latest.is_before(next), "it looks at {next:?}, and the lease ends before {latest:?}");
        drop(claim);
    }

    /// An observer that is told of each may take its time.
    #[test]
    fn slow_reads_are_relieved_while_many_leases_end() {
        let clock = ManualClock::at_millis(1_000);
        let engine = engine(&clock, 100);
        let claims: Vec<_> = (0..LEASES_MAX).map(|n| claim(&engine, &n.to_string())).collect();
        clock.advance(Duration::from_secs(1));
        let (theirs, is_first) = (engine.clone(), Cell::new(true));
        // Behind the first look of the timekeeper.
        let slow = move || {
            if is_first.replace(false) {
                theirs.handle.core().reads.look_now();
            }
        };
        after_read::with(slow, || engine.handle.core().keep_time());
        assert!(engine.handle.core().reads.next_look().instant().is_none(), "it looked again");
        drop(claims);
    }
}
