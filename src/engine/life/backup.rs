//! A backup of a running engine.
//!
//! It copies the store's file byte for byte while the engine works. A few more rounds copy the
//! bytes written meanwhile. The last round follows a checkpoint, under the maintenance lock,
//! whose holder alone writes to the file. So the copy is the file that a kill at that moment
//! would leave, with an empty log.

use std::path::Path;
use std::time::Duration;

use super::open::check_name;
use crate::clock::Stopwatch;
use crate::disk::{Disk, DiskFile, Kind, unfinished};
use crate::engine::common::counters::Counters;
use crate::engine::core::{CallWorker, Core};
use crate::engine::handles::file_only::Backup;
use crate::error::{BackupError, CommitError, IoFailure};
use crate::observer::Event;
use crate::store::{Copy, Meanwhile, Whole};
use crate::sync::{Arc, is_ours, pause};
use crate::task::caller::{Caller, block};
use crate::{Timestamp, wal};

/// The most rounds in which the file is copied while it changes.
const ROUNDS_MAX: u32 = 8;
/// With so few bytes left, the last round may start.
const LEFT_ENOUGH: u64 = 4 << 20;
/// The copying thread rests after this much work, so that callers get the disk and the
/// processors.
const SHIFT: Duration = Duration::from_millis(2);
/// It rests so many times as long as it worked.
const REST: u32 = 3;
/// Its longest rest, after a slow sync.
const REST_MAX: Duration = Duration::from_millis(50);

impl Core {
    pub(in crate::engine) fn backup(&self, path: &Path) -> Result<Backup, BackupError> {
        self.health.check_process().map_err(CommitError::Failed)?;
        if self.is_inside() {
            return Err(BackupError::InsideTransaction);
        }
        self.check_blocking(Caller::Thread)?;
        if is_ours() {
            // The engine's own threads have others to serve.
            return Err(CommitError::InsideCallback.into());
        }
        self.health.may_write()?;
        let watch = Stopwatch::start();
        let disk = &*self.options.disk;
        let failed = |path: &Path, doing| {
            let path = path.to_owned();
            move |error| BackupError::Io(IoFailure::new(&path, doing, error))
        };
        let path = &disk.resolve(path).map_err(failed(path, "looking for"))?;
        check_name(path)?;
        for taken in [path, &wal::path_of(path)] {
            if disk.kind(taken).map_err(failed(taken, "looking at"))? != Kind::Missing {
                return Err(BackupError::Exists(taken.clone()));
            }
        }
        // Until the copy has its name, or is gone.
        let Some(tracking) = self.store.track() else { return Err(BackupError::Running) };
        let temporary = unfinished(path);
        let file =
            disk.create(&temporary, Some(self.store.path())).map_err(failed(&temporary, "creating"))?;
        let copied = self
            .copy(self.store.copy(&temporary, file, &tracking))
            .and_then(|(whole, time)| self.finish(whole, &temporary, time));
        // Wakers ran. In a child that one of them forked, the copy is the parent's.
        self.health.check_process().map_err(CommitError::Failed)?;
        // It is locked until it has its name.
        let (made, copy) = match copied {
            Ok((backup, copy)) => (name(disk, &temporary, path).map(|()| backup), Some(copy)),
            Err(error) => (Err(error), None),
        };
        // Its drop would do, but for a child process that is being started at this moment and has a
        // copy of it.
        drop(copy.map(|copy| copy.unlock()));
        if let Ok(backup) = &made {
            Counters::count(&self.counters.backups);
            let (bytes, took) = (backup.bytes, watch.elapsed());
            self.options.hooks.tell(|| Event::BackedUp { bytes, took });
        } else if let Ok(_locked) = disk.open(&temporary) {
            // Best effort: the next backup of this name takes its place. Had another call the lock by
            // now, it would be making a file of its own under this name.
            drop(disk.discard(&temporary));
        }
        made
    }

    /// Copies everything up to one moment.
    fn copy(&self, mut copy: Copy<'_>) -> Result<(Whole, Timestamp), BackupError> {
        // What was acknowledged and need not be durable yet is in it as well.
        block(self.flush(Caller::Thread))?;
        let mut shift = Stopwatch::start();
        for _ in 0..ROUNDS_MAX {
            copy.round(Meanwhile::Changes, || self.rest(&mut shift))?;
            // What the log holds now need not be copied while others wait for the maintenance
            // lock.
            self.checkpoint_on_request()?;
            if copy.left()? <= LEFT_ENOUGH {
                break;
            }
        }
        let _afterwards = CallWorker(self);
        let mut maintenance = self.lock_maintenance();
        self.make_store_ready(&mut maintenance)?;
        self.apply_tail(None).map_err(|error| self.store_refused(error))?;
        let time = self.clock.now();
        // No checkpoint makes room in the log while this has the maintenance lock.
        let grow = || {
            self.grow();
            self.health.may_write().map_err(BackupError::from)
        };
        copy.round(Meanwhile::StaysAsItIs, grow)?;
        let whole = copy.cut()?;
        drop(maintenance);
        Ok((whole, time))
    }

    /// Rests, if this thread has worked for long enough, so that callers get the disk and the
    /// processors.
    fn rest(&self, shift: &mut Stopwatch) -> Result<(), BackupError> {
        self.health.may_write()?;
        let worked = shift.elapsed();
        if self.options.workers && worked >= SHIFT {
            pause((REST * worked).min(REST_MAX));
            *shift = Stopwatch::start();
        }
        Ok(())
    }

    fn finish(
        &self,
        whole: Whole,
        path: &Path,
        time: Timestamp,
    ) -> Result<(Backup, Arc<dyn DiskFile>), BackupError> {
        let meta = self.store.meta();
        // Another one than the log's frames have: what is in the log is not in the backup.
        let purpose = format!("backup {} {}", meta.salt, meta.checkpointed_seq);
        let salt = u64::from_le_bytes(self.options.entropy.draw(&purpose)?);
        let copy = whole.finish(&*self.options.disk, path, time, salt)?;
        let bytes = copy.len().map_err(|error| IoFailure::new(path, "measuring", error))?;
        Ok((Backup { time, bytes }, copy))
    }
}

/// Gives a backup its name.
fn name(disk: &dyn Disk, temporary: &Path, path: &Path) -> Result<(), BackupError> {
    disk.publish(temporary, path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            BackupError::Exists(path.to_owned())
        } else {
            IoFailure::new(path, "naming", error).into()
        }
    })
}
