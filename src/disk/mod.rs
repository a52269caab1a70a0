//! Files, behind one small trait, so that a whole engine can run on a simulated disk.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use crate::sync::Arc;

mod copy_on_write;
#[cfg(feature = "sim")]
mod given;
mod naming;
mod read_only;
mod real;
#[cfg(feature = "sim")]
pub(crate) mod sim;
mod tracked;

pub(crate) use copy_on_write::CopyOnWriteFile;
pub(crate) use read_only::ReadOnlyDisk;
pub(crate) use real::RealDisk;
pub(crate) use tracked::{CHUNK, Tracked, Tracking};

/// What the name of a file ends with while it is being made. A file that has that name is written
/// over, so it is nothing that a person would call a file of his own: a copy, a file that is put
/// back.
pub(crate) const UNFINISHED: &str = "-unfinished";

/// The name under which the file at `path` is made.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// What kind of thing a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Missing,
    /// A regular file that may be written.
    File,
    /// A regular file that may not be written.
    ReadOnlyFile,
    /// Something else, such as a directory.
    Other,
}

/// The files of a directory tree.
pub(crate) trait Disk: Send + Sync + Debug {
    /// The one name of the file that `path` leads to: absolute, with every symbolic link followed.
    /// The file itself need not exist.
    ///
    /// # Errors
    ///
    /// When the path names no file, its directory doesn't exist, or the operating system refuses
    /// to look.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;

    /// What `path` names.
    ///
    /// # Errors
    ///
    /// Where the operating system can't tell.
    fn kind(&self, path: &Path) -> io::Result<Kind>;

    /// Opens an existing file for reading and writing, with an exclusive lock that lasts as long
    /// as the handle.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] where somebody else holds the lock; otherwise as the operating system says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading alone, with a lock that other readers can have as well,
    /// and no writer.
    ///
    /// # Errors
    ///
    /// As for [`Disk::open`].
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes an empty file, in place of an old one if there is one, and opens it as [`Disk::open`]
    /// does.
    ///
    /// Where the system has permissions, the new file is for its owner alone, or for the users
    /// that the file `like` is for.
    ///
    /// # Errors
    ///
    /// As for [`Disk::open`].
    fn create(&self, path: &Path, like: Option<&Path>) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives the file `from` the name `to`, which must not exist yet, and makes that durable.
    /// After an error it does not have that name.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] where `to` exists; otherwise as the operating system says.
    fn publish(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives the file `from` the name `to`, in place of what had it, and makes that durable.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file whose creation failed. The caller still has it open, so nobody else can be
    /// at it.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn discard(&self, path: &Path) -> io::Result<()>;
}

/// An open file. Reads and writes name their offset; there is no cursor.
pub(crate) trait DiskFile: Send + Sync + Debug {
    /// Length in bytes.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] where the file ends before; otherwise as the operating system says.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`; the file grows where needed.
    ///
    /// # Errors
    ///
    /// As the operating system says; some of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Sets the length; new bytes are zero.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns when everything written so far, and the length, would survive a power cut.
    ///
    /// # Errors
    ///
    /// As the operating system says. What was written since the last success may or may not
    /// survive, and a later success says nothing about it: never call this again to find out.
    fn sync(&self) -> io::Result<()>;

    /// Gives the lock up before the handle goes away; the file is not touched through this handle
    /// again.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn unlock(&self) -> io::Result<()>;

    /// Whether `path` certainly doesn't lead to this file any more: nothing is there, or another
    /// file is. `false` where the system can't tell.
    fn is_gone_from(&self, path: &Path) -> bool;
}
