//! Why the keys of a file were not copied to a shared store.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::KeyHash;

use super::{OpenError, OptionError, ReadError, SharedError};

/// Why the keys of a file were not copied to a shared store. The file was not changed, and the
/// tables have no keys, unless the error is [`SharedError::Unknown`].
#[derive(Debug)]
#[non_exhaustive]
pub enum CopyError {
    /// The engine is not on a file that was opened with
    /// [`Options::read_only`](crate::Options::read_only), so its keys can change meanwhile.
    NotReadOnly,
    /// Claims were handed over as tokens, and stand. A token is good for its file alone.
    InFlight {
        /// How many.
        keys: usize,
    },
    /// This file was copied into these tables before. A service may have used them since.
    AlreadyCopied,
    /// The tables have been used, and not by a copy of this file.
    InUse,
    /// The server's clock and that of this machine differ too much. One of them is wrong, so
    /// copied times could be wrong too.
    Clocks {
        /// By how much.
        apart: Duration,
    },
    /// The file has a key that a shared store does not take.
    KeyTooLong {
        /// Its short name.
        key: KeyHash,
        /// Bytes of the key.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A scope of the file has a policy that a shared store does not have.
    Policy {
        /// The scope.
        scope: Box<[u8]>,
        /// What is wrong with it.
        error: OptionError,
    },
    /// The file could not be read.
    Read(ReadError),
    /// The store could not be reached, or refused.
    Store(OpenError),
}

impl From<OpenError> for CopyError {
    fn from(error: OpenError) -> Self {
        Self::Store(error)
    }
}

impl From<SharedError> for CopyError {
    fn from(error: SharedError) -> Self {
        Self::Store(error.into())
    }
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReadOnly => f.write_str(
                "keys are copied from a file that was opened with `Options::read_only`, so that they do not change meanwhile",
            ),
            Self::InFlight { keys } => write!(
                f,
                "{keys} claims were handed over as tokens, which are good for this file alone; wait for their ends, or \
                 for the ends of their leases"
            ),
            Self::AlreadyCopied => f.write_str(
                "this file was copied into these tables before; nothing was copied now. Start no service on the file",
            ),
            Self::InUse => f.write_str(
                "the tables have been used; copy into a schema of another name, or drop this one if nothing in it is needed",
            ),
            Self::Clocks { apart } => write!(
                f,
                "the clocks of this machine and of the server differ by {} s; set them right, and copy again",
                apart.as_secs()
            ),
            Self::KeyTooLong { key, len, max } => write!(
                f,
                "the key with hash {key} has {len} bytes, and a shared store takes {max}; wait until it expires, or \
                 forget it"
            ),
            Self::Policy { scope, error } => {
                write!(f, "the policy of scope \"{}\" can't be copied: {error}", scope.escape_ascii())
            }
            Self::Read(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl Error for CopyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Policy { error, .. } => Some(error),
            Self::Read(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::NotReadOnly
            | Self::AlreadyCopied
            | Self::InFlight { .. }
            | Self::InUse
            | Self::Clocks { .. }
            | Self::KeyTooLong { .. } => None,
        }
    }
}
