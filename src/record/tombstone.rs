//! `Tombstone`: the rest of a record that is no longer replayed.

use std::fmt;

use crate::record::Record;
use crate::{Fence, Fingerprint, Outcome, Timestamp};

/// The rest of an expired record: it says that the operation has run, and when. The body is gone.
///
/// A very late retry gets it instead of running again: see
/// [`Options::tombstone_ttl`](crate::Options::tombstone_ttl).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    outcome: Outcome,
    attempt: u32,
    fence: Fence,
    fingerprint: Fingerprint,
    completed: Timestamp,
    expired: Timestamp,
    remembered_until: Timestamp,
}

impl Tombstone {
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            outcome: record.outcome(),
            attempt: record.attempt(),
            fence: record.fence(),
            fingerprint: *record.fingerprint(),
            completed: record.completed(),
            expired: record.expires(),
            remembered_until: record.remembered_until(),
        }
    }

    /// How the operation ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Which attempt completed.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The fence of the claim that completed.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// The fingerprint of the request that ran.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// When the claim was completed or failed.
    #[must_use]
    pub fn completed(&self) -> Timestamp {
        self.completed
    }

    /// When the record stopped being replayed.
    #[must_use]
    pub fn expired(&self) -> Timestamp {
        self.expired
    }

    /// Until when the key is remembered. From then on it can be used again.
    #[must_use]
    pub fn remembered_until(&self) -> Timestamp {
        self.remembered_until
    }
}

impl fmt::Display for Tombstone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Success => "completed",
            Outcome::Failure => "failed",
        };
        write!(f, "{outcome} at {}, replayed until {}", self.completed, self.expired)
    }
}
