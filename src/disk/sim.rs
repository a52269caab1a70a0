//! A disk in memory that crashes, fails, lies and fills up on demand.
//!
//! Every write, change of length, sync, new file and new name is one *operation*, and gets a number. A crash or a fault can
//! be set to happen at any of them; after a crash, all operations fail until [`SimDisk::reboot`] decides what of the
//! unsynced writes survived. A disk that records gives a [`Moment`] for each operation, so that every crash of a run can be
//! looked at without running it again.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::{Disk, DiskFile, Kind};
use crate::sync::{Arc, UnseenMutex, Weak};

mod crash;
mod fault;
mod pages;

pub use crash::CrashKind;
use crash::{Change, Crash, Novelty, Pending};
pub use fault::{DiskFault, Operation};
use fault::{Faults, Verdict, broken};
use pages::Pages;

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
/// let Begin::Fresh(claim) = engine.begin("key", request)? else { panic!() };
/// disk.crash_at(disk.operations()); // the power goes at the very next operation
/// assert!(claim.complete("reply").is_err());
/// drop(engine);
///
/// disk.reboot(CrashKind::DropAll);
/// assert!(matches!(open()?.begin("key", request), Err(BeginError::Unresolved(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<UnseenMutex<World>>);

#[derive(Debug, Default)]
struct World {
    files: Files,
    locks: HashMap<FileId, Weak<SimFile>>,
    operations: u64,
    reads: u64,
    /// Bytes that were written to files.
    written: u64,
    crash_at: Option<u64>,
    crashed: bool,
    /// Bytes that all files together may have.
    capacity: Option<u64>,
    faults: Faults,
    /// The next syncs of a file whose name ends so fail; what they should have made durable is lost, though reads go on to
    /// show it, as a page cache does.
    failing_syncs: Option<String>,
    /// Syncs of a file whose name ends so do nothing, silently. For proving that a rig notices.
    ignored_syncs: Option<String>,
    /// What was before each operation, where somebody wants to know.
    moments: Option<Vec<Moment>>,
    before_syncs: Option<Hook>,
}

