//! A disk in memory that crashes, fails, lies and fills up on demand.
//!
//! Every write, change of length, sync, new file and new name is one *operation*, and gets a
//! number. A crash or a fault can be set for any of them. After a crash, all operations fail
//! until [`SimDisk::reboot`] decides which unsynced writes survived. A recording disk gives a
//! [`Moment`] for each operation, so that every crash of a run can be checked without running it
//! again.

mod crash;
mod fault;
mod files;
mod moment;
mod pages;
mod world;

pub use crash::CrashKind;
pub use fault::{DiskFault, Operation};
pub use moment::Moment;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Disk, DiskFile, Kind};
use crate::sync::{Arc, UnseenMutex};
use fault::Faults;
use files::{Contents, Files};
use pages::Pages;
use world::{Hook, SimFile, World};

/// A simulated disk. Clones are handles on the same disk.
///
/// ```
/// use idemkv::sim::{CrashKind, SimDisk};
/// use idemkv::{Begin, BeginError, Engine, Fingerprint};
///
/// let disk = SimDisk::new();
/// let open = || Engine::options().disk(&disk).stepped().open("x.idem");
/// let request = Fingerprint::of("request");
///
/// let engine = open()?;
/// let Begin::Fresh(claim) = engine.default_scope().begin("key", request)? else { panic!() };
/// disk.crash_at(disk.operations()); // the power goes at the very next operation
/// assert!(claim.complete("reply").is_err());
/// drop(engine);
///
/// disk.reboot(CrashKind::DropAll);
/// let asked = open()?.default_scope().begin("key", request);
/// assert!(matches!(asked, Err(BeginError::Unresolved(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<UnseenMutex<World>>);

impl Moment {
    /// A disk with the files that a power cut at this moment would leave.
    #[must_use]
    pub fn image(&self, kind: CrashKind) -> SimDisk {
        let mut files = self.files.clone();
        files.crash(kind);
        SimDisk(Arc::new(UnseenMutex::new(World { files, ..World::default() })))
    }
}

