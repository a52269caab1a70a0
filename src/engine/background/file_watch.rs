//! Watches the files: stops the engine if one of them was moved, replaced or deleted.

use std::time::Duration;

use crate::Timestamp;
use crate::engine::core::Core;
use crate::error::Failure;
use crate::sync::Arc;

/// How often the worker checks that the files are still where they were opened.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Core {
    /// Stops the engine if one of its files was taken away. Checks once a second; a stepped
    /// engine at every step.
    pub(super) fn look_for_files(&self, now: Timestamp) {
        let due = self.maintenance.look_at();
        if self.options.workers && now < due || self.commit.failure().is_some() {
            return;
        }
        self.maintenance.set_look_at(now.saturating_add(LOOK_EVERY));
        // Once closed, the files are no longer this engine's business.
        if let Some(failure) = self.taken_away()
            && !self.is_closed()
        {
            self.health.poison(failure.clone());
            self.commit.stop(&failure);
        }
    }

    /// The failure for a file whose path now leads elsewhere, if there is one.
    pub(in crate::engine) fn taken_away(&self) -> Option<Failure> {
        if self.store.is_taken_away() {
            return Some(Failure::TakenAway(self.store.path().to_owned()));
        }
        let log = self.log.get()?;
        // A log that is made anew is let go before its successor gets the name.
        let is_ours = || self.log.get().is_some_and(|current| Arc::ptr_eq(&current, &log));
        (log.is_taken_away() && is_ours()).then(|| Failure::TakenAway(log.path().to_owned()))
    }
}
