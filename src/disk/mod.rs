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

/// The end of a file's name while the file is being made. A file with that name is overwritten,
/// so it must be a name that no user would choose for a file.
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
    /// The resolved name of the file at `path`: absolute, with every symbolic link followed. The
    /// file itself need not exist.
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
    /// If the operating system can't tell.
    fn kind(&self, path: &Path) -> io::Result<Kind>;

    /// Opens an existing file for reading and writing, with an exclusive lock that lasts as long
    /// as the handle.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if another handle holds the lock; otherwise the operating
    /// system's error.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading only, with a lock that admits other readers but no
    /// writer.
    ///
    /// # Errors
    ///
    /// As for [`Disk::open`].
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes an empty file, in place of an old one if there is one, and opens it as [`Disk::open`]
    /// does.
    ///
    /// On systems with permissions, only the owner may use the new file, or the users that may
    /// use the file `like`.
    ///
    /// # Errors
    ///
    /// As for [`Disk::open`].
    fn create(&self, path: &Path, like: Option<&Path>) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives the file `from` the name `to`, which must not exist yet, and makes that durable.
    /// After an error the file does not have that name.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] where `to` exists; otherwise as the operating system says.
    fn publish(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives the file `from` the name `to`, replacing any file of that name, and makes that
    /// durable.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the name of a file durable that an earlier process may have given it.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn sync_name(&self, path: &Path) -> io::Result<()>;

    /// Removes a file whose creation failed. The caller still has it open and locked, so no one
    /// else uses it.
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
    /// [`io::ErrorKind::UnexpectedEof`] where the file ends before; otherwise as the operating
    /// system says.
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
    /// As the operating system says. Writes since the last success may or may not survive, and a
    /// later success proves nothing about them: never call this again to find out.
    fn sync(&self) -> io::Result<()>;

    /// Releases the lock before the handle is dropped; the handle is not used for the file after
    /// that.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn unlock(&self) -> io::Result<()>;

    /// Whether `path` certainly no longer leads to this file: nothing is there, or another file
    /// is. `false` if the system can't tell.
    fn is_gone_from(&self, path: &Path) -> bool;
}
