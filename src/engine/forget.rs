//! Forgetting: a key is vacant again, durably.

use super::core::{Asked, Core, Counters, Found, ended_by};
use super::publisher::Op;
use super::scope::ScopeInner;
use crate::Timestamp;
use crate::attempt::{Attempt, AttemptParts};
use crate::caller::Caller;
use crate::codec::{ENTRY_OVERHEAD_MAX, Entry, VacatedRow};
use crate::error::{CommitError, ForgetError, ReadError};
use crate::index::{Change, Slot};
use crate::record::Record;
use crate::state::{Decision, Event, Phase};
use crate::sync::Arc;
use crate::wal::frame::entry_bytes_max;

/// What is to be forgotten.
enum Doomed {
    Record(Record),
    Interrupted(Arc<Attempt>),
}

impl Core {
    /// Forgets a record or an interrupted claim, durably. Whether there was one.
    pub(super) async fn forget(
        &self,
        caller: Caller,
        scope: &ScopeInner,
        key: &[u8],
    ) -> Result<bool, ForgetError> {
        let digest = scope.digest(key).map_err(ReadError::Key)?;
        let asked = Asked { scope, key, digest };
        self.gate.check().map_err(ReadError::from)?;
        loop {
            let found = self.find(caller, asked).await?;
            let event = Event::Forget { now: self.clock.now() };
            match (self.decide(&found, event), found) {
                (Decision::Busy, _) => return Err(ForgetError::InFlight),
                (Decision::Become(Phase::Interrupted), Found::Slot(Slot::InFlight(attempt))) => {
                    self.lapse(&attempt);
                }
                (Decision::Become(_), Found::Record(record)) => {
                    if self.forget_one(caller, asked, &Doomed::Record(record)).await? {
                        return Ok(true);
                    }
                }
                // Where its time is over, its row is on disk all the same, and the next opening would find it dead anew.
                (decision, Found::Slot(Slot::Interrupted(attempt))) => {
                    if self.forget_one(caller, asked, &Doomed::Interrupted(attempt)).await? {
                        return Ok(decision.becomes().is_some());
                    }
                }
                (
                    Decision::Become(_)
                    | Decision::Stay
                    | Decision::Grant { .. }
                    | Decision::Wait
                    | Decision::Replay
                    | Decision::Expired
                    | Decision::Reused
                    | Decision::Unresolved
                    | Decision::Superseded,
                    _,
                ) => return Ok(false),
            }
        }
    }

    /// Forgets what a key has, if it still does; the key is in flight meanwhile.
    async fn forget_one(
        &self,
        caller: Caller,
        asked: Asked<'_>,
        doomed: &Doomed,
    ) -> Result<bool, CommitError> {
        self.check_blocking(caller)?;
        let cost = entry_bytes_max(ENTRY_OVERHEAD_MAX) as u64;
        self.promise(caller, cost).await?;
        let (attempt, until) = match doomed {
            Doomed::Record(record) => (forgetting(asked, record), Some(record.remembered_until())),
            // A new one: those who waited for the old one were told how it ended.
            Doomed::Interrupted(attempt) => (Attempt::from_row(&attempt.row(), &self.progress_bytes), None),
        };
        let attempt = Arc::new(attempt);
        let taken = self.index.change(asked.digest, |slot| {
            let same = match (slot, doomed) {
                (Slot::Cached(now), Doomed::Record(then)) => now.fence() == then.fence(),
                // Evicted since; the place is that of the record that was read.
                (Slot::Stored { place, .. }, Doomed::Record(then)) => Some(*place) == then.place(),
                (Slot::Interrupted(now), Doomed::Interrupted(then)) => Arc::ptr_eq(now, then),
                _ => false,
            };
            // What is there now is what may have to be put back: the record may lie elsewhere than when it was found.
            let before = same.then(|| slot.clone());
            (if same { Change::Set(Slot::Ending(Arc::clone(&attempt))) } else { Change::Keep }, before)
        });
        let Some(before) = taken else {
            self.room.withdraw(cost);
            return Ok(false);
        };
        let entry = vacated_entry(&attempt, until);
        let op = Op::Vacated(Arc::clone(&attempt), until);
        // Whoever asked may stop waiting from here on; it is done all the same.
        let mut ticket = self.commit.append_promised(caller, &entry, op, cost).inspect_err(|error| {
            self.room.withdraw(cost);
            // Nothing was written, not even where commits have failed: a record is still replayed.
            self.put_back(&attempt, before);
            attempt.end(ended_by(error));
        })?;
        self.commit.settled(caller, &mut ticket).await?;
        Counters::count(&self.counters.forgotten);
        Ok(true)
    }
}

pub(super) fn vacated_entry(attempt: &Attempt, forgotten_until: Option<Timestamp>) -> Vec<u8> {
    let row = VacatedRow {
        digest: attempt.digest.as_u128(),
        fence: attempt.fence.get(),
        forgotten_until_ms: forgotten_until.map(Timestamp::as_millis),
    };
    Entry::Vacated(row).encoded()
}

/// Stands in the index for a record that is being forgotten.
fn forgetting(asked: Asked<'_>, record: &Record) -> Attempt {
    Attempt::new(AttemptParts {
        scope: asked.scope.name(),
        key: asked.key,
        number: record.attempt(),
        fingerprint: *record.fingerprint(),
        started: record.started(),
        ..AttemptParts::bare(asked.digest, record.fence())
    })
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::super::core::tests::{claim, open};
    use super::*;
    use crate::Status;
    use crate::caller::block;

    #[test]
    fn what_somebody_else_forgot_or_ran_again_meanwhile_is_not_forgotten() {
        let engine = open();
        let (core, scope) = (engine.handle.core(), &engine.default.inner);
        let asked = Asked { scope, key: b"key", digest: scope.digest(b"key").unwrap() };
        drop(claim(&engine, "key"));
        let interrupted = Doomed::Interrupted(core.index.get(asked.digest).attempt().cloned().unwrap());
        let record = Doomed::Record(engine.scope("").resolve("key").unwrap().complete("reply").unwrap());
        let forget = |doomed| block(core.forget_one(Caller::Thread, asked, doomed)).unwrap();
        assert!(!forget(&interrupted));
        assert!(matches!(engine.get("key"), Ok(Status::Done(_))));
        assert!(forget(&record) && !forget(&record));
        assert!(matches!(engine.get("key"), Ok(Status::Vacant)));
    }
}
