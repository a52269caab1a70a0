//! Why an engine has stopped.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use super::{Damage, FORKED, IoFailure};
#[cfg(feature = "postgres")]
use super::{NO_FILE, SharedError};

/// Why the engine stopped granting claims. Only the next opening decides whether the commits of
/// that moment count.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Failure {
    /// Writing or syncing failed; the bytes of the failed call may or may not be on disk.
    Io(IoFailure),
    /// The file takes no writes at the moment: a read of it failed, or it has to be opened again
    /// and an application is reading its tables. Nothing was written, and nothing acknowledged is
    /// lost. An open engine continues and tries again by itself.
    FileNotReady(IoFailure),
    /// The store is damaged.
    Damaged(Damage),
    /// A thread panicked while it committed for its group.
    Panicked,
    /// The file or its log was deleted, renamed or replaced while it was open: its path no longer
    /// leads to the file that this engine writes. Results acknowledged within the last two
    /// seconds may be only in the file that was taken away.
    TakenAway(PathBuf),
    /// This process is a forked child of the process that opened the file, and the parent still
    /// has the file. The child grants, writes and unlocks nothing.
    Forked,
    /// The file was opened with [`Options::read_only`](crate::Options::read_only): the engine
    /// reads it and never changes it.
    ReadOnly,
    /// The call works on a file of idemkv, and this engine is on another store. Nothing has
    /// stopped.
    #[cfg(feature = "postgres")]
    NoFile,
    /// Another process connected to the shared store with this one's instance name, so this one
    /// grants nothing more.
    #[cfg(feature = "postgres")]
    Replaced,
}

const READ_ONLY: &str =
    "the file was opened to be read only; open it without `read_only` to claim or change keys";

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::TakenAway(path) = self {
            let path = path.display();
            return write!(
                f,
                "the engine stopped because {path} was deleted, renamed or replaced while it was open: put the file and its log \
                 back where they were, and open it again"
            );
        }
        if let Self::Forked = self {
            return f.write_str(FORKED);
        }
        if let Self::ReadOnly = self {
            return f.write_str(READ_ONLY);
        }
        #[cfg(feature = "postgres")]
        if let Self::NoFile = self {
            return f.write_str(NO_FILE);
        }
        #[cfg(feature = "postgres")]
        if let Self::Replaced = self {
            return SharedError::Replaced.fmt(f);
        }
        if let Self::Io(failure) = self
            && failure.is_disk_full()
        {
            // Of a close most of all: the log has what the file has no room for.
            return write!(
                f,
                "the disk is full, so the file could not be brought up to date; nothing acknowledged is lost: make room, and open \
                 the file again: {failure}"
            );
        }
        if let Self::FileNotReady(failure) = self {
            return write!(
                f,
                "the file takes no writes at the moment, so it was not brought up to date; nothing acknowledged is lost, and the \
                 engine, or the next opening, tries again: {failure}"
            );
        }
        f.write_str("the engine stopped after a failed commit; open the file again to go on: ")?;
        match self {
            Self::Io(failure) | Self::FileNotReady(failure) => failure.fmt(f),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Panicked => f.write_str("a thread panicked while it committed"),
            Self::TakenAway(_) => Ok(()),
            Self::Forked => f.write_str(FORKED),
            Self::ReadOnly => f.write_str(READ_ONLY),
            #[cfg(feature = "postgres")]
            Self::NoFile | Self::Replaced => Ok(()),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(failure) | Self::FileNotReady(failure) => Some(failure),
            Self::Damaged(damage) => Some(damage),
            Self::Panicked | Self::TakenAway(_) | Self::Forked | Self::ReadOnly => None,
            #[cfg(feature = "postgres")]
            Self::NoFile | Self::Replaced => None,
        }
    }
}
