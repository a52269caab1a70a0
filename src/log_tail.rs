//! The tail: the changes that the log has and the store does not have yet, reduced to the last
//! change of each key.
//!
//! The publisher adds each group, recovery adds each replayed frame, and a checkpoint takes the
//! whole tail and moves it to the store. Live path and recovery share the code, so the log of a
//! crash is checkpointed like any other.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasherDefault;

use crate::Timestamp;
use crate::attempt::Attempt;
use crate::codec::{self, ScopeRow};
use crate::key::{Digest, DigestMap};
use crate::policy::Policy;
use crate::record::Record;
use crate::store::Batch;
use crate::sync::Arc;

/// The last change of a key.
#[derive(Clone, Debug)]
pub(crate) enum KeyState {
    /// It has a record.
    Done(Record),
    /// A claim is in flight, or was interrupted.
    Open(Arc<Attempt>),
    /// It is vacant.
    Vacant,
}

#[derive(Debug)]
struct KeyUpdate {
    last: KeyState,
    /// A record in the store, or in a running checkpoint, was forgotten; until when it would have
    /// been remembered.
    forgotten_until: Option<Timestamp>,
}

/// Everything since the last checkpoint.
#[derive(Debug, Default)]
pub(crate) struct LogTail {
    places: DigestMap<usize>,
    /// In the order in which the keys came, which is nearly the order of their claims: so a
    /// checkpoint has little to sort. `places` says where each key is.
    updates: Vec<(Digest, KeyUpdate)>,
    /// Scopes that were given a policy.
    scopes: BTreeMap<Box<[u8]>, Policy>,
    /// Sequence of the last frame added; zero for none.
    pub(crate) seq: u64,
    /// When the oldest change was added.
    pub(crate) since: Option<Timestamp>,
    /// When the first of its bodies expires.
    due: Option<Timestamp>,
}

impl LogTail {
    /// An empty tail after the frame with this sequence, with room for as many keys as the last
    /// one had.
    pub(crate) fn after(seq: u64, keys: usize) -> Self {
        let places = DigestMap::with_capacity_and_hasher(keys, BuildHasherDefault::default());
        Self { places, updates: Vec::with_capacity(keys), seq, ..Self::default() }
    }

    /// Keys and scopes in here.
    pub(crate) fn len(&self) -> usize {
        self.updates.len() + self.scopes.len()
    }

    pub(crate) fn fold(
        &mut self,
        digest: Digest,
        last: KeyState,
        forgotten_until: Option<Timestamp>,
        now: Timestamp,
    ) {
        self.since.get_or_insert(now);
        if let KeyState::Done(record) = &last
            && !record.body().is_empty()
        {
            let expires = record.expires();
            self.due = Some(self.due.map_or(expires, |due| due.min(expires)));
        }
        let mut update = KeyUpdate { last, forgotten_until };
        match self.places.entry(digest) {
            Entry::Vacant(place) => {
                place.insert(self.updates.len());
                self.updates.push((digest, update));
            }
            Entry::Occupied(place) => {
                let Some((_, earlier)) = self.updates.get_mut(*place.get()) else {
                    unreachable!("every place is one of the updates")
                };
                update.forgotten_until = match &*earlier {
                    // No checkpoint has taken the record that is forgotten, so no block has to be
                    // hidden.
                    KeyUpdate { last: KeyState::Done(_), forgotten_until: None } => None,
                    earlier => forgotten_until.max(earlier.forgotten_until),
                };
                *earlier = update;
            }
        }
    }

    /// Whether a body in here has expired.
    pub(crate) fn has_due(&self, now: Timestamp) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(crate) fn set_policy(&mut self, scope: &[u8], policy: Policy, now: Timestamp) {
        self.since.get_or_insert(now);
        self.scopes.insert(scope.into(), policy);
    }

    /// Puts a tail whose checkpoint failed back under this one, which is newer.
    pub(crate) fn put_back(&mut self, older: Self) {
        let newer = std::mem::replace(self, older);
        self.add(newer);
    }

    /// Adds the changes of a tail that came after this one.
    pub(crate) fn add(&mut self, newer: Self) {
        self.seq = self.seq.max(newer.seq);
        // `None` where there is nothing in it.
        let since = newer.since.unwrap_or_default();
        for (digest, update) in newer.updates {
            self.fold(digest, update.last, update.forgotten_until, since);
        }
        for (scope, policy) in newer.scopes {
            self.set_policy(&scope, policy, since);
        }
    }

