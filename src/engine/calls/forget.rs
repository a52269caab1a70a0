//! Forgetting: a key is vacant again, durably.

use super::lookup::Lookup;
use crate::attempt::Attempt;
use crate::clock::QueueTimeout;
use crate::codec::ENTRY_OVERHEAD_MAX;
use crate::engine::common::counters::Counters;
use crate::engine::common::namespace::{KeyRef, ScopeInner};
use crate::engine::common::untold::Untold;
use crate::engine::core::Core;
use crate::engine::core::log_record::LogRecord;
use crate::error::{CommitError, ForgetError, ReadError};
use crate::index::{Change, Slot};
use crate::record::Record;
use crate::seen::Seen;
use crate::state::{Decision, Event, Phase};
use crate::sync::Arc;
use crate::task::caller::Caller;
use crate::wal::frame::entry_bytes_max;

/// What is to be forgotten.
enum Doomed {
    Record(Record),
    Interrupted(Arc<Attempt>),
}

impl Core {
    /// Forgets a record or an interrupted key, durably. Returns whether there was one, of the
    /// kind and attempt `only` if that is given.
    pub(in crate::engine) async fn forget(
        &self,
        caller: Caller,
        scope: &ScopeInner,
        key: &[u8],
        only: Option<Seen>,
    ) -> Result<Untold<bool>, ForgetError> {
        let digest = scope.digest(key).map_err(ReadError::Key)?;
        let asked = &KeyRef { scope, key, digest };
        self.health.check().map_err(ReadError::from)?;
        let mut queue_timeout = QueueTimeout::new(self.options.queue_timeout);
        let is_other = |found| only.is_some_and(|only| only != found);
        loop {
            let before = self.clock.now();
            let found = self.find(caller, asked, before).await?;
            let decided = self.decide_throughout(&found, before, |now| Event::Forget { now });
            let Some(decision) = decided else { continue };
            match (decision, found) {
                // Another call forgets it, and this one tells that once it is durable; or a grant
                // that nobody got is taken back.
                (Decision::Busy, Lookup::Slot(slot)) if slot.has_no_claim() => {
                    self.flush(caller).await?;
                }
                (Decision::Busy, _) => return Err(ForgetError::InFlight),
                (Decision::Become(Phase::Interrupted), Lookup::Slot(Slot::InFlight(attempt))) => {
                    self.lapse(&attempt)?;
                }
                (Decision::Become(_), Lookup::Record(record)) if is_other(Seen::from(&record)) => {
                    return Ok(Untold::new(false));
                }
                // An interruption is named by the fence that callers are shown, which is not that
                // of a later attempt that left it standing.
                (_, Lookup::Slot(Slot::Interrupted(attempt)))
                    if is_other(Seen::Interruption(attempt.as_earlier().info.fence)) =>
                {
                    return Ok(Untold::new(false));
                }
                (Decision::Become(_), Lookup::Record(record)) => {
                    let doomed = Doomed::Record(record);
                    if self.forget_one(caller, &doomed, true, &mut queue_timeout).await? {
                        return Ok(Untold::new(true));
                    }
                }
                // Where its time is over, its row is on disk all the same, and the next opening
                // would find it dead anew.
                (decision, Lookup::Slot(Slot::Interrupted(attempt))) => {
                    let is_known = decision.becomes().is_some();
                    let doomed = Doomed::Interrupted(attempt);
                    if self.forget_one(caller, &doomed, is_known, &mut queue_timeout).await? {
                        return Ok(Untold::new(is_known));
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
                ) => return Ok(Untold::new(false)),
            }
        }
    }

    /// Forgets the record or interruption of a key, if the key still has it; the key is in flight
    /// meanwhile. Counts only if the key was still remembered.
    async fn forget_one(
        &self,
        caller: Caller,
        doomed: &Doomed,
        is_known: bool,
        queue_timeout: &mut QueueTimeout,
    ) -> Result<bool, CommitError> {
        self.check_blocking(caller)?;
        let cost = entry_bytes_max(ENTRY_OVERHEAD_MAX) as u64;
        let mut reservation = self.reserve_patiently(caller, cost, queue_timeout).await?;
        let (attempt, until) = match doomed {
            Doomed::Record(record) => (Attempt::forgetting(record.clone()), Some(record.remembered_until())),
            // A new one: the waiters of the old one were told how it ended.
            Doomed::Interrupted(attempt) => {
                let anew = Attempt::from_row(&attempt.row(None), self.limits.progress());
                // Callers are shown it until it is forgotten.
                anew.inherit(attempt);
                (anew, None)
            }
        };
        let attempt = Arc::new(attempt);
        let record = LogRecord::Vacated(Arc::clone(&attempt), until);
        let entry = record.encoded();
        // The key's state changes in the step that queues the entry. Between two steps the key
        // could be vacated, begun and completed, and the entry would then destroy that result.
        let doom = |_: &mut _| self.doom(&attempt, doomed);
        let entries = [(&*entry, record)];
        let Some(mut ticket) = self.commit.append_if(caller, entries, &mut reservation, doom)? else {
            return Ok(false);
        };
        drop(reservation);
        // The caller may stop waiting from here on: the key is forgotten all the same, and counts.
        if is_known {
            Counters::count(&self.counters.forgotten);
        }
        self.commit.settled(caller, &mut ticket).await?;
        Ok(true)
    }

    /// Marks the record or interruption as ending, if the key still has it.
    fn doom(&self, attempt: &Arc<Attempt>, doomed: &Doomed) -> bool {
        self.index.change(attempt.digest, |slot| {
            let is_same = match (slot, doomed) {
                (Slot::Cached(now, _), Doomed::Record(then)) => now.fence() == then.fence(),
                // Evicted since; the place is that of the record that was read.
                (Slot::Stored { place, .. }, Doomed::Record(then)) => Some(*place) == then.location(),
                (Slot::Interrupted(now), Doomed::Interrupted(then)) => Arc::ptr_eq(now, then),
                _ => false,
            };
            let change = if is_same { Change::Set(Slot::Ending(Arc::clone(attempt))) } else { Change::Keep };
            (change, is_same)
        })
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::Begin;
    use crate::Engine;
    use crate::Fingerprint;
    use crate::Status;
    use crate::engine::background::unattended::Unattended;
    use crate::engine::calls::lookup::tests::claim;
    use crate::engine::calls::lookup::tests::open;
    use crate::sim::DiskFault;
    use crate::sim::ManualClock;
    use crate::sim::SimDisk;
    use crate::task::caller::block;

    #[test]
    fn what_somebody_else_forgot_or_ran_again_meanwhile_is_not_forgotten() {
        let engine = open();
        let (core, scope) = (engine.handle.core(), &engine.default.inner);
        let asked = &KeyRef { scope, key: b"key", digest: scope.digest(b"key").unwrap() };
        drop(claim(&engine, "key"));
        let interrupted = Doomed::Interrupted(core.index.get(asked.digest).attempt().cloned().unwrap());
        let record = Doomed::Record(engine.scope("").resolve("key").unwrap().complete("reply").unwrap());
        let forget = |doomed| {
            let mut queue_timeout = QueueTimeout::new(core.options.queue_timeout);
            block(core.forget_one(Caller::Thread, doomed, true, &mut queue_timeout)).unwrap()
        };
        assert!(!forget(&interrupted));
        assert!(matches!(engine.default_scope().get("key"), Ok(Status::Done(_))));
        assert!(forget(&record) && !forget(&record));
        assert!(matches!(engine.default_scope().get("key"), Ok(Status::Vacant)));
    }

    /// The sweeper's entry may already be queued, and vacate the key before the entry of this
    /// call is written.
    #[test]
    fn a_failed_commit_is_told_to_those_who_wait_for_a_forgetting_that_is_off_the_index() {
        let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(1_000));
        let options = Engine::options().disk(&disk).clock(&clock).stepped().batch_bytes(4_096);
        let engine = options.open("x.idem").unwrap();
        let (core, scope) = (engine.handle.core(), &engine.default);
        let filler = claim(&engine, "filler");
        drop(claim(&engine, "key"));
        clock.advance(engine.policy().unresolved_ttl.unwrap());
        // Three groups: the sweeper's, one that is full, and that of the forgetting.
        let digest = scope.inner.digest(b"key").unwrap();
        assert_eq!(core.vacate_if_expired(digest, core.clock.now()), Unattended::Queued);
        drop(filler.complete_async([0; 4_096]));
        let mut context = Context::from_waker(Waker::noop());
        let mut forget = pin!(scope.forget_async("key"));
        assert!(forget.as_mut().poll(&mut context).is_pending());
        let Ok(Begin::InFlight(pending)) = engine.default_scope().begin("key", Fingerprint::of("")) else {
            panic!("it ends")
        };
        let mut wait = pin!(pending.wait_async());
        assert!(wait.as_mut().poll(&mut context).is_pending());
        disk.fault_at(disk.operations() + 4, DiskFault::Error);
        core.commit.drain();
        assert!(core.commit.failure().is_some());
        assert!(matches!(forget.as_mut().poll(&mut context), Poll::Ready(Err(ForgetError::Commit(_)))));
        assert!(wait.as_mut().poll(&mut context).is_ready(), "nobody will tell it");
    }
}
