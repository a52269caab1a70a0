//! What the engine's refusals mean for the client of a request.

use super::problem::Fault;
use super::problem_kind::ProblemKind;
use super::run_attempt::RunAttempt;
use crate::{BeginError, Busy, ClaimError, Fingerprint, KeyError, ReadError, Status};
#[cfg(feature = "postgres")]
use crate::{CommitError, SharedError};

const BUSY: &str = "The service has too many operations at once. Send the request again later.";
const FAILED: &str = "The service can't tell whether this operation has run. Nothing was started; send the \
                      request again later, with the same key.";
const NOT_STORED: &str = "The operation has run, and its result could not be stored. Send the request again \
                          later, with the same key.";
#[cfg(feature = "postgres")]
const MAY_BE_STORED: &str = "The operation has run, and whether its result is stored is not known yet. Send the \
                             request again later, with the same key.";
pub(super) const UNKNOWN: &str = "An earlier request with this key was interrupted, and its effect may have \
                                  happened. Look for it before anything else; a retry gets this answer until \
                                  the service's owner has resolved the key.";
const LATE: &str = "The operation lost its claim before its result was stored. Its effect may have happened. Look \
                    for it before anything else.";
const EXPIRED: &str = "The operation has run, and its result is no longer kept. Look for its effect; a new key would \
                       run it again.";
const NOT_READ: &str = "The stored response can't be read at the moment.";
const DAMAGED: &str = "The stored response is damaged.";
pub(super) const IN_FLIGHT: &str =
    "A request with this key is being processed. Send the request again later, with the same key.";

/// Why nothing was begun.
pub(super) fn of_begin(error: BeginError) -> Fault {
    let (kind, detail) = match &error {
        BeginError::Key(KeyError::ScopeTooLong { .. }) => {
            (ProblemKind::Misconfigured, "The name of the scope is too long.")
        }
        BeginError::Key(KeyError::Empty) => (ProblemKind::KeyMalformed, "The key is empty."),
        BeginError::Key(KeyError::TooLong { .. }) => (ProblemKind::KeyMalformed, "The key is too long."),
        BeginError::KeyReused => (
            ProblemKind::KeyReused,
            "The key was used for another request. A new operation gets a new key. A retry repeats the first \
             request unchanged, with the same key.",
        ),
        BeginError::Unresolved(_) => (ProblemKind::OutcomeUnknown, UNKNOWN),
        BeginError::Expired(_) => (ProblemKind::Expired, EXPIRED),
        // The claim is another's, and all places of those that wait are taken.
        BeginError::Busy(Busy::TooManyWaiters { .. }) => (ProblemKind::InFlight, IN_FLIGHT),
        BeginError::Busy(_) => (ProblemKind::StoreBusy, BUSY),
        BeginError::Failed(_) | BeginError::Closed => (ProblemKind::StoreFailed, FAILED),
        #[cfg(feature = "postgres")]
        BeginError::Shared(SharedError::Busy { .. }) => (ProblemKind::StoreBusy, BUSY),
        #[cfg(feature = "postgres")]
        BeginError::Shared(_) => (ProblemKind::StoreFailed, FAILED),
        BeginError::Io(_) => (ProblemKind::StoreFailed, NOT_READ),
        BeginError::Damaged(_) => (ProblemKind::RecordUnreadable, DAMAGED),
        BeginError::InsideCallback
        | BeginError::InsideTransaction
        | BeginError::OwnKey
        | BeginError::DuplicateInBatch { .. }
        | BeginError::BatchTooLong { .. } => (
            ProblemKind::Misconfigured,
            "The service asked for this key where it must not. Nothing was started.",
        ),
    };
    Fault::new(kind, detail).because(error)
}

/// Why the result of an operation is not stored, where all was tried.
pub(super) fn of_end(reason: &ClaimError, attempt: RunAttempt, request: &Fingerprint) -> Fault {
    let fault = match reason {
        // The claim was lost, and a retry gets what the key has now.
        ClaimError::Superseded(status) => match &**status {
            Status::InFlight(_) => Fault::new(ProblemKind::InFlight, IN_FLIGHT),
            Status::Expired(tombstone) if tombstone.fingerprint() == request => {
                Fault::new(ProblemKind::Expired, EXPIRED)
            }
            Status::Unreadable(ReadError::Damaged(_)) => Fault::new(ProblemKind::RecordUnreadable, DAMAGED),
            Status::Unreadable(_) => Fault::new(ProblemKind::StoreFailed, NOT_READ),
            Status::Vacant => Fault::new(ProblemKind::OutcomeUnknown, LATE).reruns_if(true),
            Status::Interrupted(now) if now.fingerprint() == request => {
                Fault::new(ProblemKind::OutcomeUnknown, LATE).reruns_if(attempt.reruns_after(now.attempt()))
            }
            // The key stands for another request by now.
            Status::Expired(_) | Status::Interrupted(_) | Status::Done(_) => {
                Fault::new(ProblemKind::OutcomeUnknown, LATE)
            }
        },
        #[cfg(feature = "postgres")]
        ClaimError::Commit(CommitError::Shared(SharedError::Unknown(_))) => {
            Fault::new(ProblemKind::StoreFailed, MAY_BE_STORED)
        }
        #[cfg(feature = "postgres")]
        ClaimError::NotShared => Fault::new(ProblemKind::StoreFailed, NOT_STORED),
        ClaimError::BodyTooLarge { .. }
        | ClaimError::Option(_)
        | ClaimError::NoLease
        | ClaimError::InsideTransaction
        | ClaimError::TransactionPoisoned
        | ClaimError::BatchTooLong { .. }
        | ClaimError::Commit(_) => Fault::new(ProblemKind::StoreFailed, NOT_STORED),
    };
    fault.because(reason.clone())
}
