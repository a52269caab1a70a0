//! How a new file gets its name, without ever replacing another file.
//!
//! There are three ways, each as safe as the one before; the file system decides which of them
//! work:
//!
//! 1. A hard link. FAT, exFAT and some network and container file systems have none.
//! 2. A rename that refuses to replace (Linux). Older file systems in user space have none.
//! 3. An empty file reserves the name: making it fails if the name is in use. A rename then
//!    replaces it. A crash in between leaves the empty file beside the complete one; the next
//!    opening removes the empty file and starts over.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// Gives the file `from` the name `to`, and makes that durable.
///
/// # Errors
///
/// [`io::ErrorKind::AlreadyExists`] where `to` exists; otherwise as the operating system says.
pub(super) fn give_name(from: &Path, to: &Path) -> io::Result<()> {
    give_name_by(from, to, |from, to| fs::hard_link(from, to), rename_new)
}

fn give_name_by(
    from: &Path,
    to: &Path,
    link: impl FnOnce(&Path, &Path) -> io::Result<()>,
    rename_new: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    match link(from, to) {
        Ok(()) => {
            let named = sync_directory(to).and_then(|()| fs::remove_file(from));
            return named.inspect_err(|_| take_back(to));
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // File systems say in many ways that they have no links. Where something else is wrong, a
        // rename fails as well.
        Err(_no_links) => {}
    }
    match rename_new(from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        Err(_unknown_to_it) => reserve_and_rename(from, to)?,
    }
    sync_directory(to).inspect_err(|_| take_back(to))
}

/// After an error the caller must not find the file. No one else uses it, because the caller has
/// its lock.
fn take_back(to: &Path) {
    drop(fs::remove_file(to));
}

#[cfg(target_os = "linux")]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(target_os = "linux"))]
fn rename_new(_from: &Path, _to: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn reserve_and_rename(from: &Path, to: &Path) -> io::Result<()> {
    drop(OpenOptions::new().write(true).create_new(true).open(to)?);
    fs::rename(from, to).inspect_err(|_| {
        // Best effort: the next opening removes what is left. Nobody else's file is empty and has
        // this name.
        if fs::metadata(to).is_ok_and(|found| found.len() == 0) {
            drop(fs::remove_file(to));
        }
    })
}

/// The directory that a path's name is in.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Makes the name of `path` durable.
#[cfg(unix)]
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// Directories can't be synced here; the file system's journal must suffice.
#[cfg(not(unix))]
pub(super) fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Way = fn(&Path, &Path) -> io::Result<()>;

    fn refused(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn unknown(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::InvalidInput.into())
    }

    const WAYS: [(Way, Way); 3] =
        [(|from, to| fs::hard_link(from, to), unknown), (refused, rename_new), (refused, unknown)];

    #[test]
    fn a_file_gets_its_name_where_there_are_no_hard_links() {
        for (link, rename) in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let (from, to) = (dir.path().join("f-new"), dir.path().join("f"));
            fs::write(&from, "whole").unwrap();
            give_name_by(&from, &to, link, rename).unwrap();
            assert_eq!(fs::read(&to).unwrap(), b"whole");
            assert!(!from.exists());
        }
    }

    #[test]
    fn no_way_to_give_a_name_replaces_a_file_not_even_an_empty_one() {
        for ((link, rename), there) in WAYS.into_iter().flat_map(|ways| [(ways, ""), (ways, "theirs")]) {
            let dir = tempfile::tempdir().unwrap();
            let (from, to) = (dir.path().join("f-new"), dir.path().join("f"));
            fs::write(&from, "whole").unwrap();
            fs::write(&to, there).unwrap();
            let error = give_name_by(&from, &to, link, rename).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!((fs::read(&to).unwrap(), fs::read(&from).unwrap()), (there.into(), "whole".into()));
        }
    }

    #[test]
    fn a_name_that_was_reserved_for_nothing_is_free_again() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("not there"), dir.path().join("f"));
        assert!(give_name_by(&from, &to, refused, unknown).is_err());
        assert!(!to.exists());
    }
}
