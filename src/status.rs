//! `Status`: the state of a key, as a lookup returns it.

use crate::attempt::interruption::{AttemptInfo, Interruption};
use crate::error::ReadError;
use crate::record::Record;
use crate::record::tombstone::Tombstone;

/// The state of a key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Status {
    /// Nothing: a begin would be granted a first claim.
    Vacant,
    /// A claim is in flight.
    InFlight(AttemptInfo),
    /// The last claim ended without an outcome.
    Interrupted(Interruption),
    /// There is a result.
    Done(Record),
    /// There was a result. It is no longer replayed, but the key is still remembered.
    Expired(Tombstone),
    /// There is, or was, a result, and its record can't be read. Only errors of a superseded
    /// claim or token have this status; a lookup returns the read error.
    Unreadable(ReadError),
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vacant => f.write_str("vacant"),
            Self::InFlight(attempt) => write!(f, "in flight: {attempt}"),
            Self::Interrupted(attempt) => write!(f, "interrupted: {attempt}"),
            Self::Done(record) => write!(f, "done: {}, completed {}", record.outcome(), record.completed()),
            Self::Expired(tombstone) => write!(f, "expired: {tombstone}"),
            Self::Unreadable(error) => write!(f, "its record can't be read: {error}"),
        }
    }
}
