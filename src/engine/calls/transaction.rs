//! An effect and its completion in one transaction: the application's tables live in the same
//! file.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::end_request::EndRequest;
use crate::activity::{Activity, ActivityMark, is_inside};
use crate::attempt::Ended;
use crate::engine::core::maintenance::MaintenanceState;
use crate::engine::core::{CallWorker, Core};
use crate::engine::handles::claim::Claim;
use crate::engine::handles::engine::Engine;
use crate::engine::handles::running::RunningMark;
use crate::error::{ClaimError, CommitError, CompleteInError, EndError, Failure, ReadError};
use crate::record::{Outcome, Record};
use crate::store::{OpenTransaction, ReadTables, StoreError, Tables};
use crate::task::caller::{Caller, block};

impl Core {
    /// Whether the calling thread is inside a transaction of this engine, and so must not wait
    /// for the maintenance lock.
    pub(in crate::engine) fn is_inside(&self) -> bool {
        is_inside(&self.commit, &[Activity::Transaction, Activity::Writes])
    }

    /// Prepares for a transaction that completes a claim: refuses one within another, and makes
    /// every queued entry durable.
    fn ready_for_transaction(&self) -> Result<(), ClaimError> {
        self.health.check_process().map_err(CommitError::Failed)?;
        if self.is_inside() {
            return Err(ClaimError::InsideTransaction);
        }
        self.check_blocking(Caller::Thread)?;
        // An entry about this claim, or an earlier one on the key, may be queued with nobody
        // waiting. If it came after the store's completion, replay would reopen the key. No
        // further one comes while the claim is good.
        Ok(block(self.commit.flush(Caller::Thread))?)
    }

    fn open_transaction(&self, maintenance: &mut MaintenanceState) -> Result<OpenTransaction, CommitError> {
        self.make_store_ready(maintenance)?;
        self.store.begin().map_err(|error| self.store_refused(error))
    }
}

