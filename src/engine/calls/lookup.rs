//! Lookups: read a key's state from the index and, if necessary, the store.

use std::future::ready;

use super::resolve_slot::{ResolvedSlot, resolve_slot};
use crate::Timestamp;
use crate::attempt::Attempt;
use crate::engine::common::counters::Counters;
use crate::engine::common::names::KeyNames;
use crate::engine::common::namespace::{KeyRef, ScopeInner};
use crate::engine::core::Core;
use crate::error::{ClaimError, ReadError};
use crate::index::Slot;
use crate::key::Digest;
use crate::record::tombstone::Tombstone;
use crate::record::{Record, RecordLocation};
use crate::state::{Decision, Event, Phase, State, decide};
use crate::status::Status;
use crate::store::StoredRecord;
use crate::sync::Arc;
use crate::task::caller::{Caller, block};

/// The state of a key that a lookup found.
pub(super) enum Lookup {
    Record(Record),
    Slot(Slot),
    /// The index still names a location on disk, but the record there is no longer remembered.
    Expired(RecordLocation),
}

impl Core {
    /// Looks up a key without claiming it.
    pub(in crate::engine) async fn status(
        &self,
        caller: Caller,
        scope: &ScopeInner,
        key: &[u8],
    ) -> Result<Status, ReadError> {
        let digest = scope.digest(key)?;
        self.health.check()?;
        loop {
            let before = self.clock.now();
            let found = self.find(caller, &KeyRef { scope, key, digest }, before).await?;
            if let Some(status) = self.status_of(found, before) {
                return Ok(status);
            }
        }
    }

    /// The state of a key in the index. A record that is only on disk is read and cached. A
    /// record counts as expired only if it was expired at `before`, a time read before this
    /// lookup.
    pub(super) async fn find(
        &self,
        caller: Caller,
        asked: &KeyRef<'_>,
        before: Timestamp,
    ) -> Result<Lookup, ReadError> {
        match self.index.get(asked.digest) {
            Slot::Cached(record, _) => Ok(Lookup::Record(record)),
            // Boxed, so that a look at a key that is not on disk does not carry it along.
            slot @ Slot::Stored { .. } => Box::pin(self.find_stored(caller, asked, slot, before)).await,
            slot @ (Slot::Vacant | Slot::InFlight(_) | Slot::Ending(_) | Slot::Interrupted(_)) => {
                Ok(Lookup::Slot(slot))
            }
        }
    }

    async fn find_stored(
        &self,
        caller: Caller,
        asked: &KeyRef<'_>,
        seen: Slot,
        before: Timestamp,
    ) -> Result<Lookup, ReadError> {
        let mut seen = Some(seen);
        let followed = resolve_slot(
            || seen.take().unwrap_or_else(|| self.index.get(asked.digest)),
            |place| self.read(caller, place, asked.digest),
            |gone| self.store.is_still_gone(gone),
            self.index.epoch(),
            before,
        );
        let (place, record) = match followed.await? {
            ResolvedSlot::Slot(Slot::Cached(record, _)) => return Ok(Lookup::Record(record)),
            ResolvedSlot::Slot(slot) => return Ok(Lookup::Slot(slot)),
            ResolvedSlot::Over(place) => return Ok(Lookup::Expired(place)),
            ResolvedSlot::Read(place, record) => (place, record),
        };
        if record.key() != asked.key || record.scope() != asked.scope.name() {
            let what = "a record of another key has this key's digest";
            let place = format!("block {}, offset {}", place.block(), place.offset());
            return Err(ReadError::Damaged(crate::Damage::new(self.store.path(), place, what)));
        }
        if record.remembered_until() <= before {
            return Ok(Lookup::Expired(place));
        }
        self.index.count_loaded(asked.digest);
        // A body whose time is over does not come back into memory.
        let record = if record.expires() <= before { record.without_body_at(place) } else { record };
        self.index.cache(asked.digest, &record);
        Ok(Lookup::Record(record))
    }

    async fn read(
        &self,
        caller: Caller,
        place: RecordLocation,
        digest: Digest,
    ) -> Result<StoredRecord, ReadError> {
        match caller {
            Caller::Thread => self.store.read(place, digest, || self.clock.now()),
            Caller::Task | Caller::Member => self.reads.read(place, digest, self.health.gate()).await,
        }
    }

