//! A key that can't be used.

use std::error::Error;
use std::fmt;

/// A key that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The key has no bytes.
    Empty,
    /// The key is longer than the limit.
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit, see `Options::max_key_bytes`.
        max: usize,
    },
    /// The name of the key's scope is longer than the limit.
    ScopeTooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the idempotency key is empty; send one of at least one byte"),
            Self::TooLong { len, max } => {
                write!(
                    f,
                    "the idempotency key has {len} bytes, and the limit is {max}; send a shorter one, or a digest of it"
                )
            }
            Self::ScopeTooLong { len, max } => {
                write!(f, "the scope's name has {len} bytes, and the limit is {max}; choose a shorter one")
            }
        }
    }
}

impl Error for KeyError {}
