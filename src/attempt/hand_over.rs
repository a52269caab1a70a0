//! A claim that is handed over as a token.

use crate::Timestamp;

/// That a claim was handed over as a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandOver {
    /// Until when the claim is good although no process holds it.
    pub(crate) until: Timestamp,
    /// The salt of the opening in which it was done: a token of another line of openings, as after
    /// a restored backup, does not count.
    pub(crate) opening: u64,
}

impl HandOver {
    /// Until when a claim stands that was taken up and dropped.
    pub(crate) const REVOKED: Timestamp = Timestamp::from_millis(0);

    pub(crate) fn from_row((until_ms, opening): (u64, u64)) -> Self {
        Self { until: Timestamp::from_millis(until_ms), opening }
    }
}
