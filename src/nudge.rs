//! A bell for one thread: it is enough that one ring waits for it.

use crate::clock::Deadline;
use crate::sync::{Receiver, RecvTimeoutError, Sender, bounded};

/// The button.
#[derive(Clone, Debug)]
pub(crate) struct Nudge(Sender<()>);

/// The bell.
#[derive(Debug)]
pub(crate) struct Nudges(Receiver<()>);

impl Nudge {
    pub(crate) fn pair() -> (Self, Nudges) {
        let (nudge, nudges) = bounded(1);
        (Self(nudge), Nudges(nudges))
    }

    /// Rings, unless a ring waits already, or nobody listens any more.
    pub(crate) fn nudge(&self) {
        self.0.try_send(()).unwrap_or(());
    }
}

impl Nudges {
    /// Waits for a ring, until the deadline; `false` once there is nobody left to ring.
    pub(crate) fn wait(&self, deadline: Deadline) -> bool {
        let rung = match deadline.instant() {
            Some(at) => self.0.recv_deadline(at),
            None => self.0.recv().map_err(|_all_gone| RecvTimeoutError::Disconnected),
        };
        rung != Err(RecvTimeoutError::Disconnected)
    }

    /// Whether a ring waited.
    #[cfg(test)]
    pub(crate) fn take(&self) -> bool {
        self.0.try_recv().is_ok()
    }
}
