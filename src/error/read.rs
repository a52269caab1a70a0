//! Why a key could not be looked up.

use std::error::Error;
use std::fmt;

use super::{CLOSED, Damage, FORKED, IoFailure, KeyError};
#[cfg(feature = "postgres")]
use super::{INSIDE_CALLBACK, NO_FILE, SharedError};

/// Why a record on disk could not be read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The key can't be used.
    Key(KeyError),
    /// The engine is closed.
    Closed,
    /// This process is a forked child of the one that opened the file; see
    /// [`Failure::Forked`](crate::Failure::Forked).
    Forked,
    /// The bytes on disk are damaged.
    Damaged(Damage),
    /// The operating system refused.
    Io(IoFailure),
    /// The call reads a file of idemkv, and this engine is on another store.
    #[cfg(feature = "postgres")]
    NoFile,
    /// A waker, or other code that an engine calls, made a blocking call to a shared store, which
    /// would wait for its own thread.
    #[cfg(feature = "postgres")]
    InsideCallback,
    /// The shared store gave no answer.
    #[cfg(feature = "postgres")]
    Shared(SharedError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => error.fmt(f),
            Self::Closed => f.write_str(CLOSED),
            Self::Forked => f.write_str(FORKED),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Io(failure) => failure.fmt(f),
            #[cfg(feature = "postgres")]
            Self::NoFile => f.write_str(NO_FILE),
            #[cfg(feature = "postgres")]
            Self::InsideCallback => f.write_str(INSIDE_CALLBACK),
            #[cfg(feature = "postgres")]
            Self::Shared(error) => error.fmt(f),
        }
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Key(error) => Some(error),
            Self::Closed | Self::Forked => None,
            Self::Damaged(damage) => Some(damage),
            Self::Io(failure) => Some(failure),
            #[cfg(feature = "postgres")]
            Self::NoFile | Self::InsideCallback => None,
            #[cfg(feature = "postgres")]
            Self::Shared(error) => Some(error),
        }
    }
}

impl From<KeyError> for ReadError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

#[cfg(feature = "postgres")]
impl From<SharedError> for ReadError {
    fn from(error: SharedError) -> Self {
        Self::Shared(error)
    }
}
