//! A disk in memory that crashes, fails, lies and fills up on demand.
//!
//! Every write, change of length and sync is one *operation*, and gets a number. A crash can be set to happen at any of
//! them; after it, all operations fail until [`SimDisk::reboot`] decides what of the unsynced writes survived.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::{Disk, DiskFile, Kind};
use crate::sync::{Arc, UnseenMutex, Weak};

const SECTOR: usize = 512;

/// What becomes of unsynced writes in a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// All of them survive, as when only the process dies.
    KeepAll,
    /// None does.
    DropAll,
    /// Each sector of each write survives or not, by this seed; in any order, so torn in the middle too.
    Torn(u64),
}

/// A simulated disk. Clones are handles on the same disk.
///
/// ```
/// use idemkv::sim::{CrashKind, SimDisk};
/// use idemkv::{Begin, Engine, Fingerprint};
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
/// let Begin::Fresh(claim) = open()?.begin("key", request)? else { panic!() };
/// assert!(claim.interrupted().is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<UnseenMutex<World>>);

#[derive(Debug, Default)]
struct World {
    files: HashMap<PathBuf, FileId>,
    contents: BTreeMap<FileId, Contents>,
    next_id: FileId,
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    /// Bytes that all files together may have.
    capacity: Option<u64>,
    /// The next syncs of a file whose name ends so fail; what they should have made durable is lost, though reads go on to
    /// show it, as a page cache does.
    failing_syncs: Option<String>,
    /// Syncs do nothing, silently. For proving that a rig notices.
    ignore_syncs: bool,
}

type FileId = u64;

#[derive(Debug, Default)]
struct Contents {
    /// What the process sees.
    seen: Vec<u8>,
    /// What is on the platter.
    durable: Vec<u8>,
    /// Writes and changes of length since the last sync, in order.
    pending: Vec<Pending>,
    lock: Weak<SimFile>,
}

#[derive(Clone, Debug)]
enum Pending {
    Write { at: usize, bytes: Vec<u8> },
    Len(usize),
}

#[derive(Debug)]
struct SimFile {
    world: Arc<UnseenMutex<World>>,
    id: FileId,
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
        let mut random = match kind {
            CrashKind::Torn(seed) => seed,
            CrashKind::KeepAll | CrashKind::DropAll => 0,
        };
        for contents in world.contents.values_mut() {
            let pending = std::mem::take(&mut contents.pending);
            for change in pending {
                survive(&mut contents.durable, change, kind, &mut random);
            }
            contents.seen.clone_from(&contents.durable);
            contents.lock = Weak::new();
        }
    }

    /// Ends the process but not the machine: locks are gone, the page cache stays.
    pub fn restart_process(&self) {
        let mut world = self.0.lock();
        world.crashed = false;
        world.crash_at = None;
        for contents in world.contents.values_mut() {
            contents.lock = Weak::new();
        }
    }

    /// Limits the bytes that all files together may have, or lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Makes syncs of files whose names end with `suffix` fail from now on; `None` makes them work again.
    ///
    /// What a failed sync should have made durable is lost, but reads in the same boot go on to show it.
    pub fn fail_syncs(&self, suffix: Option<&str>) {
        self.0.lock().failing_syncs = suffix.map(str::to_owned);
    }

    /// Makes syncs succeed without making anything durable. A rig that doesn't notice this can't notice anything.
    pub fn ignore_syncs(&self) {
        self.0.lock().ignore_syncs = true;
    }

    /// Flips one bit of a file, on the platter and in what is seen. `false` where the file is shorter or missing.
    #[must_use]
    pub fn flip(&self, path: &Path, bit: u64) -> bool {
        self.edit(path, |bytes| {
            let at = usize::try_from(bit / 8).unwrap_or(usize::MAX);
            bytes.get_mut(at).map(|byte| *byte ^= 1 << (bit % 8)).is_some()
        })
    }

    /// Cuts a file off at `len` bytes.
    #[must_use]
    pub fn truncate(&self, path: &Path, len: usize) -> bool {
        self.edit(path, |bytes| {
            bytes.truncate(len);
            true
        })
    }

    /// Bytes of a file; `None` where there is none.
    #[must_use]
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.0.lock();
        world.files.get(path).and_then(|id| world.contents.get(id)).map(|contents| contents.seen.clone())
    }

    /// Removes a file; whether there was one.
    #[must_use]
    pub fn remove(&self, path: &Path) -> bool {
        self.0.lock().files.remove(path).is_some()
    }

    /// An independent disk with the same files, as they would be found after `kind` of crash now.
    #[must_use]
    pub fn image(&self, kind: CrashKind) -> Self {
        let world = self.0.lock();
        let contents = world.contents.iter().map(|(id, old)| {
            let copy = Contents {
                durable: old.durable.clone(),
                pending: old.pending.clone(),
                ..Contents::default()
            };
            (*id, copy)
        });
        let image = Self(Arc::new(UnseenMutex::new(World {
            files: world.files.clone(),
            contents: contents.collect(),
            next_id: world.next_id,
            ..World::default()
        })));
        image.reboot(kind);
        image
    }

    fn edit(&self, path: &Path, change: impl Fn(&mut Vec<u8>) -> bool) -> bool {
        let mut world = self.0.lock();
        let Some(id) = world.files.get(path).copied() else { return false };
        let Some(contents) = world.contents.get_mut(&id) else { return false };
        change(&mut contents.durable) | change(&mut contents.seen)
    }
}

