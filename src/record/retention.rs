//! How long a record is kept.

use std::time::Duration;

use crate::Timestamp;
use crate::clock::millis;
use crate::error::OptionError;
use crate::state::Lifetime;

/// A hundred years. Longer times and their sums would not fit every field that holds them.
pub(crate) const RETENTION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
const TTL_MIN: Duration = Duration::from_millis(1);

/// How long a record is replayed, and how long its key is remembered, in ms; both count from its
/// completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    ttl_ms: u64,
    /// Not less than `ttl_ms`; if it is more, a tombstone stays for the rest.
    remembered_ms: u64,
}

impl Retention {
    /// For a stand-in attempt, whose retention is never used.
    pub(crate) const NONE: Self = Self { ttl_ms: 0, remembered_ms: 0 };

    /// Without `tombstone_ttl` a key is remembered as long as its record is replayed.
    ///
    /// # Errors
    ///
    /// If one of the two is out of its range; the error names it.
    pub(crate) fn new(ttl: Duration, tombstone_ttl: Option<Duration>) -> Result<Self, OptionError> {
        let remembered = tombstone_ttl.unwrap_or(ttl);
        for (name, value, min) in [("ttl", ttl, TTL_MIN), ("tombstone_ttl", remembered, ttl)] {
            OptionError::unless_within(name, value, min, RETENTION_MAX)?;
        }
        Ok(Self { ttl_ms: millis(ttl), remembered_ms: millis(remembered) })
    }

    /// Of a policy, which has been checked.
    pub(crate) fn checked(ttl: Duration, tombstone_ttl: Option<Duration>) -> Self {
        debug_assert!(Self::new(ttl, tombstone_ttl).is_ok(), "a policy is checked before it is used");
        Self { ttl_ms: millis(ttl), remembered_ms: millis(tombstone_ttl.unwrap_or(ttl)) }
    }

    /// The same with one or both times replaced. If only a longer `ttl` is given, a tombstone's
    /// time grows with it; without a tombstone there still is none.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub(crate) fn with(
        self,
        ttl: Option<Duration>,
        tombstone_ttl: Option<Duration>,
    ) -> Result<Self, OptionError> {
        if ttl.is_none() && tombstone_ttl.is_none() {
            return Ok(self);
        }
        let ttl = ttl.unwrap_or(Duration::from_millis(self.ttl_ms));
        let has_tombstone = self.remembered_ms > self.ttl_ms;
        let kept = has_tombstone.then(|| Duration::from_millis(self.remembered_ms).max(ttl));
        Self::new(ttl, tombstone_ttl.or(kept))
    }

    /// As read from a row. It was in range when it was written, under options that may have
    /// changed since.
    pub(crate) fn from_millis(ttl_ms: u64, remembered_ms: u64) -> Self {
        Self { ttl_ms, remembered_ms: remembered_ms.max(ttl_ms) }
    }

    pub(crate) fn ttl_ms(self) -> u64 {
        self.ttl_ms
    }

    pub(crate) fn remembered_ms(self) -> u64 {
        self.remembered_ms
    }

    /// Of a record that was completed at `completed`.
    pub(crate) fn lifetime(self, completed: Timestamp) -> Lifetime {
        let after = |ms| Timestamp::from_millis(completed.as_millis().saturating_add(ms));
        Lifetime { expires: after(self.ttl_ms), remembered_until: after(self.remembered_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_tombstone_that_ends_before_its_record_is_refused_by_name_with_the_range() {
        let error = Retention::new(seconds(10), Some(seconds(9))).unwrap_err();
        assert_eq!(error.name(), "tombstone_ttl");
        assert!(error.to_string().contains("allowed is 10s to"), "{error}");
        assert_eq!(Retention::new(Duration::ZERO, None).unwrap_err().name(), "ttl");
        assert_eq!(Retention::new(Duration::MAX, None).unwrap_err().name(), "ttl");
        assert_eq!(Retention::new(seconds(1), Some(Duration::MAX)).unwrap_err().name(), "tombstone_ttl");
    }

    #[test]
    fn replacing_a_part_keeps_the_other_or_keeps_it_away() {
        let plain = Retention::new(seconds(10), None).unwrap();
        let marked = Retention::new(seconds(10), Some(seconds(30))).unwrap();
        let new = |ttl, remembered| Retention::new(seconds(ttl), Some(seconds(remembered)));
        assert_eq!(plain.with(None, None), Ok(plain));
        assert_eq!(plain.with(Some(seconds(5)), None), new(5, 5));
        assert_eq!(marked.with(Some(seconds(5)), None), new(5, 30));
        assert_eq!(marked.with(Some(seconds(40)), None), new(40, 40));
        assert_eq!(plain.with(None, Some(seconds(20))), new(10, 20));
        assert_eq!(marked.with(None, Some(seconds(10))), new(10, 10));
        assert!(marked.with(Some(seconds(20)), Some(seconds(19))).is_err());
    }
}
