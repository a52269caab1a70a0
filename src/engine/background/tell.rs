//! Tells the observer about the engine as a whole, with no lock held, so that the observer may
//! make any call.

use crate::clock::Stopwatch;
use crate::engine::core::Core;
use crate::error::Failure;
use crate::observer::{Cause, Event};

impl Core {
    /// Reports the opening, and the claims whose holders died with the last process.
    pub(in crate::engine) fn tell_of_opening(&self, watch: &Stopwatch) {
        let recalled = self.told.take_recalled();
        self.options.hooks.tell(|| Event::Opened {
            keys: self.index.sizes().keys,
            replayed: self.told.replayed(),
            interrupted: recalled.len(),
            took: watch.elapsed(),
        });
        for attempt in recalled {
            self.tell_of_interruption(&attempt, Cause::Restart);
        }
    }

    /// Reports a full disk, space again, and a failure, if the observer does not know yet. The
    /// thread that finds one holds the maintenance lock, or leads, so the worker reports it at
    /// its next step, or the close does.
    pub(super) fn tell_of_trouble(&self) {
        let full = self.health.disk().any();
        let is_news = self.told.is_news_of_disk(full.is_some());
        match &full {
            Some(failure) if is_news => self.options.hooks.tell(|| Event::DiskFull { failure }),
            None if is_news => self.options.hooks.tell(|| Event::RoomAgain {}),
            Some(_) | None => {}
        }
        let failed_read = self.told.failed_read(self.clock.now(), || self.store.take_failed_read());
        if let Some(failure) = &failed_read {
            self.options.hooks.tell(|| Event::ReadFailed { failure });
        }
        let Some(failure) = self.health.trouble() else { return };
        if self.told.is_news_of_failure() {
            self.options.hooks.tell(|| Event::Failed { failure });
        }
    }

    /// Reports that the file was closed.
    pub(in crate::engine) fn tell_of_close(&self, outcome: &Result<usize, Failure>, watch: &Stopwatch) {
        self.tell_of_trouble();
        self.options.hooks.tell(|| Event::Closed {
            claims_left: *outcome.as_ref().unwrap_or(&0),
            failure: outcome.as_ref().err(),
            took: watch.elapsed(),
        });
    }
}
