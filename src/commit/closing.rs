//! Closing: refuses new entries, and ends when all others are published.

use super::leading::Turn;
use super::queue::Intake;
use super::{Commit, Publish};
use crate::clock::Deadline;

impl<P: Publish> Commit<P> {
    /// Refuses new entries, and returns when everything queued before is published and no thread
    /// leads.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        let has_started = queue.intake != Intake::Early;
        queue.intake = Intake::Closed;
        loop {
            if !has_started {
                break;
            }
            // The files are let go after this, so nobody may be writing.
            if self.failure.get().is_some() && queue.writing.is_none() {
                break;
            }
            match queue.writer.take() {
                Some(writer) if queue.is_settled() => {
                    queue.writer = Some(writer);
                    break;
                }
                // Also where nothing is left to be written: it publishes what no other thread
                // does.
                Some(writer) if !queue.is_publishing => {
                    let Some(led) = self.lead(queue, writer, Turn::Short) else { return };
                    queue = led;
                }
                // A failed write took the writer, and a thread that stopped publishing called one
                // that found the engine closing.
                None if !queue.is_publishing && !queue.written.is_empty() => {
                    let Some(published) = self.publish(queue) else { return };
                    queue = published;
                }
                writer => {
                    queue.writer = writer;
                    self.wait_for_drained(&mut queue, Deadline::NEVER);
                }
            }
        }
        drop(queue);
        self.stop_waiting();
    }
}
