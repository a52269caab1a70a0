//! `Slot`: the index's entry for one key.

use super::cached::CachePosition;
use crate::attempt::Attempt;
use crate::record::{Record, RecordLocation};
use crate::state::{Fence, Lifetime, Phase, State};
use crate::sync::Arc;
use crate::{Fingerprint, Timestamp};

/// The state of a key, with its attempt or record. 16 bytes.
#[derive(Clone, Debug, Default)]
pub(crate) enum Slot {
    /// Nothing is known of the key; never stored.
    #[default]
    Vacant,
    /// A claim is in flight.
    InFlight(Arc<Attempt>),
    /// The end of a claim, or a forget, is queued and not published.
    Ending(Arc<Attempt>),
    /// A claim ended without an outcome.
    Interrupted(Arc<Attempt>),
    /// A record, in memory, and its position, which the shard sets.
    Cached(Record, CachePosition),
    /// A record, only on disk.
    Stored {
        /// Until when it is remembered at the latest.
        until: SlotTime,
        /// Where it lies.
        place: RecordLocation,
    },
}

/// A time in four bytes: whole seconds since the file was opened, rounded up. Lookups decide by
/// the exact time in the record. This time only shows, without a read, that a record has
/// certainly expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotTime(u32);

impl SlotTime {
    pub(crate) fn new(time: Timestamp, epoch: Timestamp) -> Self {
        let seconds = time.as_millis().saturating_sub(epoch.as_millis()).div_ceil(1_000);
        Self(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// The time rounded up; the end of time if it does not fit.
    pub(crate) fn at_latest(self, epoch: Timestamp) -> Timestamp {
        match self.0 {
            u32::MAX => Timestamp::from_millis(u64::MAX),
            seconds => Timestamp::from_millis(epoch.as_millis().saturating_add(u64::from(seconds) * 1_000)),
        }
    }
}

/// The facts of a stored record that only the disk knows. Fence zero is older than every claim.
static UNKNOWN: Fingerprint = Fingerprint::from_bytes([0; 32]);

impl Slot {
    /// A record in memory, to be put into a shard.
    pub(crate) fn cached(record: Record) -> Self {
        Self::Cached(record, CachePosition::default())
    }

    /// The record, if it is in memory.
    #[inline]
    pub(crate) fn record(&self) -> Option<&Record> {
        match self {
            Self::Cached(record, _) => Some(record),
            Self::Vacant
            | Self::InFlight(_)
            | Self::Ending(_)
            | Self::Interrupted(_)
            | Self::Stored { .. } => None,
        }
    }

    /// The state as the state machine sees it.
    ///
    /// For a record that is only on disk the facts are unknown: callers load the record first if
    /// they need them.
    #[inline]
    pub(crate) fn state(&self, epoch: Timestamp) -> State<'_> {
        match self {
            Self::Vacant => State::Vacant,
            Self::InFlight(attempt) => State::InFlight(attempt.facts(), attempt.lease_until()),
            Self::Ending(attempt) => State::Ending(attempt.facts()),
            Self::Interrupted(attempt) => State::Interrupted(attempt.facts(), attempt.remembered_until()),
            Self::Cached(record, _) => State::Done(record.facts(), record.lifetime()),
            Self::Stored { until, .. } => {
                let facts = crate::state::Facts { fence: Fence::new(0), attempt: 0, fingerprint: &UNKNOWN };
                let until = until.at_latest(epoch);
                State::Done(facts, Lifetime { expires: until, remembered_until: until })
            }
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::Vacant => Phase::Vacant,
            Self::InFlight(_) => Phase::InFlight,
            Self::Ending(_) => Phase::Ending,
            Self::Interrupted(_) => Phase::Interrupted,
            Self::Cached(..) | Self::Stored { .. } => Phase::Done,
        }
    }

    /// The attempt behind a state that has one.
    pub(crate) fn attempt(&self) -> Option<&Arc<Attempt>> {
        match self {
            Self::InFlight(attempt) | Self::Ending(attempt) | Self::Interrupted(attempt) => Some(attempt),
            Self::Vacant | Self::Cached(..) | Self::Stored { .. } => None,
        }
    }

    /// Whether nothing but a commit is missing for the key to have no claim: its record or
    /// interruption is being forgotten, or its grant taken back.
    pub(crate) fn has_no_claim(&self) -> bool {
        let Self::Ending(attempt) = self else { return false };
        attempt.forgets().is_some() || attempt.interrupted().is_some() || attempt.is_withdrawn()
    }

    /// Whether the key has a claim, and no outcome yet.
    pub(crate) fn is_open(&self) -> bool {
        self.attempt().is_some()
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted(_))
    }

