//! Why a claim was refused something.

use std::error::Error;
use std::fmt;

use super::{CommitError, OptionError, too_long_a_batch};
use crate::status::Status;

/// Why a claim was refused something.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClaimError {
    /// The body, or the progress, is longer than the limit.
    BodyTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit, see `Options::max_body_bytes`.
        max: usize,
    },
    /// A time of the [`Completion`](crate::Completion) is out of range.
    Option(OptionError),
    /// The claim is not the current one for its key: its lease ran out or, on a shared store, the
    /// session of its process. This is the key's state now.
    Superseded(Box<Status>),
    /// The claim's scope has no leases, and a claim without one would be lost with its token.
    NoLease,
    /// The call was made inside another call of [`Claim::complete_in`](crate::Claim::complete_in),
    /// or of [`Engine::read_tables`](crate::Engine::read_tables), and would wait for that call.
    InsideTransaction,
    /// The work of a [`Claim::complete_in`](crate::Claim::complete_in) spoiled its transaction: it
    /// caught a panic of one of its tables, or leaked a table. Nothing was written.
    TransactionPoisoned,
    /// The claim is on a key of a file, and the call needs one of a shared store.
    #[cfg(feature = "postgres")]
    NotShared,
    /// The batch has too many claims; none of them was ended.
    BatchTooLong {
        /// Claims in it.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The commit did not happen, or is not known to have happened.
    Commit(CommitError),
}

impl ClaimError {
    /// Whether the same call can succeed later, with no change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        #[cfg(feature = "postgres")]
        if let Self::Commit(CommitError::Shared(error)) = self {
            return error.is_retryable();
        }
        matches!(self, Self::Commit(CommitError::Busy(_)))
    }
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BodyTooLarge { len, max } => write!(
                f,
                "the body has {len} bytes, and the limit is {max}; complete the claim with a smaller one, or raise `max_body_bytes`"
            ),
            Self::Superseded(current) => {
                let now = match &**current {
                    Status::Vacant => "vacant",
                    Status::InFlight(_) => "in flight with another claim",
                    Status::Interrupted(_) => "interrupted",
                    Status::Done(_) => "done",
                    Status::Expired(_) => "done, and its result no longer kept",
                    Status::Unreadable(_) => "done, but its record can't be read",
                };
                write!(
                    f,
                    "the claim was lost, by the end of its lease or of its process's session, and its key is {now}; find out what became of the operation before acting"
                )
            }
            Self::Option(error) => write!(f, "{error}; end the claim again with a value in that range"),
            Self::NoLease => f.write_str(
                "the claim has no lease, so it can't be handed over as a token; declare a policy with a lease for its scope",
            ),
            Self::InsideTransaction => f.write_str(
                "a transaction can't be started inside another; complete the claims one after the other",
            ),
            Self::TransactionPoisoned => f.write_str(
                "the work caught a panic of a table, or leaked a table, so its transaction was undone; let the panic pass, drop every table, \
                 and complete the claim again",
            ),
            #[cfg(feature = "postgres")]
            Self::NotShared => f.write_str(
                "the claim is on a key of a file; complete it with `complete` or `complete_in`",
            ),
            Self::BatchTooLong { len, max } => too_long_a_batch(f, *len, *max),
            Self::Commit(error) => error.fmt(f),
        }
    }
}

impl Error for ClaimError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Option(error) => Some(error),
            Self::BodyTooLarge { .. }
            | Self::Superseded(_)
            | Self::NoLease
            | Self::InsideTransaction
            | Self::TransactionPoisoned
            | Self::BatchTooLong { .. } => None,
            #[cfg(feature = "postgres")]
            Self::NotShared => None,
            Self::Commit(error) => Some(error),
        }
    }
}

impl From<CommitError> for ClaimError {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}
