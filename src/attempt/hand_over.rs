//! A claim that is handed over as a token.

use crate::Timestamp;

/// The fact that a claim was handed over as a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandOver {
    /// Until when the claim is good although no process holds it.
    pub(crate) until: Timestamp,
    /// The salt of the opening that handed it over. A token from another line of openings, as
    /// after a restored backup, does not count.
    pub(crate) opening: u64,
}

impl HandOver {
    /// For a claim that was resumed and dropped: it no longer stands.
    pub(crate) const REVOKED: Timestamp = Timestamp::from_millis(0);

    pub(crate) fn from_row((until_ms, opening): (u64, u64)) -> Self {
        Self { until: Timestamp::from_millis(until_ms), opening }
    }
}
