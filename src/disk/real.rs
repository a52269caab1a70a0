//! The operating system's files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::naming::{directory_of, give_name, sync_directory};
use super::{Disk, DiskFile, Kind};
use crate::fork::Origin;
use crate::sync::Arc;

/// Files of the operating system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RealDisk;

/// An open file. It is locked until it is dropped, in the process that opened it.
#[derive(Debug)]
struct RealFile(File, Origin);

/// The lock is released before the file is closed. Closing is not enough: until a child process
/// runs its own program it has copies of all handles, and a lock lasts as long as its last
/// handle.
impl Drop for RealFile {
    fn drop(&mut self) {
        // In a forked child the lock is the parent's.
        if !self.1.is_elsewhere_for_sure() {
            // Where this fails, closing gives the lock back.
            drop(self.0.unlock());
        }
    }
}

fn forked() -> io::Error {
    io::Error::other("this process is a fork of the one that opened the file")
}

impl RealFile {
    /// The file, to change it. In a forked child it is the parent's: no path may change it there,
    /// also one that application code has forked in the middle of.
    fn to_change(&self) -> io::Result<&File> {
        if self.1.is_elsewhere() { Err(forked()) } else { Ok(&self.0) }
    }
}

/// The most symbolic links that are followed from one name: as many as Linux follows.
const LINKS_MAX: usize = 40;