    /// Decides on a key that was looked up after `before`. `None` if the decision depends on the
    /// time: then the key has to be looked up again.
    ///
    /// The key may have changed since the lookup. A record that has expired since may already be
    /// replaced by a new claim, so that the key never had an expired record.
    pub(super) fn decide_throughout<'e>(
        &self,
        found: &Lookup,
        before: Timestamp,
        event: impl Fn(Timestamp) -> Event<'e>,
    ) -> Option<Decision> {
        let now = self.clock.now();
        let decision = self.decide(found, event(now));
        (now == before || decision == self.decide(found, event(before))).then_some(decision)
    }

    fn decide(&self, found: &Lookup, event: Event<'_>) -> Decision {
        match found {
            Lookup::Record(record) => decide(State::Done(record.facts(), record.lifetime()), event),
            Lookup::Slot(slot) => decide(slot.state(self.index.epoch()), event),
            Lookup::Expired(_) => decide(State::Vacant, event),
        }
    }

    /// The state that was found, judged by the time `before`, which was read before the lookup.
    /// `None` if a later time gives another answer: the key may have changed since, and has to be
    /// looked up again. Only a lease is judged by `before` alone.
    pub(super) fn status_of(&self, found: Lookup, before: Timestamp) -> Option<Status> {
        let now = self.clock.now();
        let has_come = |time: Timestamp| before < time && time <= now;
        // Callers are shown what is being forgotten until that is durable, and what was interrupted
        // before a grant that is being taken back.
        let found = match found {
            Lookup::Slot(Slot::Ending(attempt)) => match attempt.forgets() {
                Some(record) => Lookup::Record(record.clone()),
                None => match interrupted_in_place(&attempt) {
                    Some(interrupted) => Lookup::Slot(Slot::Interrupted(interrupted)),
                    None => Lookup::Slot(Slot::Ending(attempt)),
                },
            },
            found @ (Lookup::Record(_) | Lookup::Slot(_) | Lookup::Expired(_)) => found,
        };
        Some(match found {
            // One that has expired may have lost its body.
            Lookup::Record(record) if has_come(record.expires()) || has_come(record.remembered_until()) => {
                return None;
            }
            Lookup::Record(record) if now < record.expires() => Status::Done(record),
            Lookup::Record(record) if now < record.remembered_until() => {
                Status::Expired(Tombstone::of(&record))
            }
            Lookup::Record(_) | Lookup::Expired(_) => Status::Vacant,
            Lookup::Slot(slot) => match (&slot.phase(), slot.attempt()) {
                // Withdrawn since it was found, by a thread that changed the key in the same step.
                (Phase::InFlight, Some(attempt)) if attempt.is_withdrawn() => return None,
                // The worker will come by; until then the clock decides. A claim that nobody has
                // is still on its way.
                (Phase::InFlight, Some(attempt))
                    if attempt.lease_until() <= before && !attempt.is_undelivered() =>
                {
                    Status::Interrupted(attempt.interruption())
                }
                (Phase::InFlight | Phase::Ending, Some(attempt)) => Status::InFlight(attempt.info()),
                (Phase::Interrupted, Some(attempt)) if has_come(attempt.remembered_until()) => return None,
                (Phase::Interrupted, Some(attempt)) if now < attempt.remembered_until() => {
                    Status::Interrupted(attempt.interruption())
                }
                _ => Status::Vacant,
            },
        })
    }

    /// Reads the state behind a slot from a snapshot that was taken after `before`; `None` if it
    /// is expired or vacant by now.
    pub(in crate::engine) fn resolve(
        &self,
        digest: Digest,
        slot: Slot,
        mut before: Timestamp,
    ) -> Result<Option<(Status, KeyNames)>, ReadError> {
        let mut seen = Some(slot);
        loop {
            let followed = resolve_slot(
                || seen.take().unwrap_or_else(|| self.index.get(digest)),
                |place| ready(self.store.read(place, digest, || self.clock.now())),
                |gone| self.store.is_still_gone(gone),
                self.index.epoch(),
                before,
            );
            let (found, names) = match block(followed)? {
                ResolvedSlot::Over(_) => return Ok(None),
                ResolvedSlot::Read(_, record) | ResolvedSlot::Slot(Slot::Cached(record, _)) => {
                    (Lookup::Record(record.clone()), KeyNames::Record(record))
                }
                ResolvedSlot::Slot(slot) => {
                    let Some(attempt) = slot.attempt().cloned() else { return Ok(None) };
                    (Lookup::Slot(slot), KeyNames::Attempt(attempt))
                }
            };
            let now = self.clock.now();
            if let Some(status) = self.status_of(found, before) {
                return Ok(Some((status, names)));
            }
            before = now;
        }
    }

    /// The error for a claim that is not the current one.
    pub(in crate::engine) async fn superseded(&self, caller: Caller, attempt: &Attempt) -> ClaimError {
        Counters::count(&self.counters.superseded);
        self.options.hooks.superseded(attempt);
        ClaimError::Superseded(Box::new(self.became(caller, attempt.digest).await))
    }

    /// The state of a key now.
    pub(super) async fn became(&self, caller: Caller, digest: Digest) -> Status {
        // The caller may begin again at once, and wants no place taken by a claim whose lease has
        // run out.
        if let Slot::InFlight(current) = self.index.get(digest)
            && current.lease_until() <= self.clock.now()
        {
            // Where that fails, the status says what it is all the same.
            drop(self.lapse(&current));
        }
        loop {
            let before = self.clock.now();
            let followed = resolve_slot(
                || self.index.get(digest),
                |place| self.read(caller, place, digest),
                |gone| self.store.is_still_gone(gone),
                self.index.epoch(),
                before,
            );
            let found = match followed.await {
                Ok(ResolvedSlot::Slot(Slot::Cached(record, _)) | ResolvedSlot::Read(_, record)) => {
                    Lookup::Record(record)
                }
                Ok(ResolvedSlot::Slot(slot)) => Lookup::Slot(slot),
                Ok(ResolvedSlot::Over(_)) => return Status::Vacant,
                Err(error) => return Status::Unreadable(error),
            };
            if let Some(status) = self.status_of(found, before) {
                return status;
            }
        }
    }
}

