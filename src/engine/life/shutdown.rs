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
    /// Returns the number of claims in flight; the next opening interrupts their keys. In a child
    /// that a waker forked it touches nothing more, and gives [`Failure::Forked`].
    pub(super) fn shut_down(&self) -> Result<usize, Failure> {
        // Before the gate, so that a caller that was told "closed" finds readers refused as well.
        self.store.refuse_table_readers();
        // It may be shut already, where no thread could be had to close the file.
        self.health.shut();
        // Wakers run from here on, and may close the engine as well.
        let _closes = self.closes();
        self.refuse_waiters()?;
        // Without the maintenance lock: a reader may wait for a thread that waits for it.
        self.store.await_table_readers();
        // Waits for work in the background. No such work starts after this.
        let mut maintenance = self.lock_maintenance();
        for attempt in self.index.attempts_out() {
            attempt.end(Ended::Closed);
            self.health.check_process()?;
            self.withdraw_at_close(&attempt);
        }
        self.health.check_process()?;
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
        // An observer was told of the checkpoint.
        self.health.check_process()?;
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

    /// Tells all that wait, and takes no more of them. Wakers run, and may fork.
    fn refuse_waiters(&self) -> Result<(), Failure> {
        let steps: [&dyn Fn(); 5] = [
            &|| self.withdraw_all_undelivered(),
            &|| self.commit.close(),
            &|| self.reads.close(),
            &|| self.space.wake(),
            // Before the wait for readers of tables: a reader may wait for a claim.
            &|| {
                let out = self.index.attempts_out();
                let out = out.iter().take_while(|_| !self.health.is_forked());
                out.for_each(|attempt| attempt.end(Ended::Closed));
            },
        ];
        steps.iter().try_for_each(|step| {
            step();
            self.health.check_process()
        })
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
            // While its thread panics, redb makes no commit as it closes the file. Nor does it
            // where a read fails by then: a slow one may be under way, once one has failed.
            let closes = !std::thread::panicking() && self.store.failed_reads() == 0;
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

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::path::Path;
    use std::pin::pin;
    use std::sync::{Mutex, mpsc};
    use std::task::{Context, Waker};
    use std::thread;

    use crate::disk::Disk;
    use crate::engine::calls::lookup::tests::claim;
    use crate::sim::{CrashKind, SimDisk};
    use crate::{Engine, Fingerprint, Status, Verify};

    /// A thread may be between its last look at the engine and its claim. After the close it must
    /// not get that claim: the next opening may grant the key.
    #[test]
    fn a_failed_engine_withdraws_the_grants_that_its_log_takes_no_more() {
        let disk = SimDisk::new();
        let engine = Engine::options().disk(&disk).stepped().open("x.idem").unwrap();
        let scope = engine.default_scope();
        let mut begins = pin!(scope.begin_async("key", Fingerprint::of("")));
        assert!(begins.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        engine.flush().unwrap();
        let core = engine.handle.core();
        let [attempt] = core.index.attempts_out().try_into().unwrap();
        disk.fail_syncs(Some("-wal"));
        assert!(engine.default_scope().begin("behind", Fingerprint::of("")).is_err());
        assert!(attempt.is_undelivered());
        assert!(engine.clone().close().is_err());
        assert!(attempt.is_withdrawn());
        assert_eq!(attempt.deliver(), None);
    }

    /// The last commit becomes durable as the database is closed, unless a read stops that. Where
    /// one has failed, another may be under way.
    #[test]
    fn a_lookup_that_fails_during_a_close_costs_nothing_where_one_has_failed_before() {
        const COUNT: usize = 100;
        let disk = SimDisk::new();
        let options = || Engine::options().disk(&disk).cache_bytes(0).verify(Verify::UpTo(0)).stepped();
        let engine = options().open("x.idem").unwrap();
        for n in 0..COUNT {
            claim(&engine, &n.to_string()).complete(vec![7; 16_000]).unwrap();
        }
        engine.close().unwrap();
        let engine = options().open("x.idem").unwrap();
        let look = || (0..COUNT).for_each(|n| drop(engine.default_scope().get(n.to_string())));
        disk.fail_read(disk.reads());
        look();
        assert_eq!(engine.stats().failed_reads, 1);
        claim(&engine, "between").complete("reply").unwrap();
        engine.checkpoint().unwrap();
        claim(&engine, "last").complete("reply").unwrap();

        let (is_held, held) = mpsc::sync_channel(1);
        let (go, may_go) = mpsc::sync_channel::<()>(1);
        let (is_held, may_go) = (Mutex::new(Some(is_held)), Mutex::new(may_go));
        disk.before_reads(move |_| {
            let first = is_held.lock().unwrap().take();
            if let Some(is_held) = first {
                is_held.send(()).unwrap();
                // The other side is dropped.
                may_go.lock().unwrap().recv().unwrap_err();
            }
        });
        thread::scope(|threads| {
            threads.spawn(look);
            held.recv().unwrap();
            let closes = threads.spawn(|| engine.clone().close());
            // The log is unlocked behind the last commit.
            while disk.open(Path::new("x.idem-wal")).is_err() {
                thread::yield_now();
            }
            disk.fail_read(disk.reads());
            drop(go);
            closes.join().unwrap().unwrap();
        });
        disk.reboot(CrashKind::DropAll);
        assert!(disk.remove(Path::new("x.idem-wal")));
        let engine = options().open("x.idem").unwrap();
        assert!(matches!(engine.default_scope().get("last"), Ok(Status::Done(_))));
    }
}
