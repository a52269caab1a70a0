//! Why there is no backup.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use super::{CommitError, IoFailure, OpenError};

/// Why a backup failed. Nothing of it is left behind, and the engine continues, unless it had
/// stopped before.
#[derive(Debug)]
#[non_exhaustive]
pub enum BackupError {
    /// There is already a file of that name, or a file with the name of its log. It was not
    /// changed.
    Exists(PathBuf),
    /// Another backup of this engine is being made.
    Running,
    /// The call was made inside a `complete_in` or a `read_tables` of the same engine.
    InsideTransaction,
    /// The file could not be read, or the copy could not be written.
    Io(IoFailure),
    /// The checkpoint before the copy failed, or the engine was closed meanwhile.
    Commit(CommitError),
    /// The copy does not open.
    Copy(OpenError),
}

impl From<IoFailure> for BackupError {
    fn from(failure: IoFailure) -> Self {
        Self::Io(failure)
    }
}

impl From<CommitError> for BackupError {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}

impl From<OpenError> for BackupError {
    fn from(error: OpenError) -> Self {
        if let OpenError::Io(failure) = error { Self::Io(failure) } else { Self::Copy(error) }
    }
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(path) => {
                write!(
                    f,
                    "{} exists already; give the backup another name, or move that away",
                    path.display()
                )
            }
            Self::Running => {
                f.write_str("another backup of this engine is being made; wait until it is there")
            }
            Self::InsideTransaction => f.write_str(
                "a backup can't be made inside a transaction of the same engine; make it afterwards",
            ),
            Self::Io(failure) => write!(f, "no backup was made: {failure}"),
            Self::Commit(error) => write!(f, "no backup was made: {error}"),
            Self::Copy(error) => write!(f, "no backup was made, because the copy does not open: {error}"),
        }
    }
}

impl Error for BackupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(failure) => Some(failure),
            Self::Commit(error) => Some(error),
            Self::Copy(error) => Some(error),
            Self::Exists(_) | Self::Running | Self::InsideTransaction => None,
        }
    }
}
