//! A disk whose files are only read: writes to them stay in memory.

use std::io;
use std::path::{Path, PathBuf};

use super::{CopyOnWriteFile, Disk, DiskFile, Kind};
use crate::sync::Arc;

/// For an engine that reads a file and changes nothing.
#[derive(Clone, Debug)]
pub(crate) struct ReadOnlyDisk(Arc<dyn Disk>);

impl ReadOnlyDisk {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self(disk)
    }
}

/// Several may read it at once, while no one writes.
#[derive(Debug)]
struct ReadOnlyFile {
    view: CopyOnWriteFile,
    file: Arc<dyn DiskFile>,
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the file was opened to be read only")
}

impl Disk for ReadOnlyDisk {
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.0.resolve(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        Ok(match self.0.kind(path)? {
            Kind::ReadOnlyFile => Kind::File,
            kind @ (Kind::Missing | Kind::File | Kind::Other) => kind,
        })
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open_to_read(path)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.open_to_read(path)?;
        Ok(Arc::new(ReadOnlyFile { view: CopyOnWriteFile::new(Arc::clone(&file))?, file }))
    }

    fn create(&self, _path: &Path, _like: Option<&Path>) -> io::Result<Arc<dyn DiskFile>> {
        Err(refused())
    }

    fn publish(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn replace(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn sync_name(&self, _path: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn discard(&self, _path: &Path) -> io::Result<()> {
        Err(refused())
    }
}

impl DiskFile for ReadOnlyFile {
    fn len(&self) -> io::Result<u64> {
        self.view.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.view.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.view.write_at(offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.view.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.view.sync()
    }

    /// Unlike a view, this file owns its lock and releases it.
    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn is_gone_from(&self, path: &Path) -> bool {
        self.view.is_gone_from(path)
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    #[test]
    fn nothing_of_the_disk_is_changed() {
        let sim = SimDisk::new();
        let path = Path::new("x.idem");
        sim.create(path, None).unwrap().write_at(0, b"kept").unwrap();
        let disk = ReadOnlyDisk::new(Arc::new(sim.clone()));
        let other = Path::new("y.idem");
        let refusals = [
            disk.create(other, None).map(drop),
            disk.publish(path, other),
            disk.replace(path, other),
            disk.sync_name(path),
            disk.discard(path),
        ];
        for refused in refusals {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        // What is written stays in memory, for this view of the file alone.
        let file = disk.open(path).unwrap();
        file.write_at(0, b"lost").unwrap();
        let mut read = [0; 4];
        file.read_at(0, &mut read).unwrap();
        assert_eq!(&read, b"lost");
        drop(file);
        disk.open(path).unwrap().read_at(0, &mut read).unwrap();
        assert_eq!(&read, b"kept");
        assert!(matches!(disk.kind(other), Ok(Kind::Missing)));
    }
}
