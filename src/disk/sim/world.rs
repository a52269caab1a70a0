//! The state of the disk, and its open files: every operation is counted, and may crash or fail.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::crash::{Change, Pending};
use super::fault::{Faults, Operation, Verdict, broken};
use super::files::{FileId, Files};
use super::moment::Moment;
use crate::disk::DiskFile;
use crate::sync::{Arc, UnseenMutex, Weak};

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) files: Files,
    pub(super) locks: HashMap<FileId, Weak<SimFile>>,
    pub(super) operations: u64,
    pub(super) reads: u64,
    /// Bytes that were written to files.
    pub(super) written: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) crashed: bool,
    /// Bytes that all files together may have.
    pub(super) capacity: Option<u64>,
    pub(super) faults: Faults,
    /// The next syncs of a file whose name ends so fail. The writes that they should have made
    /// durable are lost, though reads still show them, like a page cache.
    pub(super) failing_syncs: Option<String>,
    /// Syncs of a file whose name ends so do nothing, silently. For proving that a rig notices.
    pub(super) ignored_syncs: Option<String>,
    /// The moments before each operation, if they are recorded.
    pub(super) moments: Option<Vec<Moment>>,
    pub(super) before_syncs: Option<Hook>,
    pub(super) before_reads: Option<Hook>,
    pub(super) before_writes: Option<Hook>,
}

/// A hook that is called before each sync, read or write, with the name of the file.
#[derive(Clone)]
pub(super) struct Hook(pub(super) Arc<dyn Fn(&str) + Send + Sync>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) world: Arc<UnseenMutex<World>>,
    pub(super) id: FileId,
}

impl World {
    /// Counts an operation, crashes if this one was set to, and returns how it ends.
    fn operate(&mut self, operation: Operation, grows: bool) -> io::Result<Verdict> {
        self.check_power()?;
        let moment = self.moments.is_some().then(|| self.moment(operation));
        if let Some(moments) = &mut self.moments {
            moments.extend(moment);
        }
        if self.crash_at == Some(self.operations) {
            self.crashed = true;
        }
        let number = self.operations;
        // Before the verdict, which may be a panic: it too happens once.
        self.operations += 1;
        let verdict = self.faults.verdict(number, grows);
        self.check_power()?;
        Ok(verdict)
    }

    /// As [`operate`](Self::operate), for operations that are done completely or not at all.
    pub(super) fn operate_or_fail(&mut self, operation: Operation, grows: bool) -> io::Result<()> {
        match self.operate(operation, grows)? {
            Verdict::Done | Verdict::Lied => Ok(()),
            Verdict::Failed(error) | Verdict::Late(error) => Err(error),
        }
    }

    /// Gives a file another name: at once, or not at all, and not durably.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate_or_fail(Operation::Rename, false)?;
        self.files.rename(self.operations, from, to)
    }

    /// Makes the names of all files durable, as a sync of their directory does.
    pub(super) fn sync_names(&mut self) -> io::Result<()> {
        match self.operate(Operation::Sync, false)? {
            Verdict::Lied => Ok(()),
            Verdict::Failed(error) => Err(error),
            Verdict::Late(error) => {
                self.files.sync_names();
                Err(error)
            }
            Verdict::Done => {
                self.files.sync_names();
                Ok(())
            }
        }
    }

    pub(super) fn moment(&self, operation: Operation) -> Moment {
        Moment { number: self.operations, operation, files: self.files.clone() }
    }

    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }

    /// By how much a file of this new length grows.
    fn grows(&self, id: FileId, len: usize) -> u64 {
        let now = self.files.contents.get(&id).map_or(0, |contents| contents.seen.len());
        len.saturating_sub(now) as u64
    }

    fn check_room(&self, id: FileId, len: usize) -> io::Result<()> {
        let more = self.grows(id, len);
        match self.capacity {
            Some(capacity) if more > 0 && self.files.used() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn change(&mut self, id: FileId, change: Change) -> io::Result<()> {
        let number = self.operations;
        let contents = self.files.contents(id)?;
        change.apply(&mut contents.seen);
        contents.pending.push(Pending { number, change });
        Ok(())
    }

    /// Whether a file's name ends so.
    fn is_named(&self, id: FileId, suffix: Option<&String>) -> bool {
        suffix.is_some_and(|suffix| self.files.name_of(id).ends_with(suffix))
    }
}

impl SimFile {
    /// Calls a hook, if it is set, without the lock.
    fn call(&self, hook: impl Fn(&World) -> Option<&Hook>) {
        let world = self.world.lock();
        if let Some(Hook(hook)) = hook(&world).cloned() {
            let name = world.files.name_of(self.id);
            drop(world);
            hook(&name);
        }
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut world = self.world.lock();
        world.check_power()?;
        Ok(world.files.contents(self.id)?.seen.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.call(|world| world.before_reads.as_ref());
        let mut world = self.world.lock();
        world.check_power()?;
        let number = world.reads;
        world.reads += 1;
        let bytes = offset..offset.saturating_add(out.len() as u64);
        if world.faults.fails_read(number, self.id, &bytes) {
            return Err(broken());
        }
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if world.files.contents(self.id)?.seen.read(at, out) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.call(|world| world.before_writes.as_ref());
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut world = self.world.lock();
        let len = at.saturating_add(bytes.len());
        let grows = world.grows(self.id, len) > 0;
        let verdict = world.operate(Operation::Write, grows)?;
        world.written += bytes.len() as u64;
        world.check_room(self.id, len)?;
        match verdict {
            Verdict::Done | Verdict::Lied => world.change(self.id, Change::Write { at, bytes: bytes.into() }),
            Verdict::Failed(error) => Err(error),
            Verdict::Late(error) => {
                let (half, _) = bytes.split_at(bytes.len() / 2);
                world.change(self.id, Change::Write { at, bytes: half.into() })?;
                Err(error)
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mut world = self.world.lock();
        let grows = world.grows(self.id, len) > 0;
        world.operate_or_fail(Operation::SetLen, grows)?;
        world.check_room(self.id, len)?;
        world.change(self.id, Change::Len(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.call(|world| world.before_syncs.as_ref());
        let mut world = self.world.lock();
        let verdict = world.operate(Operation::Sync, false)?;
        let is_failing = world.is_named(self.id, world.failing_syncs.as_ref());
        let is_ignored = world.is_named(self.id, world.ignored_syncs.as_ref());
        let contents = world.files.contents(self.id)?;
        let (is_kept, said) = match verdict {
            _ if is_failing => (false, Err(broken())),
            Verdict::Done => (true, Ok(())),
            Verdict::Failed(error) => (false, Err(error)),
            Verdict::Late(error) => (true, Err(error)),
            Verdict::Lied => return Ok(()),
        };
        if is_ignored && is_kept {
            return said;
        }
        for pending in std::mem::take(&mut contents.pending) {
            if is_kept {
                pending.change.apply(&mut contents.durable);
            }
        }
        said
    }

    fn unlock(&self) -> io::Result<()> {
        self.world.lock().locks.remove(&self.id);
        Ok(())
    }

    fn is_gone_from(&self, path: &Path) -> bool {
        let world = self.world.lock();
        !world.crashed && world.files.names.get(path) != Some(&self.id)
    }
}
