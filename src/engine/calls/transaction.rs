//! An effect and its completion in one transaction: the application's tables live in the same
//! file.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::activity::{Activity, ActivityMark, is_inside};
use crate::attempt::{Attempt, Ended};
use crate::engine::common::completion::Completion;
use crate::engine::common::end_request::NewResult;
use crate::engine::common::running::RunningMark;
use crate::engine::common::untold::Untold;
use crate::engine::core::maintenance::{MaintenanceGuard, MaintenanceState};
use crate::engine::core::{CallWorker, Core};
use crate::engine::file::claim::FileClaim;
use crate::error::{ClaimError, CommitError, CompleteInError, EndError, Failure, ReadError};
use crate::record::{Outcome, Record};
use crate::store::{OpenTransaction, ReadTables, StoreError, Tables};
use crate::sync::{Arc, is_ours};
use crate::task::caller::{Caller, block};

impl Core {
    /// Reads the application's own tables.
    pub(in crate::engine) fn read_tables<T>(
        &self,
        read: impl FnOnce(&ReadTables<'_>) -> T,
    ) -> Result<T, ReadError> {
        self.health.check_process().map_err(|_forked| ReadError::Forked)?;
        self.store.read_tables(self.has_maintenance_lock(), |tables| {
            let _inside = ActivityMark::enter(&self.commit, Activity::Transaction);
            read(tables)
        })
    }

    /// Whether the calling thread is inside a transaction of this engine, and so must not wait
    /// for the maintenance lock.
    pub(in crate::engine) fn is_inside(&self) -> bool {
        is_inside(&self.commit, &[Activity::Transaction, Activity::Works])
    }

    /// Prepares for a transaction that completes a claim: refuses one within another, and makes
    /// every queued entry durable.
    fn ready_for_transaction(&self) -> Result<(), ClaimError> {
        self.health.check_process().map_err(CommitError::Failed)?;
        if self.is_inside() {
            return Err(ClaimError::InsideTransaction);
        }
        self.check_blocking(Caller::Thread)?;
        if is_ours() {
            // It would wait for the maintenance lock, whose holder may wait for this thread.
            return Err(CommitError::InsideCallback.into());
        }
        // An entry about this claim, or an earlier one on the key, may be queued with nobody
        // waiting. If it came after the store's completion, replay would reopen the key. No
        // further one comes while the claim is good.
        Ok(block(self.commit.flush(Caller::Thread))?)
    }

    fn open_transaction(&self, maintenance: &mut MaintenanceState) -> Result<OpenTransaction, CommitError> {
        self.make_store_ready(maintenance)?;
        self.store.begin().map_err(|error| self.store_refused(error))
    }

    fn undo(&self, begun: OpenTransaction) {
        drop(self.store.abort(begun).map_err(|error| self.store_refused(error)));
    }
}

impl FileClaim {
    /// Completes the claim with the body that `work` returns, in one transaction with the writes of
    /// `work`.
    pub(in crate::engine) fn complete_in<B: AsRef<[u8]>, E>(
        self,
        work: impl FnOnce(&Tables<'_>) -> Result<B, E>,
    ) -> Result<Untold<Record>, CompleteInError<E>> {
        let handle = self.handle();
        let core = handle.core();
        if let Err(reason) = core.ready_for_transaction() {
            return Err(self.back(reason));
        }
        // Declared before the maintenance lock, so dropped after it: the body is foreign code, and
        // what the worker left out meanwhile is due.
        let mut body = None;
        let _afterwards = CallWorker(core);
        // Nobody else writes to the store from here on.
        let mut maintenance = core.lock_maintenance();
        let begun = match core.open_transaction(&mut maintenance) {
            Ok(begun) => begun,
            Err(error) => return Err(self.back(error.into())),
        };
        // The lock may have been another's for longer than the lease, and a slow disk may have held
        // up the transaction.
        if !core.is_good(self.of()) {
            core.undo(begun);
            drop(maintenance);
            return Err(self.came_too_late());
        }
        // redb can't abort while a panic goes through it. The body that `work` gives is foreign
        // code as well.
        let (kept, tables) = (&mut body, begun.tables());
        let running = RunningMark::enter(self.of());
        let work = AssertUnwindSafe(move || {
            let given: &B = kept.insert(work(&tables)?);
            Ok::<_, E>(given.as_ref())
        });
        let worked = maintenance.lend(|| catch_unwind(work));
        drop(running);
        if core.health.is_forked_for_sure() {
            // `work` forked, and this is the child: the transaction and the maintenance lock are
            // the parent's, and go on there.
            std::mem::forget(begun);
            maintenance.leave_locked();
            return match worked {
                Ok(_) => Err(self.back(CommitError::Failed(Failure::Forked).into())),
                Err(panic) => resume_unwind(panic),
            };
        }
        match worked {
            Ok(Ok(body)) => {
                let completion = Completion::new();
                self.commit_with(
                    maintenance,
                    begun,
                    NewResult { outcome: Outcome::Success, body, completion },
                )
            }
            Ok(Err(error)) => {
                core.undo(begun);
                Err(CompleteInError::Work { error, claim: Box::new(self.into()) })
            }
            Err(panic) => {
                core.undo(begun);
                drop(maintenance);
                resume_unwind(panic);
            }
        }
    }

    /// Commits the work's transaction with its result. If that panics, the claim's waiters are
    /// told, and the engine grants no more.
    fn commit_with<E>(
        self,
        maintenance: MaintenanceGuard<'_>,
        begun: OpenTransaction,
        given: NewResult<'_>,
    ) -> Result<Untold<Record>, CompleteInError<E>> {
        let (handle, attempt) = (self.handle(), Arc::clone(self.of()));
        let unwinding = FailOnUnwind(handle.core(), &attempt);
        let committed = handle.core().or_poison(|| self.commit_alone(maintenance, begun, given));
        std::mem::forget(unwinding);
        committed
    }

    fn commit_alone<E>(
        mut self,
        maintenance: MaintenanceGuard<'_>,
        begun: OpenTransaction,
        given: NewResult<'_>,
    ) -> Result<Untold<Record>, CompleteInError<E>> {
        let handle = self.handle();
        let core = handle.core();
        if let Err(error) = self.check(given) {
            core.undo(begun);
            return Err(self.back(error));
        }
        if self.start_ending().is_none() {
            core.undo(begun);
            drop(maintenance);
            return Err(self.came_too_late());
        }
        // The worker needs no maintenance lock to notice that a file was taken away. A close does
        // need it: one that began meanwhile lets the work end.
        if let Err(failed) = core.health.check_failure() {
            core.undo(begun);
            self.undo_end();
            return Err(self.back(failed.into()));
        }
        let record = given.record(self.of(), core.clock.now());
        let stored = core.apply_tail(Some((begun, &record)));
        // Asked once more: waiters of the claim may have been told of a failure already.
        let failed =
            || core.commit.failure().cloned().map_or(Ok(()), |failure| Err(StoreError::Failed(failure)));
        match stored.and_then(|()| failed()) {
            Ok(()) => {
                let waiters = core.publisher.complete(self.of(), &record);
                core.leases.forget(self.of());
                drop(maintenance);
                self.permit.leave();
                waiters.tell();
                self.count_outcome(&record);
                Ok(Untold::new(record))
            }
            Err(error) => {
                let reason = self.not_stored(error);
                Err(EndError::new(reason, (!self.is_over()).then(|| self.into())).into())
            }
        }
    }

    /// The error of a completion that is not in the store. If nothing was written, the claim is
    /// good again.
    fn not_stored(&mut self, error: StoreError) -> ClaimError {
        match &error {
            StoreError::Full(_) | StoreError::Later(_) => self.undo_end(),
            StoreError::Poisoned => {
                self.undo_end();
                return ClaimError::TransactionPoisoned;
            }
            // The end is the parent's.
            StoreError::Failed(Failure::Forked) => {}
            StoreError::Failed(failure) => {
                // Whether it is there, only the next opening can tell.
                self.core().leases.forget(self.of());
                self.of().end(Ended::Failed(Box::new(failure.clone())));
            }
        }
        self.core().store_refused(error).into()
    }

    /// The error of a completion whose claim is superseded.
    fn came_too_late<E>(self) -> CompleteInError<E> {
        let superseded = block(self.core().superseded(Caller::Thread, self.of()));
        EndError::new(superseded, None).into()
    }

    fn back<E>(self, reason: ClaimError) -> CompleteInError<E> {
        EndError::new(reason, Some(self.into())).into()
    }
}

/// Tells the waiters of a claim that the engine has failed, if its completion panics: whether the
/// store has that, only the next opening can tell. Defused otherwise.
struct FailOnUnwind<'a>(&'a Core, &'a Arc<Attempt>);

impl Drop for FailOnUnwind<'_> {
    fn drop(&mut self) {
        self.0.leases.forget(self.1);
        self.1.end(Ended::Failed(Box::new(Failure::Panicked)));
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::clock::after_read;
    use crate::engine::calls::lookup::tests::{claim, open};
    use crate::{Begin, Fingerprint, Waited};

    /// The completion reads the clock here and there, and the thread panics at one of these places
    /// after the other.
    #[test]
    fn no_waiter_of_a_claim_sleeps_on_where_its_completion_panics() {
        let mut places = 0;
        loop {
            let engine = open();
            let claim = claim(&engine, "key");
            let begun = engine.default_scope().begin("key", Fingerprint::of(""));
            let Ok(Begin::InFlight(pending)) = begun else { panic!("{begun:?}") };
            let (reads, is_reached) = (Cell::new(0), Rc::new(Cell::new(false)));
            let reached = Rc::clone(&is_reached);
            let panics = move || {
                reads.set(reads.get() + 1);
                reached.set(reads.get() > places);
                assert!(!reached.get(), "as it was told to");
            };
            let complete = || drop(claim.complete_in(|_| Ok::<_, ()>("reply")).map_err(drop));
            after_read::with(panics, || drop(catch_unwind(AssertUnwindSafe(complete))));
            let told = pending.wait_timeout(Duration::ZERO);
            assert!(!matches!(told, Ok(Waited::TimedOut)), "asleep after a panic at reading {places}");
            if !is_reached.get() {
                assert!(matches!(told, Ok(Waited::Done(_))), "{told:?}");
                break;
            }
            places += 1;
        }
        assert!(places > 2, "{places}");
    }
}