    /// The attempt whose claim is in flight or ending.
    pub(crate) fn attempt_out(&self) -> Option<&Arc<Attempt>> {
        match self {
            Self::InFlight(attempt) | Self::Ending(attempt) => Some(attempt),
            Self::Vacant | Self::Interrupted(_) | Self::Cached(..) | Self::Stored { .. } => None,
        }
    }

    /// Until when the key is remembered; `None` while that is open.
    pub(crate) fn remembered_until(&self, epoch: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Vacant | Self::InFlight(_) | Self::Ending(_) => None,
            Self::Interrupted(attempt) => Some(attempt.remembered_until()),
            Self::Cached(record, _) => Some(record.remembered_until()),
            Self::Stored { until, .. } => Some(until.at_latest(epoch)),
        }
    }

    /// When the sweeper first has work here: the body has expired, or the key is no longer
    /// remembered. `None` for a slot that was counted before, as for a record that is only on
    /// disk.
    #[inline]
    pub(crate) fn new_due(&self) -> Option<Timestamp> {
        match self {
            Self::Interrupted(attempt) => Some(attempt.remembered_until()),
            Self::Cached(record, _) if record.body().is_empty() => Some(record.remembered_until()),
            Self::Cached(record, _) => Some(record.expires()),
            Self::Vacant | Self::InFlight(_) | Self::Ending(_) | Self::Stored { .. } => None,
        }
    }

    /// When the sweeper next has work here, after `now`.
    pub(crate) fn due_after(&self, now: Timestamp, epoch: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cached(record, _) if !record.body().is_empty() && now < record.expires() => {
                Some(record.expires())
            }
            Self::Vacant
            | Self::InFlight(_)
            | Self::Ending(_)
            | Self::Interrupted(_)
            | Self::Cached(..)
            | Self::Stored { .. } => self.remembered_until(epoch),
        }
    }

    /// The slot to replace a stored record whose expired body is still in memory.
    pub(crate) fn without_expired_body(&self, now: Timestamp, epoch: Timestamp) -> Option<Self> {
        match self {
            Self::Cached(record, _) if !record.body().is_empty() && record.expires() <= now => {
                let until = SlotTime::new(record.remembered_until(), epoch);
                record.location().map(|place| Self::Stored { until, place })
            }
            Self::Vacant
            | Self::InFlight(_)
            | Self::Ending(_)
            | Self::Interrupted(_)
            | Self::Cached(..)
            | Self::Stored { .. } => None,
        }
    }

    /// Bytes of a cached record.
    pub(crate) fn cached_bytes(&self) -> usize {
        match self {
            Self::Cached(record, _) => record.footprint(),
            Self::Vacant
            | Self::InFlight(_)
            | Self::Ending(_)
            | Self::Interrupted(_)
            | Self::Stored { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_sixteen_bytes() {
        assert_eq!(size_of::<Slot>(), 16);
    }

    #[test]
    fn slot_times_round_up_and_give_up_late() {
        let epoch = Timestamp::from_millis(5_000);
        let at = |ms| SlotTime::new(Timestamp::from_millis(ms), epoch).at_latest(epoch).as_millis();
        assert_eq!(at(5_000), 5_000);
        assert_eq!(at(5_001), 6_000);
        assert_eq!(at(6_000), 6_000);
        assert_eq!(at(0), 5_000);
        assert_eq!(at(u64::MAX), u64::MAX);
    }
}
