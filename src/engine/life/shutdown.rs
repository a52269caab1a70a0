//! Shutdown: the last step of a close, which makes the last checkpoint and unlocks the files.

use crate::attempt::Ended;
use crate::engine::background::commit_cost::RECLAIM_MIN;
use crate::engine::core::Core;
use crate::error::Failure;
use crate::log_tail::LogTail;
use crate::store::{Batch, StoreError};

impl Core {
    /// Refuses new work, commits the queue, moves the log's content to the store, and closes the
    /// store.
    ///
    /// Returns the number of claims in flight; the next opening interrupts their keys.
    pub(super) fn shut_down(&self) -> Result<usize, Failure> {
        // Before the gate, so that a caller that was told "closed" finds readers refused as well.
        self.store.refuse_table_readers();
        // It may be shut already, where no thread could be had to close the file.
        self.health.shut();
        // Wakers run from here on, and may close the engine as well.
        let _closes = self.closes();
        self.withdraw_all_undelivered();
        self.commit.close();
        self.reads.close();
        self.space.wake();
        // Before the wait for readers of tables: a reader may wait for a claim.
        self.index.attempts_out().iter().for_each(|attempt| attempt.end(Ended::Closed));
        // Without the maintenance lock: a reader may wait for a thread that waits for it.
        self.store.await_table_readers();
        // Waits for work in the background. No such work starts after this.
        let mut maintenance = self.lock_maintenance();
        for attempt in self.index.attempts_out() {
            attempt.end(Ended::Closed);
            self.withdraw_at_close(&attempt);
        }
        // A panic from here on must not be followed by another checkpoint, which would lack the
        // tail.
        maintenance.closed = Some(Err(Failure::Panicked));
        let (tail, left) = self.publisher.take_last_tail();
        let flushed = match self.health.failure() {
            // There was nothing to bring up to date.
            Some(Failure::ReadOnly) => Ok(()),
            Some(failure) => Err(failure.clone()),
            // Even where a file was taken away: then that one is whole.
            None => self.last_checkpoint(&tail).and_then(|()| self.taken_away().map_or(Ok(()), Err)),
        };
        // The log first: the next process that opens the store locks the log too.
        let growing = self.lock_growth();
        let log = self.log.get();
        let unlocked = log.map_or(Ok(()), |log| log.unlock()).map_err(Failure::Io);
        // It makes the last checkpoint durable.
        let closed = flushed.and(self.store.close());
        maintenance.closed = Some(closed.clone());
        drop((growing, maintenance));
        closed.and(unlocked).map(|()| left)
    }

    fn last_checkpoint(&self, tail: &LogTail) -> Result<(), Failure> {
        let is_full = self.health.disk().of_store().is_some();
        let ready = if is_full {
            // Nothing is opened again while tables are read, and there is no later try.
            self.store.await_table_readers();
            self.store.reopen()
        } else {
            Ok(())
        };
        let applied = ready.and_then(|()| {
            // While its thread panics, redb makes no commit as it closes the file.
            let closes = !std::thread::panicking();
            let batch = Batch { closes, ..tail.batch(RECLAIM_MIN) };
            self.store_batch(None, &batch, |meta| {
                meta.checkpointed_seq = tail.seq;
                meta.fence_next = self.fences.next();
                meta.log_empty = true;
            })
        });
        match applied {
            Ok(_) => Ok(()),
            // The log has it all; the next opening tries again.
            Err(StoreError::Full(failure)) => Err(Failure::Io(failure)),
            Err(StoreError::Later(failure)) => Err(Failure::FileNotReady(failure)),
            Err(StoreError::Failed(failure)) => Err(failure),
            Err(StoreError::Poisoned) => unreachable!("no application has a transaction any more"),
        }
    }
}
