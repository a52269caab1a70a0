//! Faults of single disk operations.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use super::files::FileId;

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A file is made.
    Create,
    /// A file gets another name.
    Rename,
    /// Bytes are written.
    Write,
    /// A file's length changes.
    SetLen,
    /// A file is synced, or the names in a directory.
    Sync,
}

/// A fault of one operation. It is reported once: the same call can succeed the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The disk is full. Nothing happens; a sync loses the writes that it should have made
    /// durable.
    Full,
    /// An I/O error. Nothing happens; a sync loses the writes that it should have made durable,
    /// though reads in the same boot still show them, like a page cache.
    Error,
    /// An I/O error, after the first half of a write, or after a complete sync.
    Late,
    /// No error, but a sync makes nothing durable. Other operations work.
    Lie,
    /// The calling thread panics, before anything happens.
    Panic,
}

/// How an operation ends.
#[derive(Debug)]
pub(super) enum Verdict {
    Done,
    /// It fails before it has done anything.
    Failed(io::Error),
    /// It fails after a part of its work, or all of it.
    Late(io::Error),
    Lied,
}

/// The faults that are to come.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) at: BTreeMap<u64, DiskFault>,
    /// From this operation on no file can grow.
    pub(super) full_from: Option<u64>,
    /// The reads that fail.
    pub(super) reads: BTreeSet<u64>,
    /// Bytes that no read can get.
    pub(super) unreadable: Vec<(FileId, Range<u64>)>,
}

impl Faults {
    /// Whether read `number`, of these bytes, fails.
    pub(super) fn fails_read(&self, number: u64, file: FileId, bytes: &Range<u64>) -> bool {
        let meets =
            |(id, bad): &(FileId, Range<u64>)| *id == file && bad.start < bytes.end && bytes.start < bad.end;
        self.reads.contains(&number) || self.unreadable.iter().any(meets)
    }

    /// `grows` says whether the operation needs space.
    pub(super) fn verdict(&self, number: u64, grows: bool) -> Verdict {
        let full = grows && self.full_from.is_some_and(|from| from <= number);
        match self.at.get(&number) {
            Some(DiskFault::Full) => Verdict::Failed(io::ErrorKind::StorageFull.into()),
            Some(DiskFault::Error) => Verdict::Failed(broken()),
            Some(DiskFault::Late) => Verdict::Late(broken()),
            Some(DiskFault::Lie) => Verdict::Lied,
            Some(DiskFault::Panic) => panic!("the disk's code panics, as it was told to"),
            None if full => Verdict::Failed(io::ErrorKind::StorageFull.into()),
            None => Verdict::Done,
        }
    }
}

pub(super) fn broken() -> io::Error {
    io::Error::other("the disk reports an error")
}
