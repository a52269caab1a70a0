//! Why a file could not be opened.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

#[cfg(feature = "postgres")]
use super::SharedError;
use super::{Damage, IoFailure, OptionError};

/// Why a file could not be opened. Nothing is lost, and a file that isn't an idemkv file is
/// unchanged.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// An option is out of range.
    Option(OptionError),
    /// The path names a directory or another thing that isn't a regular file.
    NotAFile(PathBuf),
    /// The process may not write the file.
    ReadOnly(PathBuf),
    /// Another process, or another engine in this one, has the file open.
    Locked(PathBuf),
    /// The file does not start like an idemkv file, and no log beside it shows that it was one. An
    /// empty file has this error too.
    NotIdemkv(PathBuf),
    /// The path is empty.
    NoPath,
    /// The name of the file is too long: the names of its log and of temporary files are up to 15
    /// bytes longer.
    NameTooLong {
        /// The path that was given.
        path: PathBuf,
        /// Bytes of the name.
        len: usize,
        /// The most bytes that it may have.
        max: usize,
    },
    /// The file was written by a newer version of this crate.
    NewerVersion {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest version this crate reads.
        supported: u32,
    },
    /// The file was written by an older version of this crate, in a format that this version no
    /// longer reads.
    OlderVersion {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u32,
        /// The oldest version this crate reads.
        supported: u32,
    },
    /// The file's log is missing, and the file was not closed cleanly: acknowledged completions
    /// are in that log.
    LogMissing {
        /// Where the log should be.
        log: PathBuf,
        /// The name that the file was last opened by. Its log lay beside that: the same name with
        /// `-wal` appended.
        opened_as: Box<str>,
    },
    /// There is a log, but not the file that it belongs to: the file is gone, or has another name.
    LogWithoutFile(PathBuf),
    /// The log belongs to another file.
    LogOfAnotherFile(PathBuf),
    /// The log is from an earlier opening of the file. Since then the file was opened by another
    /// name, or the log was restored from a copy; and the file was not closed cleanly.
    /// Acknowledged completions are in the log of the last opening.
    LogOfEarlierOpening {
        /// The log that was found.
        log: PathBuf,
        /// The name that the file was last opened by. Its log lay beside that: the same name with
        /// `-wal` appended.
        opened_as: Box<str>,
    },
    /// The file is a backup that was never opened, and beside it is the log of the file that it
    /// replaced.
    LogBesideBackup(PathBuf),
    /// Bytes on disk are not what was written.
    Damaged(Damage),
    /// The operating system refused.
    Io(IoFailure),
    /// The shared store could not be connected to.
    #[cfg(feature = "postgres")]
    Shared(SharedError),
}

const READ_ONLY: &str = "is not writable, and the engine has to write to it; change its permissions";
const LOCKED: &str = "is open in another engine, and one process at a time can have it; close the other";
const NOT_IDEMKV: &str = "is not an idemkv file as far as can be told, and was left alone: it is another \
                          program's, or its first page is damaged. Find out which, and restore a damaged file \
                          and its log from a backup; a new file would know nothing of operations that were done";

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(error) => error.fmt(f),
            Self::NotAFile(path) => {
                write!(f, "{} is not a regular file; give the path of a file", path.display())
            }
            Self::ReadOnly(path) => write!(f, "{} {READ_ONLY}", path.display()),
            Self::Locked(path) => write!(f, "{} {LOCKED}", path.display()),
            Self::NotIdemkv(path) => write!(f, "{} {NOT_IDEMKV}", path.display()),
            Self::NoPath => f.write_str("the path is empty; give the path of a file"),
            Self::NameTooLong { path, len, max } => write!(
                f,
                "the name of {} has {len} bytes, and its log's would be too long; choose one of at most {max} bytes",
                path.display()
            ),
            Self::NewerVersion { file, found, supported } => write!(
                f,
                "{} has format version {found}, and this build reads up to {supported}; use a newer idemkv",
                file.display()
            ),
            Self::OlderVersion { file, found, supported } => write!(
                f,
                "{} has format version {found}, and this build reads from {supported} on; open it with the idemkv that wrote it",
                file.display()
            ),
            Self::LogMissing { log, opened_as } => write!(
                f,
                "the log {} is missing and the file was not closed cleanly, so results may be in it; put it back \
                 (the file was last opened as {opened_as})",
                log.display()
            ),
            Self::LogWithoutFile(path) => write!(
                f,
                "the log {} is there, but not the file it belongs to, which is gone or has another name; put the file \
                 back. If it is lost, move the log away, keep it, and restore a backup",
                path.display()
            ),
            Self::LogOfAnotherFile(path) => {
                write!(f, "the log {} belongs to another file; put the right one back", path.display())
            }
            Self::LogOfEarlierOpening { log, opened_as } => write!(
                f,
                "the log {} is from an earlier opening; the file was last opened as {opened_as} and not closed cleanly: \
                 open it by that name, or put the log {opened_as}-wal in the place of this one",
                log.display()
            ),
            Self::LogBesideBackup(path) => write!(
                f,
                "the file is a backup, and the log {} is not part of it; move the log away to go on without its contents",
                path.display()
            ),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Io(failure) => {
                write!(f, "{failure}; {}", failure.advice())
            }
            #[cfg(feature = "postgres")]
            Self::Shared(error) => error.fmt(f),
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Option(error) => Some(error),
            Self::Damaged(damage) => Some(damage),
            Self::Io(failure) => Some(failure),
            #[cfg(feature = "postgres")]
            Self::Shared(error) => Some(error),
            Self::NotAFile(_)
            | Self::ReadOnly(_)
            | Self::Locked(_)
            | Self::NotIdemkv(_)
            | Self::NoPath
            | Self::NameTooLong { .. }
            | Self::NewerVersion { .. }
            | Self::OlderVersion { .. }
            | Self::LogMissing { .. }
            | Self::LogWithoutFile(_)
            | Self::LogOfAnotherFile(_)
            | Self::LogOfEarlierOpening { .. }
            | Self::LogBesideBackup(_) => None,
        }
    }
}

impl OpenError {
    /// The error for a file that the operating system refused to open.
    pub(crate) fn from_io(file: &Path, doing: &'static str, error: io::Error) -> Self {
        // The system's own `EAGAIN` has a number, and is short of something else than the lock.
        if error.kind() == io::ErrorKind::WouldBlock && error.raw_os_error().is_none() {
            return Self::Locked(file.to_owned());
        }
        Self::Io(IoFailure::new(file, doing, error))
    }
}

impl From<OptionError> for OpenError {
    fn from(error: OptionError) -> Self {
        Self::Option(error)
    }
}

impl From<Damage> for OpenError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl From<IoFailure> for OpenError {
    fn from(failure: IoFailure) -> Self {
        Self::Io(failure)
    }
}

#[cfg(feature = "postgres")]
impl From<SharedError> for OpenError {
    fn from(error: SharedError) -> Self {
        Self::Shared(error)
    }
}