    /// What a checkpoint has to write. It removes a key's claim row, unless the key's last change
    /// is a claim.
    pub(crate) fn batch(&self, reclaim_max: u64) -> Batch {
        let mut batch = Batch { reclaim_max, ..Batch::default() };
        for (name, policy) in &self.scopes {
            let mut row = Vec::new();
            codec::encode_into(&ScopeRow { name, policy: policy.row() }, &mut row);
            batch.scopes.push((name.clone(), row));
        }
        batch.records.reserve(self.updates.len());
        batch.ended.reserve(self.updates.len());
        for (digest, update) in &self.updates {
            batch.forgotten.extend(update.forgotten_until.map(|until| (*digest, until)));
            match &update.last {
                KeyState::Done(record) => {
                    batch.records.push(record.clone());
                    batch.ended.push(*digest);
                }
                KeyState::Open(attempt) => {
                    let mut row = Vec::new();
                    let progress = attempt.progress();
                    codec::encode_into(&attempt.row(progress.as_ref()), &mut row);
                    batch.claims.push((*digest, row));
                }
                KeyState::Vacant => batch.ended.push(*digest),
            }
        }
        // In the order of digests: the tables are trees, and a run of the simulator must be
        // repeatable.
        batch.claims.sort_unstable_by_key(|(digest, _)| *digest);
        batch.forgotten.sort_unstable();
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::AttemptParts;

    const KEY: Digest = Digest::from_u128(1);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn a_forgotten_record_stays_forgotten_whatever_follows() {
        let mut tail = LogTail::default();
        tail.fold(KEY, KeyState::Vacant, Some(at(9)), at(1));
        tail.fold(KEY, KeyState::Vacant, None, at(2));
        assert_eq!(tail.batch(0).forgotten, [(KEY, at(9))]);
        assert_eq!(tail.since, Some(at(1)));
    }

    fn done() -> KeyState {
        KeyState::Done(Record::new(&crate::record::RecordParts::example(1), None))
    }

    #[test]
    fn a_record_that_no_checkpoint_took_is_forgotten_without_a_row() {
        let mut tail = LogTail::default();
        tail.fold(KEY, done(), None, at(1));
        tail.fold(KEY, KeyState::Vacant, Some(at(9)), at(2));
        let batch = tail.batch(0);
        assert!(batch.forgotten.is_empty() && batch.records.is_empty());
        assert_eq!(batch.ended, [KEY]);
        // One that the store has, forgotten and completed and forgotten again, needs it still.
        let mut tail = LogTail::default();
        tail.fold(KEY, KeyState::Vacant, Some(at(9)), at(1));
        tail.fold(KEY, done(), None, at(2));
        assert_eq!(tail.batch(0).forgotten, [(KEY, at(9))]);
        tail.fold(KEY, KeyState::Vacant, Some(at(7)), at(3));
        assert_eq!(tail.batch(0).forgotten, [(KEY, at(9))]);
    }

    #[test]
    fn a_record_of_a_checkpoint_that_failed_is_forgotten_without_a_row() {
        let mut older = LogTail::after(4, 0);
        older.fold(KEY, done(), None, at(1));
        let mut tail = LogTail::after(6, 0);
        // While the checkpoint was at it nobody could know.
        tail.fold(KEY, KeyState::Vacant, Some(at(9)), at(3));
        assert_eq!(tail.batch(0).forgotten, [(KEY, at(9))]);
        tail.put_back(older);
        assert!(tail.batch(0).forgotten.is_empty());
    }

    fn open() -> KeyState {
        KeyState::Open(Arc::new(Attempt::new(AttemptParts { digest: KEY, ..AttemptParts::example(1) })))
    }

    #[test]
    fn what_came_later_has_the_last_word_over_what_is_put_back() {
        let mut older = LogTail::after(4, 0);
        older.fold(KEY, open(), None, at(1));
        let mut tail = LogTail::after(6, 0);
        tail.fold(KEY, KeyState::Vacant, None, at(3));
        tail.put_back(older);
        let batch = tail.batch(0);
        assert!(batch.claims.is_empty());
        assert_eq!(batch.ended, [KEY]);
    }

    #[test]
    fn what_is_put_back_lies_under_what_came_since() {
        let mut older = LogTail::after(4, 0);
        older.fold(KEY, KeyState::Vacant, Some(at(9)), at(1));
        older.fold(Digest::from_u128(2), KeyState::Vacant, None, at(1));
        let mut tail = LogTail::after(6, 0);
        tail.fold(KEY, KeyState::Vacant, None, at(3));
        tail.put_back(older);
        assert_eq!((tail.seq, tail.len(), tail.since), (6, 2, Some(at(1))));
        assert_eq!(tail.batch(0).forgotten, [(KEY, at(9))]);
    }

    #[test]
    fn a_policy_that_was_declared_since_outlasts_what_is_put_back() {
        let policies =
            [5, 6].map(|days| Policy::default().ttl(std::time::Duration::from_secs(days * 86_400)));
        let [earlier, later] = policies;
        let mut older = LogTail::after(4, 0);
        older.set_policy(b"scope", earlier, at(1));
        older.set_policy(b"other", earlier, at(1));
        let mut tail = LogTail::after(6, 0);
        tail.set_policy(b"scope", later, at(3));
        tail.put_back(older);
        let expected: BTreeMap<Box<[u8]>, Policy> =
            [(b"scope".as_slice().into(), later), (b"other".as_slice().into(), earlier)].into();
        assert_eq!(tail.scopes, expected);
    }
}
