//! Why the store did not take a commit.

use crate::error::{Failure, IoFailure, OpenError};

/// Why a checkpoint failed.
#[derive(Clone, Debug)]
pub(crate) enum StoreError {
    /// The disk is full. Nothing was written that counts; [`Store::reopen`], then try again.
    Full(IoFailure),
    /// The file can't be read or opened again at the moment. Nothing was written that counts; try
    /// again.
    Later(IoFailure),
    /// Any other error: the writes may or may not count.
    Failed(Failure),
}

impl StoreError {
    /// As an error of an opening.
    pub(crate) fn into_open_error(self) -> OpenError {
        match self {
            Self::Full(failure)
            | Self::Later(failure)
            | Self::Failed(Failure::Io(failure) | Failure::FileNotReady(failure)) => OpenError::Io(failure),
            Self::Failed(Failure::Damaged(damage)) => OpenError::Damaged(damage),
            Self::Failed(Failure::Panicked | Failure::TakenAway(_) | Failure::Forked | Failure::ReadOnly) => {
                unreachable!(
                    "the store turns panics into damage, looks at no path, and is opened where it is used"
                )
            }
        }
    }
}