impl Claim {
    /// Completes the claim with the body that `work` returns, in one transaction with what `work`
    /// writes to the application's own tables in the same file: both are durable when this
    /// returns, or neither ever is. So an effect in the file happens exactly once, over any
    /// crash.
    ///
    /// While `work` runs, nothing else writes to the file's tables, not even checkpoints: keep it
    /// short. Other begins and completions continue until the log is full. Use it when the effect
    /// lives in the same file. It is slower than [`complete`](Self::complete): it waits for a
    /// store commit with two syncs, which also writes everything that the log has collected,
    /// where `complete` costs one append and one shared sync.
    ///
    /// It blocks and has no async form: call it where your runtime allows blocking.
    ///
    /// # Errors
    ///
    /// If `work` returns an error, nothing is written, and the call returns that error with the
    /// claim. Otherwise as for [`complete`](Self::complete). Within `work`, a `complete_in` and a
    /// wait for another claim are refused, and so is a call for which only a checkpoint could free
    /// log space. A `checkpoint` within `work` does nothing, and a close waits until `work` is
    /// over. `work` must not wait for other threads either: they may wait for it.
    ///
    /// # Panics
    ///
    /// If `work` panics: nothing is written, the claim is dropped, and the panic continues.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// use idemkv::tables::redb::{ReadableTable, TableDefinition};
    ///
    /// const BALANCES: TableDefinition<&str, u64> = TableDefinition::new("balances");
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let Begin::Fresh(claim) = engine.default_scope().begin("deposit-1", request)? else { panic!() };
    /// claim.complete_in(|tables| {
    ///     let mut balances = tables.open_table(BALANCES)?;
    ///     let balance = balances.get("alice")?.map_or(0, |balance| balance.value()) + 10;
    ///     balances.insert("alice", balance)?;
    ///     Ok::<_, Box<dyn std::error::Error>>(format!("balance={balance}"))
    /// })?;
    ///
    /// let Begin::Done(record) = engine.default_scope().begin("deposit-1", request)? else { panic!() };
    /// assert_eq!(record.body(), b"balance=10");
    /// let balance = engine.read_tables(|tables| {
    ///     let balances = tables.open_table(BALANCES)?;
    ///     let balance = balances.get("alice")?.map(|balance| balance.value());
    ///     Ok::<_, Box<dyn std::error::Error>>(balance)
    /// })??;
    /// assert_eq!(balance, Some(10));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn complete_in<B: AsRef<[u8]>, E>(
        mut self,
        work: impl FnOnce(&Tables<'_>) -> Result<B, E>,
    ) -> Result<Record, CompleteInError<E>> {
        let handle = self.handle();
        let core = handle.core();
        if let Err(reason) = core.ready_for_transaction() {
            return Err(self.refused(reason));
        }
        // Declared before the maintenance lock, so dropped after it: what the worker left out
        // meanwhile is due.
        let _afterwards = CallWorker(core);
        // Nobody else writes to the store from here on.
        let mut maintenance = core.maintenance.lock();
        // What the closure gives, and wakers, are code of others, too.
        let writes = ActivityMark::enter(&core.commit, Activity::Writes);
        let begun = match core.open_transaction(&mut maintenance) {
            Ok(begun) => begun,
            Err(error) => return Err(self.refused(error.into())),
        };
        // redb can't abort while a panic goes through it. The body that `work` gives is foreign
        // code as well.
        let (mut body, tables) = (None, begun.tables());
        let kept = &mut body;
        let working = (RunningMark::enter(self.of()), ActivityMark::enter(&core.commit, Activity::Works));
        let worked = catch_unwind(AssertUnwindSafe(move || {
            let given: &B = kept.insert(work(&tables)?);
            Ok::<_, E>(given.as_ref())
        }));
        drop(working);
        if core.health.is_forked_for_sure() {
            // `work` forked, and this is the child: the transaction and the maintenance lock are
            // the parent's, and go on there.
            std::mem::forget((begun, maintenance));
            return match worked {
                Ok(_) => Err(self.refused(CommitError::Failed(Failure::Forked).into())),
                Err(panic) => resume_unwind(panic),
            };
        }
        let undo = |begun| {
            if let Err(error) = core.store.abort(begun) {
                core.store_refused(error);
            }
        };
        let body_bytes = match worked {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                undo(begun);
                return Err(CompleteInError::Work { error, claim: Box::new(self) });
            }
            Err(panic) => {
                undo(begun);
                drop((writes, maintenance));
                resume_unwind(panic);
            }
        };
        let given = EndRequest::new(Outcome::Success, body_bytes);
        if let Err(error) = self.check(given) {
            undo(begun);
            return Err(self.refused(error));
        }
        if let Err(refusal) = self.start_ending() {
            undo(begun);
            drop((writes, maintenance));
            return Err(block(refusal.explained(Caller::Thread)).into());
        }
        let record = given.record(self.of(), core.clock.now());
        match core.apply_tail(Some((begun, &record))) {
            Ok(()) => {
                core.publisher.complete(self.of(), &record);
                core.leases.forget(self.of());
                drop((writes, maintenance));
                self.count_outcome(&record);
                Ok(record)
            }
            Err(error) => {
                let reason = self.not_stored(error);
                Err(EndError::new(reason, (!self.is_over()).then_some(self)).into())
            }
        }
    }

    /// The error of a completion that is not in the store. If nothing was written, the claim is
    /// good again.
    fn not_stored(&mut self, error: StoreError) -> ClaimError {
        match &error {
            StoreError::Full(_) | StoreError::Later(_) => self.undo_end(),
            StoreError::Failed(failure) => {
                // Whether it is there, only the next opening can tell.
                self.core().leases.forget(self.of());
                self.of().end(Ended::Failed(Box::new(failure.clone())));
            }
        }
        self.core().store_refused(error).into()
    }

    fn refused<E>(self, reason: ClaimError) -> CompleteInError<E> {
        EndError::new(reason, Some(self)).into()
    }
}

impl Engine {
    /// Reads the application's own tables, as they are at this moment; see [`Claim::complete_in`].
    ///
    /// Keep it short: meanwhile the file can't be compacted or closed, and old pages are kept.
    /// Within `read`, `complete_in` is refused. After a full disk this waits up to 2 s for the
    /// file to be opened again.
    ///
    /// # Errors
    ///
    /// When `close` was called, or the file can't be read. An error of `read` is returned.
    pub fn read_tables<T>(&self, read: impl FnOnce(&ReadTables<'_>) -> T) -> Result<T, ReadError> {
        let core = self.handle.core();
        core.health.check_process().map_err(|_forked| ReadError::Forked)?;
        core.store.read_tables(|tables| {
            let _inside = ActivityMark::enter(&core.commit, Activity::Transaction);
            read(tables)
        })
    }
}