impl Disk for RealDisk {
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            match fs::canonicalize(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                resolved => return resolved,
            }
            let Some(name) = path.file_name() else { return Err(io::ErrorKind::NotFound.into()) };
            let directory = directory_of(&path);
            match fs::read_link(&path) {
                // A link to a file that doesn't exist yet.
                Ok(target) => path = directory.join(target),
                Err(_not_a_link) => return Ok(fs::canonicalize(directory)?.join(name)),
            }
        }
        Err(io::Error::other("too many symbolic links"))
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        match fs::metadata(path) {
            Ok(found) if !found.is_file() => Ok(Kind::Other),
            Ok(found) if found.permissions().readonly() => Ok(Kind::ReadOnlyFile),
            Ok(_) => Ok(Kind::File),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kind::Missing),
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        lock(OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn create(&self, path: &Path, like: Option<&Path>) -> io::Result<Arc<dyn DiskFile>> {
        loop {
            let file = open_or_create(path)?;
            let found = file.try_clone()?;
            let file = match lock(file) {
                // Where nothing can be locked, nobody else is making it either.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(discard_empty(path, &found, error));
                }
                locked => locked?,
            };
            // Only now: before the lock it might have been somebody else's.
            match name_of(path, &found)? {
                Name::Only => {
                    let emptied = file.set_len(0);
                    let shared = emptied.and_then(|()| like.map_or(Ok(()), |like| share_like(&found, like)));
                    return match shared {
                        Ok(()) => Ok(file),
                        Err(error) => Err(discard_empty(path, &found, error)),
                    };
                }
                // Left by a kill in `publish`: the file has its name, only this one is to go.
                Name::Another => fs::remove_file(path)?,
                Name::Gone => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        give_name(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_directory(to)
    }

    fn sync_name(&self, path: &Path) -> io::Result<()> {
        sync_directory(path)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::open(path)?;
        locked(file.try_lock_shared(), file)
    }

    fn discard(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Removes a file that was just made and can't be used. Returns the reason as an error.
fn discard_empty(path: &Path, file: &File, error: io::Error) -> io::Error {
    let is_empty = file.metadata().is_ok_and(|found| found.len() == 0);
    if is_empty && matches!(name_of(path, file), Ok(Name::Only)) {
        // Best effort: the next creation starts with what is left.
        drop(fs::remove_file(path));
    }
    error
}

#[cfg(unix)]
fn open_or_create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // Bodies are the service's business, and the file's secret makes tokens.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Gives a file the owner and the permissions of another one, so that a tool run by another user
/// does not lock the service out.
#[cfg(unix)]
fn share_like(file: &File, like: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let (made, like) = (file.metadata()?, fs::metadata(like)?);
    if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
        // Only a privileged process may do this. Where it may not, the owner of the file can still
        // read its own log.
        drop(fchown(file, Some(like.uid()), Some(like.gid())));
    }
    file.set_permissions(like.permissions())
}

#[cfg(not(unix))]
fn share_like(_file: &File, _like: &Path) -> io::Result<()> {
    Ok(())
}

/// How a path relates to an open file.
enum Name {
    /// Its only name.
    Only,
    /// One of several.
    Another,
    /// No longer one of its names: another process was faster.
    Gone,
}

#[cfg(unix)]
fn name_of(path: &Path, file: &File) -> io::Result<Name> {
    use std::os::unix::fs::MetadataExt;
    let (file, named) = (file.metadata()?, fs::metadata(path));
    let same = named.is_ok_and(|named| (named.dev(), named.ino()) == (file.dev(), file.ino()));
    Ok(match (same, file.nlink()) {
        (false, _) => Name::Gone,
        (true, 0 | 1) => Name::Only,
        (true, _) => Name::Another,
    })
}

#[cfg(not(unix))]
fn name_of(_path: &Path, _file: &File) -> io::Result<Name> {
    Ok(Name::Only)
}

fn lock(file: File) -> io::Result<Arc<dyn DiskFile>> {
    locked(file.try_lock(), file)
}

fn locked(locked: Result<(), TryLockError>, file: File) -> io::Result<Arc<dyn DiskFile>> {
    match locked {
        Ok(()) => Ok(Arc::new(RealFile(file, Origin::here()))),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, out, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self.to_change()?, bytes, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            let read = std::os::windows::fs::FileExt::seek_read(&self.0, out, offset)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            out = out.split_at_mut(read).1;
            offset += read as u64;
        }
        Ok(())
    }

    #[cfg(windows)]
    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        let file = self.to_change()?;
        while !bytes.is_empty() {
            let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.split_at(written).1;
            offset += written as u64;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.to_change()?.set_len(len)
    }

    /// `fdatasync` if there is one: it also syncs the length, and leaves out only file times.
    fn sync(&self) -> io::Result<()> {
        self.to_change()?.sync_data()
    }

    fn unlock(&self) -> io::Result<()> {
        if self.1.is_elsewhere_for_sure() {
            return Err(forked());
        }
        self.0.unlock()
    }

    /// Only a definite answer counts. A relative path proves nothing, because the working
    /// directory may have changed.
    #[cfg(unix)]
    fn is_gone_from(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        if path.is_relative() {
            return false;
        }
        match (self.0.metadata(), fs::metadata(path)) {
            (Ok(file), Ok(named)) => (named.dev(), named.ino()) != (file.dev(), file.ino()),
            (_, Err(error)) => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
            (Err(_), Ok(_)) => false,
        }
    }

    /// The standard library doesn't tell files apart here.
    #[cfg(not(unix))]
    fn is_gone_from(&self, _path: &Path) -> bool {
        false
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn a_file_knows_whether_a_path_is_still_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("f"), dir.path().join("g"));
        let file = File::create(&path).unwrap();
        assert!(matches!(name_of(&path, &file), Ok(Name::Only)));
        fs::hard_link(&path, &other).unwrap();
        assert!(matches!(name_of(&path, &file), Ok(Name::Another)));
        fs::remove_file(&path).unwrap();
        assert!(matches!(name_of(&path, &file), Ok(Name::Gone)));
        File::create(&path).unwrap();
        assert!(matches!(name_of(&path, &file), Ok(Name::Gone)), "the name is somebody else's");
    }

    #[test]
    fn a_name_leads_to_one_file_whatever_links_are_on_the_way() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap().join("real.idem");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        symlink("real.idem", &one).unwrap();
        symlink(&one, &two).unwrap();
        let round = dir.path().join("..").join(dir.path().file_name().unwrap()).join("two");
        for exists in [false, true] {
            for path in [&one, &two, &round, &real] {
                assert_eq!(RealDisk.resolve(path).unwrap(), real, "{}, exists: {exists}", path.display());
            }
            File::create(&real).unwrap();
        }
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        symlink(&here, &there).unwrap();
        symlink(&there, &here).unwrap();
        assert!(RealDisk.resolve(&here).is_err(), "a circle of links");
        assert!(
            RealDisk.resolve(Path::new("")).is_err() && RealDisk.resolve(&dir.path().join("no/x")).is_err()
        );
    }

    #[test]
    fn a_new_file_is_for_its_owner_alone_and_a_log_for_those_who_may_use_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("f"), dir.path().join("f-wal"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        drop(RealDisk.create(&file, None).unwrap());
        assert_eq!(mode(&file), 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o660)).unwrap();
        drop(RealDisk.create(&log, Some(&file)).unwrap());
        assert_eq!(mode(&log), 0o660);
    }

    #[test]
    fn a_file_is_gone_from_a_path_only_where_that_is_certain() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, path) = (dir.path().join("d"), dir.path().join("d").join("f"));
        fs::create_dir(&inner).unwrap();
        let file = RealFile(File::create(&path).unwrap(), Origin::here());
        assert!(!file.is_gone_from(&path));
        fs::copy(&path, inner.join("copy")).unwrap();
        fs::rename(&path, inner.join("g")).unwrap();
        assert!(file.is_gone_from(&path), "renamed");
        fs::rename(inner.join("copy"), &path).unwrap();
        assert!(file.is_gone_from(&path), "a copy has its name");
        fs::rename(inner.join("g"), &path).unwrap();
        assert!(!file.is_gone_from(&path), "it is back");
        fs::rename(&inner, dir.path().join("e")).unwrap();
        assert!(file.is_gone_from(&path), "its directory has another name");
        File::create(&inner).unwrap();
        assert!(file.is_gone_from(&path), "a file has the name of its directory");
        assert!(!file.is_gone_from(Path::new("no such file")), "a relative path says nothing");
    }

    #[test]
    fn a_file_of_another_process_is_neither_changed_nor_unlocked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "content").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.try_lock().unwrap();
        let file = RealFile(file, Origin::of_another());
        let refused =
            [file.write_at(0, b"another"), file.set_len(0), file.set_len(20), file.sync(), file.unlock()];
        assert!(refused.iter().all(Result::is_err), "{refused:?}");
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert!(File::open(&path).unwrap().try_lock().is_err(), "it is locked yet");
    }

    #[test]
    fn the_name_of_a_file_in_the_working_directory_and_of_the_root_can_be_synced() {
        sync_directory(Path::new("x.idem")).unwrap();
        sync_directory(Path::new("/")).unwrap();
        assert!(sync_directory(Path::new("no such directory/x.idem")).is_err());
    }
}
