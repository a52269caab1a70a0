//! `IoFailure`: an operation that the operating system refused, with advice.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::sync::Arc;

/// An operation on a file that the operating system refused.
#[derive(Clone, Debug)]
pub struct IoFailure(Arc<IoInner>);

#[derive(Debug)]
struct IoInner {
    file: PathBuf,
    doing: &'static str,
    source: io::Error,
}

impl IoFailure {
    pub(crate) fn new(file: &Path, doing: &'static str, source: io::Error) -> Self {
        Self(Arc::new(IoInner { file: file.to_owned(), doing, source }))
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// What kind of error the operating system gave.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.0.source.kind()
    }

    /// Whether the disk, a quota on it, or the limit of a file's length is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        is_full(self.kind())
    }

    /// The advice to the operator.
    pub(crate) fn advice(&self) -> &'static str {
        advice(&self.0.source)
    }
}

fn is_full(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge)
}

/// The advice to the operator for an error of the operating system.
fn advice(error: &io::Error) -> &'static str {
    #[cfg(unix)]
    if let Some(advice) = error.raw_os_error().and_then(advice_by_number) {
        return advice;
    }
    advice_by_kind(error.kind())
}

/// Errors without an `ErrorKind`. Their numbers, unlike most, differ between systems.
#[cfg(unix)]
fn advice_by_number(number: i32) -> Option<&'static str> {
    const EPERM: i32 = 1;
    const EIO: i32 = 5;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOLCK: i32 = if cfg!(target_os = "linux") { 37 } else { 77 };
    Some(match number {
        EPERM => {
            "the file system forbids it to this process, though the permissions may allow it: look for an immutable or append-only \
             attribute, a sandbox, or a file system without hard links"
        }
        EIO => {
            "the disk failed: look into the system's log, and check the disk before the file is used again"
        }
        ENFILE | EMFILE => "too many files are open: raise the limit (`ulimit -n`), or close some",
        ENOLCK => {
            "the file system gives no lock: use a local file system, or start the lock service of a network file system"
        }
        _ => return None,
    })
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the list of kinds grows")]
fn advice_by_kind(kind: io::ErrorKind) -> &'static str {
    match kind {
        kind if is_full(kind) => "the disk, or a quota or limit on it, is full: make room, and try again",
        io::ErrorKind::NotFound => {
            "it is not there, or its directory is not: correct the path, or make the directory"
        }
        io::ErrorKind::NotADirectory => "a part of its path is not a directory: correct the path",
        io::ErrorKind::PermissionDenied => {
            "this process's user may not do that: let it read and write the file and its directory"
        }
        io::ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only: mount it for writing",
        io::ErrorKind::WouldBlock => {
            "the system is short of something at the moment, such as threads: raise its limits, or try again later"
        }
        io::ErrorKind::OutOfMemory => "the system has no memory left: free some, and try again",
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => {
            "the file system can't have a file of that name: give another name"
        }
        io::ErrorKind::Unsupported => "the file system can't do that: use another one",
        _ => "find out what the system's error means, and open the file again",
    }
}

impl fmt::Display for IoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} failed: {}", self.0.doing, self.0.file.display(), self.0.source)
    }
}

impl Error for IoFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: i32) -> IoFailure {
        IoFailure::new(Path::new("x.idem"), "opening", io::Error::from_raw_os_error(number))
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_a_quota_and_a_limit_of_length_are_a_full_disk() {
        const ENOSPC: i32 = 28;
        const EDQUOT: i32 = 122;
        const EFBIG: i32 = 27;
        for number in [ENOSPC, EDQUOT, EFBIG] {
            assert!(of(number).is_disk_full(), "{number}");
            assert!(of(number).advice().contains("make room"), "{number}");
        }
        assert!(!of(5).is_disk_full());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn every_error_of_the_system_that_can_be_expected_says_what_to_do() {
        let words = [
            (1, "immutable"),
            (2, "make the directory"),
            (5, "check the disk"),
            (11, "short of something"),
            (12, "memory"),
            (13, "let it read and write"),
            (23, "ulimit -n"),
            (24, "ulimit -n"),
            (30, "read-only"),
            (36, "another name"),
            (37, "lock service"),
        ];
        for (number, words) in words {
            assert!(of(number).advice().contains(words), "{number}: {}", of(number).advice());
        }
    }
}
