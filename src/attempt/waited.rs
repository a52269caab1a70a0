//! `Waited`: what a wait for a claim came to.

use super::Ended;
use crate::Record;
use crate::error::BeginError;

/// The outcome of a wait for a claim. There will be no other variant: these are all the ways in
/// which a claim ends, and `TimedOut`.
#[derive(Clone, Debug)]
pub enum Waited {
    /// It was completed or failed: here is the result.
    Done(Record),
    /// It was released, or the key was forgotten: begin again.
    Vacant,
    /// It ended without an outcome: begin again, and the answer says so.
    Interrupted,
    /// It is still in flight.
    TimedOut,
}

impl Waited {
    pub(crate) fn of(ended: Ended) -> Result<Self, BeginError> {
        match ended {
            Ended::Done(record) => Ok(Self::Done(record)),
            Ended::Vacated => Ok(Self::Vacant),
            Ended::Interrupted => Ok(Self::Interrupted),
            Ended::Failed(failure) => Err(BeginError::Failed(*failure)),
            Ended::Closed => Err(BeginError::Closed),
        }
    }
}

impl std::fmt::Display for Waited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(record) => write!(f, "done: {}", record.outcome()),
            Self::Vacant => f.write_str("released or forgotten"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::TimedOut => f.write_str("still out"),
        }
    }
}
