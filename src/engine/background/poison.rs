//! Poisoning: after a failure in the background the engine grants no more claims.

use crate::engine::core::Core;
use crate::error::Failure;

impl Core {
    /// Runs a part of the background work. If it panics, the rest stays undone, so the engine
    /// grants no more claims.
    pub(in crate::engine) fn or_poison<R>(&self, work: impl FnOnce() -> R) -> R {
        let unwinding = PoisonOnUnwind(self);
        let result = work();
        std::mem::forget(unwinding);
        result
    }

    /// Stops grants. Claims in flight can still be completed, because the log is intact.
    pub(super) fn poison(&self, failure: Failure) {
        // A later failure is no news to the waiters for log space: they would ask for it again.
        if self.health.poison(failure) {
            self.space.wake();
        }
    }
}

/// Poisons the engine if it is dropped by a panic of the background work. Defused otherwise.
struct PoisonOnUnwind<'a>(&'a Core);

impl Drop for PoisonOnUnwind<'_> {
    fn drop(&mut self) {
        self.0.poison(Failure::Panicked);
    }
}
