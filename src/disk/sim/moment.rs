//! A disk as it was at one moment of a run.

use super::fault::Operation;
use super::files::Files;

/// A disk as it was right before one of its operations.
#[derive(Clone, Debug)]
pub struct Moment {
    pub(super) number: u64,
    pub(super) operation: Operation,
    pub(super) files: Files,
}

impl Moment {
    /// The number of the operation.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The kind of the operation.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Whether everything was synced, so that a crash takes nothing.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.files.is_synced()
    }

    /// How many pieces were not synced: see [`CrashKind::Subset`](super::CrashKind::Subset).
    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.files.pieces()
    }
}
