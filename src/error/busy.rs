//! Limits that held for too long.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::IoFailure;

/// A limit that held for longer than a caller may wait.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Busy {
    /// The commit queue, or the log behind it, stayed full.
    QueueFull {
        /// How long the call was prepared to wait: `Options::queue_timeout`. Zero for a call that
        /// does not wait: a member of a batch if only the end of claims could free space, or any
        /// call, if all fences up to the next checkpoint are used up.
        waited: Duration,
    },
    /// The claim was granted, but each time its lease ran out before it reached the caller. Each
    /// grant was withdrawn, and does not count as an attempt.
    LeaseTooShort {
        /// How long the call was prepared to wait: `Options::queue_timeout`.
        waited: Duration,
    },
    /// As many claims are in flight as the limit allows.
    TooManyClaims {
        /// The limit, see `Options::max_in_flight` and `Policy::max_in_flight`.
        max: usize,
    },
    /// As many calls wait for claims of other callers as the limit allows.
    TooManyWaiters {
        /// The limit, see `Options::max_waiters` and `SharedOptions::max_waiters`.
        max: usize,
    },
    /// The progress of all claims takes as much memory as the limit allows.
    TooManyProgressBytes {
        /// The limit, see `Options::max_progress_bytes`.
        max: usize,
    },
    /// The disk has no space for a new claim and its end. Completions within
    /// `Options::reserve_bytes` of claims already granted still succeed.
    DiskFull(IoFailure),
    /// The file takes no writes at the moment: a read of it failed, or it has to be opened again
    /// and an application is reading its tables. Nothing was written. The engine tries again by
    /// itself.
    FileNotReady(IoFailure),
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull { waited } if waited.is_zero() => f.write_str(
                "there is no space at the moment, and this call does not wait for it; try again later, end claims that are \
                 in flight, or raise `log_bytes`",
            ),
            Self::QueueFull { waited } => {
                write!(
                    f,
                    "the log or the commit queue was full for {} ms; try again later, with fewer calls at once",
                    waited.as_millis()
                )
            }
            Self::LeaseTooShort { waited } => {
                write!(
                    f,
                    "the claim's lease ran out before the claim was durable, each time within {} ms; declare a lease that is longer \
                     than a commit takes, or try again later",
                    waited.as_millis()
                )
            }
            Self::TooManyClaims { max } => {
                write!(
                    f,
                    "{max} claims are in flight, which is the limit; try again later, or raise `max_in_flight`"
                )
            }
            Self::TooManyWaiters { max } => write!(
                f,
                "{max} calls wait for claims of others, which is the limit; try again later, or raise `max_waiters`"
            ),
            Self::TooManyProgressBytes { max } => {
                write!(
                    f,
                    "the progress of claims takes {max} bytes of memory, which is the limit; save less, or raise `max_progress_bytes`"
                )
            }
            Self::DiskFull(failure) => {
                write!(
                    f,
                    "the disk has no room for what this call may need; free some and try again: {failure}"
                )
            }
            Self::FileNotReady(failure) => {
                write!(
                    f,
                    "the file takes no writes at the moment, and nothing was written; try again later: {failure}"
                )
            }
        }
    }
}

impl Error for Busy {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::QueueFull { .. }
            | Self::LeaseTooShort { .. }
            | Self::TooManyClaims { .. }
            | Self::TooManyWaiters { .. }
            | Self::TooManyProgressBytes { .. } => None,
            Self::DiskFull(failure) | Self::FileNotReady(failure) => Some(failure),
        }
    }
}