/// A small generator, so that a crash is the same for the same seed everywhere.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn survive(durable: &mut Vec<u8>, change: Pending, kind: CrashKind, random: &mut u64) {
    match (change, kind) {
        (_, CrashKind::DropAll) => {}
        (change, CrashKind::KeepAll) => apply(durable, &change),
        (Pending::Len(len), CrashKind::Torn(_)) => {
            if next(random).is_multiple_of(2) {
                durable.resize(len, 0);
            }
        }
        (Pending::Write { at, bytes }, CrashKind::Torn(_)) => {
            // All, nothing, or any sectors of it.
            let fate = next(random) % 4;
            let mut from = 0;
            while from < bytes.len() {
                let to = ((at + from) / SECTOR * SECTOR + SECTOR - at).min(bytes.len());
                let kept = fate == 0 || (fate > 1 && next(random).is_multiple_of(2));
                if kept && let Some(sector) = bytes.get(from..to) {
                    apply(durable, &Pending::Write { at: at + from, bytes: sector.to_vec() });
                }
                from = to;
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Pending) {
    match change {
        Pending::Len(len) => bytes.resize(*len, 0),
        Pending::Write { at, bytes: new } => {
            if bytes.len() < at + new.len() {
                bytes.resize(at + new.len(), 0);
            }
            bytes.iter_mut().skip(*at).zip(new).for_each(|(to, from)| *to = *from);
        }
    }
}

impl World {
    fn used(&self) -> u64 {
        self.files
            .values()
            .filter_map(|id| self.contents.get(id))
            .map(|contents| contents.seen.len() as u64)
            .sum()
    }

    /// Counts an operation, and crashes where one was ordered.
    fn operate(&mut self) -> io::Result<()> {
        self.check_power()?;
        if self.crash_at == Some(self.operations) {
            self.crashed = true;
        }
        self.operations += 1;
        self.check_power()
    }

    fn check_power(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }

    fn check_room(&self, id: FileId, len: usize) -> io::Result<()> {
        let now = self.contents.get(&id).map_or(0, |contents| contents.seen.len());
        let more = len.saturating_sub(now) as u64;
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn name_of(&self, id: FileId) -> String {
        let named = self.files.iter().find(|(_, other)| **other == id);
        named.map(|(path, _)| path.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn contents(&mut self, id: FileId) -> io::Result<&mut Contents> {
        self.contents.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let world = self.0.lock();
        world.check_power()?;
        Ok(if world.files.contains_key(path) { Kind::File } else { Kind::Missing })
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.0.lock();
        world.check_power()?;
        let Some(id) = world.files.get(path).copied() else { return Err(io::ErrorKind::NotFound.into()) };
        let file = Arc::new(SimFile { world: Arc::clone(&self.0), id });
        let contents = world.contents(id)?;
        if contents.lock.strong_count() > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        contents.lock = Arc::downgrade(&file);
        Ok(file)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.0.lock();
        world.operate()?;
        let id = world.next_id;
        world.next_id += 1;
        world.files.insert(path.to_owned(), id);
        world.contents.insert(id, Contents::default());
        drop(world);
        self.open(path)
    }

    /// A rename is atomic and durable at once here; a crash comes before or after it.
    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.0.lock().files.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.replace(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.operate()?;
        let Some(id) = world.files.remove(from) else { return Err(io::ErrorKind::NotFound.into()) };
        world.files.insert(to.to_owned(), id);
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut world = self.world.lock();
        world.check_power()?;
        Ok(world.contents(self.id)?.seen.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut world = self.world.lock();
        world.check_power()?;
        let seen = &world.contents(self.id)?.seen;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(bytes) = seen.get(from..from.saturating_add(out.len())) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut world = self.world.lock();
        world.operate()?;
        world.check_room(self.id, at.saturating_add(bytes.len()))?;
        let contents = world.contents(self.id)?;
        let change = Pending::Write { at, bytes: bytes.to_vec() };
        apply(&mut contents.seen, &change);
        contents.pending.push(change);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mut world = self.world.lock();
        world.operate()?;
        world.check_room(self.id, len)?;
        let contents = world.contents(self.id)?;
        let change = Pending::Len(len);
        apply(&mut contents.seen, &change);
        contents.pending.push(change);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.world.lock();
        world.operate()?;
        let failing =
            world.failing_syncs.as_ref().is_some_and(|suffix| world.name_of(self.id).ends_with(suffix));
        let ignore = world.ignore_syncs;
        let contents = world.contents(self.id)?;
        if failing {
            contents.pending.clear();
            return Err(io::Error::other("the disk did not take the data"));
        }
        if !ignore {
            for change in std::mem::take(&mut contents.pending) {
                apply(&mut contents.durable, &change);
            }
        }
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        self.world.lock().contents(self.id)?.lock = Weak::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &SimDisk) -> Arc<dyn DiskFile> {
        disk.create(Path::new("f")).unwrap()
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
