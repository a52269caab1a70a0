//! Why the store did not take a commit.

use std::path::Path;

use super::backend::Faults;
use super::backend_error::BackendError;
use crate::error::{Failure, IoFailure, OpenError};

/// Why a checkpoint failed.
#[derive(Clone, Debug)]
pub(crate) enum StoreError {
    /// The disk is full. Nothing was written that counts; [`Store::reopen`], then try again.
    Full(IoFailure),
    /// The file can't be read or opened again at the moment. Nothing was written that counts; try
    /// again.
    Later(IoFailure),
    /// The work of an application spoiled its own transaction. Nothing was written, and the store
    /// is as it was.
    Poisoned,
    /// Any other error: the writes may or may not count.
    Failed(Failure),
}

impl StoreError {
    /// The meaning of an error for the writer, after these faults. Before a failed commit is made
    /// again, ask [`Faults::may_have_committed`].
    pub(super) fn of(trouble: BackendError, faults: &Faults, path: &Path) -> Self {
        let is_read = trouble.is_io() && !faults.has_written_badly();
        // A sync that ran out of room is a failed sync like any other: what it left behind is
        // unknown. Nor does a file that can't be made shorter say that nothing was written.
        let may_be_full = !faults.sync_failed() && !faults.stayed_long();
        // An application may go on after a write of its own that found the disk full. Then the
        // error is only that redb has stopped.
        let is_earlier = trouble.is_io() && !trouble.is_answer_of_disk() && !faults.may_have_committed();
        let earlier = faults.write_failed().filter(|_| is_earlier);
        let earlier = earlier.map(|kind| IoFailure::new(path, "accessing", kind.into()));
        let failure = trouble.into_failure(path);
        let Failure::Io(io) = &failure else { return Self::Failed(failure) };
        let answer = earlier.as_ref().unwrap_or(io);
        if answer.is_disk_full() && may_be_full {
            return Self::Full(answer.clone());
        }
        if is_read {
            return Self::Later(io.clone());
        }
        Self::Failed(failure)
    }

    /// As an error of an opening.
    pub(crate) fn into_open_error(self) -> OpenError {
        match self {
            Self::Full(failure)
            | Self::Later(failure)
            | Self::Failed(Failure::Io(failure) | Failure::FileNotReady(failure)) => OpenError::Io(failure),
            Self::Failed(Failure::Damaged(damage)) => OpenError::Damaged(damage),
            Self::Poisoned => unreachable!("no application has a transaction yet"),
            #[cfg(feature = "postgres")]
            Self::Failed(Failure::NoFile | Failure::Replaced) => unreachable!("the store is in a file"),
            Self::Failed(Failure::Panicked | Failure::TakenAway(_) | Failure::Forked | Failure::ReadOnly) => {
                unreachable!(
                    "the store turns panics into damage, looks at no path, and is opened where it is used"
                )
            }
        }
    }
}