impl SimDisk {
    /// An empty disk without limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations so far: the number that the next one gets.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Reads so far: the number that the next one gets.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.0.lock().reads
    }

    /// Bytes that were written so far, to all files.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.0.lock().written
    }

    /// Keeps what is on the disk before each operation from now on.
    pub fn record(&self) {
        self.0.lock().moments = Some(Vec::new());
    }

    /// What was recorded since the last call.
    #[must_use]
    pub fn take_moments(&self) -> Vec<Moment> {
        self.0.lock().moments.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Cuts the power at operation `number`, before it has any effect.
    pub fn crash_at(&self, number: u64) {
        self.0.lock().crash_at = Some(number);
    }

    /// Whether the power is gone.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// Brings the power back, after deciding which writes survived.
    pub fn reboot(&self, kind: CrashKind) {
        let mut world = self.0.lock();
        world.crashed = false;
        world.crash_at = None;
        world.files.crash(kind);
        world.locks.clear();
    }

    /// Ends the process but not the machine: locks are gone, the page cache stays.
    pub fn restart_process(&self) {
        let mut world = self.0.lock();
        world.crashed = false;
        world.crash_at = None;
        world.locks.clear();
    }

    /// Limits the bytes that all files together may have, or lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.lock().files.used()
    }

    /// Lets operation `number` go wrong.
    pub fn fault_at(&self, number: u64, fault: DiskFault) {
        self.0.lock().faults.at.insert(number, fault);
    }

    /// Lets the disk be full from operation `number` on: files can't grow, and no new ones be
    /// made.
    pub fn fill_from(&self, number: u64) {
        self.0.lock().faults.full_from = Some(number);
    }

    /// Lets read `number` fail.
    pub fn fail_read(&self, number: u64) {
        self.0.lock().faults.reads.insert(number);
    }

    /// Lets every read fail from now on that asks for one of these bytes of a file, as a bad
    /// sector does. Returns whether there is such a file.
    #[must_use]
    pub fn fail_reads_of(&self, path: &Path, bytes: Range<u64>) -> bool {
        let mut world = self.0.lock();
        let id = world.files.names.get(path).copied();
        world.faults.unreadable.extend(id.map(|id| (id, bytes)));
        id.is_some()
    }

    /// Cancels faults that are still to come; a disk that is full by
    /// [`fill_from`](Self::fill_from) has space again.
    pub fn mend(&self) {
        self.0.lock().faults = Faults::default();
    }

    /// Makes syncs of files whose names end with `suffix` fail from now on; `None` makes them work
    /// again.
    ///
    /// The writes that a failed sync should have made durable are lost, but reads in the same
    /// boot still show them.
    pub fn fail_syncs(&self, suffix: Option<&str>) {
        self.0.lock().failing_syncs = suffix.map(str::to_owned);
    }

    /// Makes syncs of files whose names end with `suffix` succeed without making anything durable.
    /// A rig that doesn't notice this can't notice anything.
    pub fn ignore_syncs(&self, suffix: &str) {
        self.0.lock().ignored_syncs = Some(suffix.to_owned());
    }

    /// Calls `hook` with the name of the file before each sync, on the thread that syncs and
    /// without a lock: a hook that takes its time makes the disk slow, and one that waits holds
    /// that thread where it is.
    pub fn before_syncs(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        self.0.lock().before_syncs = Some(Hook(Arc::new(hook)));
    }

    /// The same before each read. A read gets its number after the hook, so that a hook that waits
    /// can hold a read and [`fail_read`](Self::fail_read) then fail it.
    pub fn before_reads(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        self.0.lock().before_reads = Some(Hook(Arc::new(hook)));
    }

    /// The same before each write.
    #[cfg(test)]
    pub(crate) fn before_writes(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        self.0.lock().before_writes = Some(Hook(Arc::new(hook)));
    }

    /// Flips one bit of a file, on the platter and in the page cache. `false` if the file is
    /// shorter or missing.
    #[must_use]
    pub fn flip(&self, path: &Path, bit: u64) -> bool {
        let at = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        self.edit(path, |bytes| {
            let mut byte = [0];
            let is_there = bytes.read(at, &mut byte);
            if is_there {
                bytes.write(at, &byte.map(|byte| byte ^ 1 << (bit % 8)));
            }
            is_there
        })
    }

    /// Cuts a file off at `len` bytes.
    #[must_use]
    pub fn truncate(&self, path: &Path, len: usize) -> bool {
        self.edit(path, |bytes| {
            bytes.resize(len.min(bytes.len()));
            true
        })
    }

    /// Bytes of a file; `None` if there is none.
    #[must_use]
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.0.lock();
        let contents = world.files.names.get(path).and_then(|id| world.files.contents.get(id));
        contents.map(|contents| contents.seen.to_vec())
    }

    /// Removes a file; returns whether there was one. A process that has it open keeps a file
    /// without a name.
    #[must_use]
    pub fn remove(&self, path: &Path) -> bool {
        self.0.lock().files.remove(path)
    }

    /// Renames a file, durably, replacing any file of the new name; `false` if there is no file
    /// `from`. A process that has it open keeps it.
    #[must_use]
    pub fn rename(&self, from: &Path, to: &Path) -> bool {
        let mut world = self.0.lock();
        let is_moved = world.files.rename(0, from, to).is_ok();
        world.files.sync_names();
        is_moved
    }

    /// An independent disk with the same files, as they would be found after `kind` of crash now.
    #[must_use]
    pub fn image(&self, kind: CrashKind) -> Self {
        let world = self.0.lock();
        world.moment(Operation::Sync).image(kind)
    }

    fn edit(&self, path: &Path, change: impl Fn(&mut Pages) -> bool) -> bool {
        let mut world = self.0.lock();
        let Files { names, contents, .. } = &mut world.files;
        let contents = names.get(path).and_then(|id| contents.get_mut(id));
        contents.is_some_and(|contents| change(&mut contents.durable) | change(&mut contents.seen))
    }
}

impl Disk for SimDisk {
    /// Names have no links here.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.0.lock().check_power()?;
        Ok(path.to_owned())
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let world = self.0.lock();
        world.check_power()?;
        Ok(if world.files.names.contains_key(path) { Kind::File } else { Kind::Missing })
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.0.lock();
        world.check_power()?;
        let Some(id) = world.files.names.get(path).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if world.locks.get(&id).is_some_and(|lock| lock.strong_count() > 0) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let file = Arc::new(SimFile { world: Arc::clone(&self.0), id });
        world.locks.insert(id, Arc::downgrade(&file));
        Ok(file)
    }

    fn create(&self, path: &Path, _like: Option<&Path>) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.0.lock();
        world.operate_or_fail(Operation::Create, true)?;
        let id = world.files.next_id;
        world.files.next_id += 1;
        world.files.name(path, id);
        world.files.contents.insert(id, Contents::default());
        drop(world);
        self.open(path)
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        if world.files.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.rename(from, to)?;
        let named = world.sync_names();
        if named.is_err() && !world.crashed {
            world.files.remove(to);
        }
        named
    }

    fn sync_name(&self, _path: &Path) -> io::Result<()> {
        self.0.lock().sync_names()
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.rename(from, to)?;
        world.sync_names()
    }

    /// Here one that reads at a time.
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn discard(&self, path: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.check_power()?;
        if world.files.remove(path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

#[cfg(test)]
mod tests;
