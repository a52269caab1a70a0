//! `Settled`: what became of a message, and what the broker is to be told.

use crate::error::{BeginError, ClaimError};
use crate::{Interruption, Outcome, Pending, Record};

/// What the broker is to be told of a message. There will be no fourth variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a message that is not settled comes again"]
pub enum Settlement {
    /// Its operation has run: the broker may forget it. A duplicate is acknowledged too.
    Acknowledge,
    /// Have it delivered again, after a delay: its operation has not run, or runs elsewhere, or is
    /// not known to be stored.
    RetryLater,
    /// No delivery can get it done: put it where a person looks, and acknowledge it after that. If
    /// the consumer dies in between, the message comes again and gets this answer again.
    DeadLetter,
}

/// A message, and what became of it.
#[derive(Debug)]
#[must_use = "a message that is not settled comes again"]
pub struct Settled<M> {
    /// The message.
    pub message: M,
    /// The reason for its settlement.
    pub reason: Reason,
}

/// What became of a message.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reason {
    /// Its handler ran, and the result is stored. A failure
    /// ([`Fault::Final`](crate::Fault::Final)) is a dead letter.
    Ran(Record),
    /// Its operation had run before, and this is the stored result. A failure is a dead letter
    /// again, because the first one may have been lost.
    Replayed(Record),
    /// Another consumer has its claim. It comes again.
    InFlight(Pending),
    /// Its handler says that it did nothing ([`Fault::Retry`](crate::Fault::Retry)); these are the
    /// handler's bytes. It comes again.
    NothingDone(Vec<u8>),
    /// Its handler says that its effect may have happened
    /// ([`Fault::Unknown`](crate::Fault::Unknown)); these are the handler's bytes. Its key is
    /// interrupted. It comes again, and the scope's [`Recovery`](crate::Recovery) decides then.
    Unknown(Vec<u8>),
    /// Its handler panicked. Its key is interrupted, and it comes again.
    Panicked,
    /// Its handler did nothing, and this was the last delivery; or an attempt was interrupted, and
    /// it was delivered more often than
    /// [`Consumer::deliveries_max`](super::Consumer::deliveries_max) allows. A dead letter.
    TooManyDeliveries {
        /// Which delivery it was.
        count: u32,
        /// The attempt before, if that was interrupted: its effect may have happened.
        interrupted: Option<Interruption>,
    },
    /// Its handler ran, but neither the result nor the release could be stored, for this reason.
    /// It comes again, and finds its key interrupted, unless the commit happened after all.
    NotStored(ClaimError),
    /// Its key could not be begun, and its handler did not run. A dead letter if no delivery can
    /// change that: the key can't be used, stands for another content, has an unresolved attempt
    /// or a damaged record. If its operation had run and the result is [no longer
    /// kept](BeginError::Expired), it is settled as that result was. Otherwise it comes again.
    NotBegun(BeginError),
    /// A message before it, of its group or with its key, is to be delivered again. So is this
    /// one, and its handler did not run.
    Behind,
}

impl<M> Settled<M> {
    /// What the broker is to be told.
    pub fn settlement(&self) -> Settlement {
        self.reason.settlement()
    }
}

impl Reason {
    /// What the broker is to be told.
    pub fn settlement(&self) -> Settlement {
        match self {
            Self::Ran(record) | Self::Replayed(record) => of_outcome(record.outcome()),
            Self::NotBegun(error) => of_error(error),
            Self::TooManyDeliveries { .. } => Settlement::DeadLetter,
            Self::InFlight(_)
            | Self::NothingDone(_)
            | Self::Unknown(_)
            | Self::Panicked
            | Self::NotStored(_)
            | Self::Behind => Settlement::RetryLater,
        }
    }
}

fn of_outcome(outcome: Outcome) -> Settlement {
    match outcome {
        Outcome::Success => Settlement::Acknowledge,
        Outcome::Failure => Settlement::DeadLetter,
    }
}

fn of_error(error: &BeginError) -> Settlement {
    match error {
        BeginError::Key(_) | BeginError::KeyReused | BeginError::Unresolved(_) | BeginError::Damaged(_) => {
            Settlement::DeadLetter
        }
        BeginError::Expired(tombstone) => of_outcome(tombstone.outcome()),
        // The engine's state, which another delivery may find changed.
        BeginError::InsideCallback
        | BeginError::InsideTransaction
        | BeginError::OwnKey
        | BeginError::DuplicateInBatch { .. }
        | BeginError::BatchTooLong { .. }
        | BeginError::Busy(_)
        | BeginError::Failed(_)
        | BeginError::Closed
        | BeginError::Io(_) => Settlement::RetryLater,
        #[cfg(feature = "postgres")]
        BeginError::Shared(_) => Settlement::RetryLater,
    }
}