/// The interruption that a key with an ending attempt has in truth: it is being forgotten, or gets
/// the interruption back that was there before its grant.
pub(super) fn interrupted_in_place(ending: &Arc<Attempt>) -> Option<Arc<Attempt>> {
    if ending.interrupted().is_some() {
        return Some(Arc::clone(ending));
    }
    ending.never_held().filter(|_| ending.is_withdrawn()).map(Arc::new)
}

#[cfg(test)]
#[cfg(feature = "sim")]
pub(in crate::engine) mod tests {
    use super::*;
    use crate::Begin;
    use crate::BeginError;
    use crate::Busy;
    use crate::Claim;
    use crate::Engine;
    use crate::Fingerprint;
    use crate::index::WalkPlace;
    use crate::sim::ManualClock;
    use crate::sim::SimDisk;

    pub(in crate::engine) fn open() -> Engine {
        let options = Engine::options().disk(&SimDisk::new()).clock(&ManualClock::at_millis(1_000)).stepped();
        options.cache_bytes(0).open("x.idem").unwrap()
    }

    pub(in crate::engine) fn claim(engine: &Engine, key: &str) -> Claim {
        match engine.default_scope().begin(key, Fingerprint::of("")) {
            Ok(Begin::Fresh(claim)) => claim,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_record_of_another_key_with_the_same_digest_is_damage_and_no_answer() {
        let engine = open();
        claim(&engine, "key").complete("reply").unwrap();
        engine.checkpoint().unwrap();
        let (core, scope) = (engine.handle.core(), &engine.default.inner);
        let (digest, now) = (scope.digest(b"key").unwrap(), core.clock.now());
        let found = block(core.find(Caller::Thread, &KeyRef { scope, key: b"another", digest }, now));
        let Err(ReadError::Damaged(damage)) = found.map(|_| ()) else { panic!("it was found") };
        let said = damage.to_string();
        assert!(said.contains("x.idem") && said.contains("block 0") && said.contains("digest"), "{said}");
        assert!(block(core.find(Caller::Thread, &KeyRef { scope, key: b"key", digest }, now)).is_ok());
    }

    /// Between the lookup of the key and the reading of the clock.
    #[test]
    fn a_claim_completed_in_time_is_never_said_to_be_interrupted() {
        let clock = ManualClock::at_millis(1_000);
        let engine = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped().open("x.idem").unwrap();
        let lease = std::time::Duration::from_secs(10);
        drop(engine.set_policy("", engine.policy().lease(lease)).unwrap());
        let (core, scope) = (engine.handle.core(), &engine.default.inner);
        let claim = claim(&engine, "key");
        let (before, digest) = (core.clock.now(), scope.digest(b"key").unwrap());
        let found = block(core.find(Caller::Thread, &KeyRef { scope, key: b"key", digest }, before)).unwrap();
        let mut entries =
            core.index.snapshot(core.index.shard_of(digest), WalkPlace::default()).0.into_iter();
        claim.complete("reply").unwrap();
        clock.advance(lease);
        assert!(matches!(core.status_of(found, before), Some(Status::InFlight(_))));
        let (digest, slot) = entries.next().unwrap();
        assert!(matches!(core.resolve(digest, slot, before), Ok(Some((Status::InFlight(_), _)))));
    }

    #[test]
    fn no_fence_at_the_files_limit_is_granted_before_a_checkpoint_moves_it() {
        let engine = open();
        let core = engine.handle.core();
        let last = claim(&engine, "last").fence();
        core.fences.exhaust();
        let refused = engine.default_scope().begin("next", Fingerprint::of(""));
        assert!(matches!(refused, Err(BeginError::Busy(Busy::QueueFull { .. }))), "{refused:?}");
        assert_eq!(engine.stats().in_flight, 0);
        engine.checkpoint().unwrap();
        assert!(claim(&engine, "next").fence() > last);
    }
}
