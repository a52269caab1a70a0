//! The rows of the table `forgotten`: records that `forget` removed and a block still holds, until
//! they expire.

use std::collections::{BTreeSet, HashMap};

use crate::Timestamp;
use crate::key::Digest;

/// The most rows that one commit removes: an operator may have forgotten hundreds of thousands of
/// keys at once.
const REMOVED_MAX: usize = 4_096;

/// The fields of a forgotten key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Blocks below this number don't count.
    pub(super) limit: u64,
    /// When no record in them would be remembered any more.
    pub(super) until: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Forgotten {
    rows: HashMap<Digest, Row>,
    /// Rows by their expiry, so that a commit need not look at all of them.
    order: BTreeSet<(Timestamp, Digest)>,
}

impl Forgotten {
    pub(super) fn get(&self, digest: Digest) -> Option<&Row> {
        self.rows.get(&digest)
    }

    pub(super) fn insert(&mut self, digest: Digest, row: Row) {
        self.remove(digest);
        self.rows.insert(digest, row);
        self.order.insert((row.until, digest));
    }

    pub(super) fn remove(&mut self, digest: Digest) {
        if let Some(row) = self.rows.remove(&digest) {
            self.order.remove(&(row.until, digest));
        }
    }

    /// The keys whose rows have expired by `now`, oldest first, as many as one commit removes.
    pub(super) fn over(&self, now: Timestamp) -> Vec<Digest> {
        let over = self.order.iter().take_while(|(until, _)| *until <= now);
        over.take(REMOVED_MAX).map(|(_, digest)| *digest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn digest(key: u128) -> Digest {
        Digest::from_u128(key)
    }

    #[test]
    fn rows_that_are_over_are_found_in_order_and_not_more_than_a_commit_removes() {
        let mut rows = Forgotten::default();
        for key in 0..6_000 {
            rows.insert(digest(key.into()), Row { limit: 1, until: at(10_000 - key) });
        }
        assert_eq!(rows.over(at(4_000)), []);
        assert_eq!(rows.over(at(4_002)), [digest(5_999), digest(5_998)]);
        let over = rows.over(at(u64::MAX));
        assert_eq!((over.len(), over.first()), (REMOVED_MAX, Some(&digest(5_999))));
        for key in over {
            rows.remove(key);
        }
        assert_eq!(rows.over(at(u64::MAX)).len(), 6_000 - REMOVED_MAX);
        assert_eq!((rows.get(digest(5_999)), rows.get(digest(0)).is_some()), (None, true));
    }

    #[test]
    fn a_row_that_is_replaced_is_over_at_its_new_time_alone() {
        let mut rows = Forgotten::default();
        rows.insert(digest(1), Row { limit: 1, until: at(5) });
        rows.insert(digest(1), Row { limit: 2, until: at(9) });
        assert_eq!(rows.over(at(8)), []);
        assert_eq!(rows.over(at(9)), [digest(1)]);
        rows.remove(digest(1));
        rows.remove(digest(1));
        assert_eq!(rows.over(at(9)), []);
    }
}