/// What is called before each sync, with the name of the file.
#[derive(Clone)]
struct Hook(Arc<dyn Fn(&str) + Send + Sync>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

type FileId = u64;

/// What is on the disk. A copy shares all bytes until one of the two is written to.
#[derive(Clone, Debug, Default)]
struct Files {
    names: HashMap<PathBuf, FileId>,
    contents: BTreeMap<FileId, Contents>,
    next_id: FileId,
}

#[derive(Clone, Debug, Default)]
struct Contents {
    /// What the process sees.
    seen: Pages,
    /// What is on the platter.
    durable: Pages,
    /// Since the last sync, in order.
    pending: Vec<Pending>,
}

/// A disk as it was right before one of its operations.
#[derive(Clone, Debug)]
pub struct Moment {
    number: u64,
    operation: Operation,
    files: Files,
}

#[derive(Debug)]
struct SimFile {
    world: Arc<UnseenMutex<World>>,
    id: FileId,
}

impl Moment {
    /// The number of the operation.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What the operation is.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Whether everything was synced, so that a crash takes nothing.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.files.is_synced()
    }

    /// How many pieces were not synced: see [`CrashKind::Subset`].
    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.files.pieces()
    }

    /// A disk with the files that would be found if the power had gone at this moment.
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

    /// Lets the power go at operation `number`, before it has any effect.
    pub fn crash_at(&self, number: u64) {
        self.0.lock().crash_at = Some(number);
    }

    /// Whether the power is gone.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// Brings the power back, after deciding what survived.
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

    /// Lets the disk be full from operation `number` on: files can't grow, and no new ones be made.
    pub fn fill_from(&self, number: u64) {
        self.0.lock().faults.full_from = Some(number);
    }

    /// Lets read `number` fail.
    pub fn fail_read(&self, number: u64) {
        self.0.lock().faults.reads.insert(number);
    }

    /// Forgets faults that are still to come, and a disk that is full by [`fill_from`](Self::fill_from) has room again.
    pub fn mend(&self) {
        self.0.lock().faults = Faults::default();
    }

    /// Makes syncs of files whose names end with `suffix` fail from now on; `None` makes them work again.
    ///
    /// What a failed sync should have made durable is lost, but reads in the same boot go on to show it.
    pub fn fail_syncs(&self, suffix: Option<&str>) {
        self.0.lock().failing_syncs = suffix.map(str::to_owned);
    }

    /// Makes syncs of files whose names end with `suffix` succeed without making anything durable. A rig that doesn't notice
    /// this can't notice anything.
    pub fn ignore_syncs(&self, suffix: &str) {
        self.0.lock().ignored_syncs = Some(suffix.to_owned());
    }

    /// Calls `hook` with the name of the file before each sync, on the thread that syncs and without a lock: a hook that takes its time
    /// makes the disk slow, and one that waits holds that thread where it is.
    pub fn before_syncs(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        self.0.lock().before_syncs = Some(Hook(Arc::new(hook)));
    }

    /// Flips one bit of a file, on the platter and in what is seen. `false` where the file is shorter or missing.
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

    /// Bytes of a file; `None` where there is none.
    #[must_use]
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.0.lock();
        let contents = world.files.names.get(path).and_then(|id| world.files.contents.get(id));
        contents.map(|contents| contents.seen.to_vec())
    }

    /// Removes a file; whether there was one. A process that has it open goes on with a file without a name.
    #[must_use]
    pub fn remove(&self, path: &Path) -> bool {
        self.0.lock().files.names.remove(path).is_some()
    }

    /// Gives a file another name, in place of a file that had it; whether there was one. A process that has it open keeps it.
    #[must_use]
    pub fn rename(&self, from: &Path, to: &Path) -> bool {
        let mut world = self.0.lock();
        let moved = world.files.names.remove(from).map(|id| world.files.names.insert(to.to_owned(), id));
        moved.is_some()
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

impl Files {
    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|id| self.contents.get(id))
            .map(|contents| contents.seen.len() as u64)
            .sum()
    }

    fn is_synced(&self) -> bool {
        self.contents.values().all(|contents| contents.pending.is_empty())
    }

    fn pieces(&self) -> u64 {
        let (mut novelty, mut count) = (Novelty::default(), 0);
        for (id, contents) in &self.contents {
            for pending in &contents.pending {
                let mut is_new = |piece| novelty.is_new(*id, &contents.durable, &piece);
                pending.change.for_each_piece(|piece| count += u64::from(is_new(piece)));
            }
        }
        count
    }

    /// Decides what survives.
    fn crash(&mut self, kind: CrashKind) {
        let mut crash = Crash::new(kind, || self.pieces());
        let mut pending = Vec::new();
        for (id, contents) in &mut self.contents {
            contents.seen.clone_from(&contents.durable);
            let changes = std::mem::take(&mut contents.pending).into_iter();
            pending.extend(changes.map(|pending| (pending.number, *id, pending.change)));
        }
        pending.sort_unstable_by_key(|(number, ..)| *number);
        for (_, id, change) in pending {
            self.contents.entry(id).and_modify(|contents| {
                crash.survive(id, &contents.durable, &mut contents.seen, &change);
            });
        }
        for contents in self.contents.values_mut() {
            contents.durable.clone_from(&contents.seen);
        }
    }

    fn name_of(&self, id: FileId) -> String {
        let named = self.names.iter().find(|(_, other)| **other == id);
        named.map(|(path, _)| path.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn contents(&mut self, id: FileId) -> io::Result<&mut Contents> {
        self.contents.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl World {
    /// Counts an operation, crashes where one was ordered, and says how it ends.
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

    /// As [`operate`](Self::operate), for what is done or not.
    fn operate_or_fail(&mut self, operation: Operation, grows: bool) -> io::Result<()> {
        match self.operate(operation, grows)? {
            Verdict::Done | Verdict::Lied => Ok(()),
            Verdict::Failed(error) | Verdict::Late(error) => Err(error),
        }
    }

    fn moment(&self, operation: Operation) -> Moment {
        Moment { number: self.operations, operation, files: self.files.clone() }
    }

    fn check_power(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }

    /// By how much a file grows that gets this long.
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
        world.files.names.insert(path.to_owned(), id);
        world.files.contents.insert(id, Contents::default());
        drop(world);
        self.open(path)
    }

    /// A rename is atomic and durable at once here; a crash comes before or after it.
    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.0.lock().files.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.replace(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.operate_or_fail(Operation::Rename, false)?;
        let Some(id) = world.files.names.remove(from) else { return Err(io::ErrorKind::NotFound.into()) };
        world.files.names.insert(to.to_owned(), id);
        Ok(())
    }

    /// Here one that reads at a time.
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn discard(&self, path: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.check_power()?;
        world.files.names.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut world = self.world.lock();
        world.check_power()?;
        Ok(world.files.contents(self.id)?.seen.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut world = self.world.lock();
        world.check_power()?;
        let number = world.reads;
        world.reads += 1;
        if world.faults.reads.contains(&number) {
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
        let mut world = self.world.lock();
        if let Some(Hook(hook)) = world.before_syncs.clone() {
            let name = world.files.name_of(self.id);
            drop(world);
            hook(&name);
            world = self.world.lock();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &SimDisk) -> Arc<dyn DiskFile> {
        disk.create(Path::new("f"), None).unwrap()
    }

    #[test]
    fn unsynced_writes_survive_as_the_crash_decides() {
        let disk = SimDisk::new();
        let file = file(&disk);
        file.write_at(0, &[1; 1_024]).unwrap();
        file.sync().unwrap();
        file.write_at(0, &[2; 1_024]).unwrap();
        let after = |kind| disk.image(kind).read(Path::new("f")).unwrap();
        assert_eq!(after(CrashKind::DropAll), [1; 1_024]);
        assert_eq!(after(CrashKind::KeepAll), [2; 1_024]);
        let torn = (0..50).map(|seed| after(CrashKind::Torn(seed)));
        let half = torn.filter(|bytes| bytes[..512] != bytes[512..]).count();
        assert!(half > 0, "no seed tore the write in the middle");
    }

    #[test]
    fn every_subset_of_the_sectors_that_are_new_survives_by_its_number() {
        let disk = SimDisk::new();
        let file = file(&disk);
        file.write_at(0, &[1; 2_048]).unwrap();
        file.sync().unwrap();
        disk.record();
        let mut sectors = [1; 2_048];
        sectors[512..1_024].fill(2);
        sectors[1_536..].fill(3);
        file.write_at(0, &sectors).unwrap();
        file.set_len(2_048 + 512).unwrap();
        file.sync().unwrap();
        let moments = disk.take_moments();
        let before_sync = moments.last().unwrap();
        assert_eq!((before_sync.operation(), before_sync.pieces()), (Operation::Sync, 3));
        let found = |newest, older| {
            let bytes = before_sync.image(CrashKind::Subset { newest, older }).read(Path::new("f")).unwrap();
            (bytes[512], bytes[1_536], bytes.len())
        };
        assert_eq!(found(0, true), (1, 1, 2_048));
        assert_eq!(found(0b001, false), (1, 1, 2_560));
        assert_eq!(found(0b010, false), (1, 3, 2_048));
        assert_eq!(found(0b101, false), (2, 1, 2_560));
    }

    #[test]
    fn a_failed_sync_loses_what_reads_still_show() {
        let disk = SimDisk::new();
        let file = file(&disk);
        file.write_at(0, b"lost").unwrap();
        disk.fail_syncs(Some("f"));
        assert!(file.sync().is_err());
        disk.fail_syncs(None);
        file.sync().unwrap();
        assert_eq!(disk.read(Path::new("f")).unwrap(), b"lost");
        assert_eq!(disk.image(CrashKind::KeepAll).read(Path::new("f")).unwrap(), b"");
    }

    #[test]
    fn of_many_pieces_the_older_ones_survive_together() {
        let disk = SimDisk::new();
        let file = file(&disk);
        for byte in 1..=70 {
            file.write_at(u64::from(byte - 1) * 512, &[byte; 512]).unwrap();
        }
        let survive = |newest, older| {
            let bytes = disk.image(CrashKind::Subset { newest, older }).read(Path::new("f")).unwrap();
            let sectors = bytes.chunks(512).map(|sector| sector[0]).filter(|byte| *byte > 0);
            sectors.collect::<Vec<_>>()
        };
        assert_eq!(survive(0, true), [1, 2, 3, 4, 5, 6]);
        assert_eq!(survive(1, false), [70]);
        assert_eq!(survive(1 << 63, false), [7]);
    }

    #[test]
    fn a_sync_that_lies_keeps_nothing_and_one_that_is_ignored_can_fail_all_the_same() {
        let disk = SimDisk::new();
        let file = file(&disk);
        let kept = || disk.image(CrashKind::DropAll).read(Path::new("f")).unwrap();
        file.write_at(0, b"lost").unwrap();
        disk.fault_at(disk.operations(), DiskFault::Lie);
        file.sync().unwrap();
        assert_eq!(kept(), b"");
        disk.ignore_syncs("f");
        file.sync().unwrap();
        assert_eq!(kept(), b"");
        disk.fault_at(disk.operations(), DiskFault::Error);
        assert!(file.sync().is_err());
        assert_eq!(kept(), b"");
    }

    #[test]
    fn what_is_not_there_can_not_be_changed_removed_or_renamed() {
        let disk = SimDisk::new();
        let (here, gone) = (Path::new("f"), Path::new("g"));
        disk.put(here, b"1234").unwrap();
        assert!(disk.flip(here, 0) && !disk.flip(here, 4 * 8) && !disk.flip(gone, 0));
        assert!(disk.truncate(here, 9) && disk.truncate(here, 2) && !disk.truncate(gone, 2));
        assert_eq!((disk.read(here), disk.read(gone)), (Some(b"02".to_vec()), None));
        for renamed in [disk.publish(gone, here), disk.publish(gone, gone), disk.replace(gone, here)] {
            assert!(renamed.is_err());
        }
        assert_eq!(disk.read(here).unwrap(), b"02");
        assert!(disk.remove(here) && !disk.remove(here));
        assert_eq!(disk.open(here).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_crash_stops_everything_until_the_reboot() {
        let disk = SimDisk::new();
        let file = file(&disk);
        disk.crash_at(disk.operations());
        assert!(file.write_at(0, b"x").is_err() && file.len().is_err() && disk.crashed());
        disk.reboot(CrashKind::KeepAll);
        assert_eq!(disk.read(Path::new("f")).unwrap(), b"");
    }

    #[test]
    fn a_full_disk_and_a_locked_file_say_so() {
        let disk = SimDisk::new();
        let file = file(&disk);
        disk.set_capacity(Some(10));
        assert_eq!(file.write_at(0, &[0; 11]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.write_at(0, &[0; 10]).unwrap();
        assert_eq!(disk.open(Path::new("f")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(file);
        assert!(disk.open(Path::new("f")).is_ok());
    }
}
