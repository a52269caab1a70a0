//! The write-ahead log: a file of preallocated segments beside the store, appended to and synced
//! once per group.
//!
//! The log knows frames, segments and space, but not the meaning of entries. Its header (first
//! [`HEADER_BYTES`]): magic (8), version (4), zero (4), segment size (8), file id (16), checksum
//! (8); then the [openings] it belongs to.

use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use crate::codec::{self, CHECKSUM_BYTES, Checksummer, FORMAT_VERSION};
use crate::disk::{Disk, DiskFile, unfinished};
use crate::error::{Damage, IoFailure, OpenError};
use crate::sync::{Arc, Mutex};
use openings::Openings;

pub(crate) mod frame;
mod last_frame;
mod openings;
mod scan;
mod space;
mod writer;

pub(crate) use last_frame::{LogEnd, find_end};
pub(crate) use scan::{Found, Scanned, check_not_newer, scan};
pub(crate) use space::{Geometry, LogSpace, Request, Reservation, Spot};
pub(crate) use writer::LogWriter;

/// The first bytes of the file, one page.
pub(crate) const HEADER_BYTES: u64 = 4_096;
const MAGIC: &[u8; 8] = b"idemkvWL";
/// Bytes that a segment may have; a multiple of a sector.
pub(crate) const SEGMENT_BYTES: RangeInclusive<u64> = 64 << 10..=1 << 30;
/// Zeros are written in runs of this size.
const ZEROS: usize = 1 << 20;

/// Bytes of segments of a new log: two small segments, or a part of a large one.
pub(crate) fn first_bytes(segment_bytes: u64) -> u64 {
    (2 * segment_bytes).min(space::FIRST_BYTES)
}

/// The path of the log that belongs to the file at `path`.
pub(crate) fn path_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// The values that bind a log to a file.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) file_id: [u8; 16],
    pub(crate) checksummer: Checksummer,
}

/// The open log file.
#[derive(Debug)]
pub(crate) struct Log {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    segment_bytes: u64,
    /// Leaf lock.
    openings: Mutex<Openings>,
}

impl Log {
    /// Makes a log of empty segments for the opening with this salt, replacing an old log that is
    /// no longer needed.
    pub(crate) fn create(
        disk: &dyn Disk,
        store: &Path,
        id: &Identity,
        segment_bytes: u64,
        salt: u64,
    ) -> Result<Self, IoFailure> {
        let path = &path_of(store);
        let temporary = unfinished(path);
        let failed = |doing| move |error| IoFailure::new(path, doing, error);
        let file = disk.create(&temporary, Some(store)).map_err(failed("creating"))?;
        let openings = Openings::first(salt);
        let log = Self { file, path: path.to_owned(), segment_bytes, openings: Mutex::new(openings) };
        let made =
            log.fill(id, openings).and_then(|()| disk.replace(&temporary, path).map_err(failed("renaming")));
        if made.is_err() {
            // Best effort: the next creation starts with what is left.
            drop(disk.discard(&temporary));
        }
        made.map(|()| log)
    }

    /// Writes the header and the first bytes of a new log, and syncs them.
    fn fill(&self, id: &Identity, openings: Openings) -> Result<(), IoFailure> {
        let failed = |doing| move |error| IoFailure::new(&self.path, doing, error);
        let mut header = header(id, self.segment_bytes);
        openings.write(&mut header, &id.checksummer);
        self.file.write_at(0, &header).map_err(failed("writing"))?;
        self.write_zeros(0..first_bytes(self.segment_bytes)).map_err(failed("writing"))?;
        self.file.sync().map_err(failed("syncing"))
    }

    /// Whether a file starts like a log.
    pub(crate) fn is_log(disk: &dyn Disk, path: &Path) -> bool {
        let mut start = [0; MAGIC.len()];
        disk.open(path).and_then(|file| file.read_at(0, &mut start)).is_ok() && start == *MAGIC
    }

    /// Opens an existing log, which is known to be a writable file; `None` if there is none.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, id: &Identity) -> Result<Option<Self>, OpenError> {
        let failed = |doing| move |error| OpenError::from(IoFailure::new(path, doing, error));
        let file = match disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| OpenError::from_io(path, "opening", error))?,
        };
        if file.len().map_err(failed("measuring"))? < HEADER_BYTES {
            return Err(Damage::new(path, "offset 0", "the header is cut off").into());
        }
        let mut bytes = vec![0; usize::try_from(HEADER_BYTES).unwrap_or(0)];
        file.read_at(0, &mut bytes).map_err(failed("reading"))?;
        let segment_bytes = read_header(path, &bytes, id)?;
        let openings = Mutex::new(Openings::read(&bytes, &id.checksummer));
        Ok(Some(Self { file, path: path.to_owned(), segment_bytes, openings }))
    }

    /// Checks that this is the log of the file's last opening, which had this salt; `opened_as`
    /// is the name that it used.
    ///
    /// # Errors
    ///
    /// When it is the log of an earlier opening, or damage hides its opening.
    pub(crate) fn check_opening(&self, salt: u64, opened_as: &str) -> Result<(), OpenError> {
        self.openings.lock().check(&self.path, salt, opened_as)
    }

    /// Makes this the log of the next opening too, durably. A sync has covered this many bytes of
    /// segments.
    ///
    /// The name, and all other bytes, may be in memory alone: after a sync that failed, or a kill
    /// right before one. Another sync would say nothing of bytes that the first one lost, so they
    /// are written again. Only then are the log's length and its room on the disk durable.
    pub(crate) fn add_opening(
        &self,
        disk: &dyn Disk,
        checksummer: &Checksummer,
        (current, next): (u64, u64),
        durable_bytes: u64,
    ) -> Result<(), IoFailure> {
        let failed = |doing| move |error| IoFailure::new(&self.path, doing, error);
        disk.sync_name(&self.path).map_err(failed("syncing the directory of"))?;
        // Also where it is named already.
        let mut openings = *self.openings.lock();
        openings.add(&*self.file, &self.path, checksummer, current, next)?;
        let (mut at, end) = (HEADER_BYTES.saturating_add(durable_bytes), HEADER_BYTES + self.bytes()?);
        while at < end {
            let run = (end - at).min(ZEROS as u64);
            self.copy_in_place(at, usize::try_from(run).unwrap_or(ZEROS))?;
            at += run;
        }
        self.file.sync().map_err(failed("syncing"))?;
        *self.openings.lock() = openings;
        Ok(())
    }

    /// Writes bytes once more. Needs no new space.
    fn copy_in_place(&self, offset: u64, len: usize) -> Result<(), IoFailure> {
        let failed = |doing| move |error| IoFailure::new(&self.path, doing, error);
        let mut bytes = vec![0; len];
        self.file.read_at(offset, &mut bytes).map_err(failed("reading"))?;
        self.file.write_at(offset, &bytes).map_err(failed("writing"))
    }

    /// Unlocks the log; nothing is written through this handle after that.
    pub(crate) fn unlock(&self) -> Result<(), IoFailure> {
        self.file.unlock().map_err(|error| IoFailure::new(&self.path, "unlocking", error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the log's path certainly no longer leads to this file.
    pub(crate) fn is_taken_away(&self) -> bool {
        self.file.is_gone_from(&self.path)
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Bytes of segments that the file has, by its length; whole sectors.
    pub(crate) fn bytes(&self) -> Result<u64, IoFailure> {
        let len = self.file.len().map_err(|error| IoFailure::new(&self.path, "measuring", error))?;
        let bytes = len.saturating_sub(HEADER_BYTES);
        Ok(bytes - bytes % frame::SECTOR as u64)
    }

    /// Where each segment starts in the file, and how many bytes it has: the last one may be
    /// shorter than the others.
    fn segments(&self) -> Result<impl Iterator<Item = (u64, usize)> + use<>, IoFailure> {
        let (bytes, segment) = (self.bytes()?, self.segment_bytes);
        Ok((0..bytes.div_ceil(segment)).map(move |number| {
            let start = number * segment;
            (HEADER_BYTES + start, usize::try_from((bytes - start).min(segment)).unwrap_or(usize::MAX))
        }))
    }

    fn segment_start(&self, segment: u32) -> u64 {
        HEADER_BYTES + u64::from(segment) * self.segment_bytes
    }

    /// Writes zeros over a range of segments' bytes. Zeros, not a hole and not a reserved extent:
    /// the file system then has nothing left to decide when a frame is written there, so that a
    /// sync costs one write of the disk.
    fn write_zeros(&self, bytes: Range<u64>) -> io::Result<()> {
        let zeros = vec![0; usize::try_from(bytes.end - bytes.start).unwrap_or(ZEROS).min(ZEROS)];
        let mut at = bytes.start;
        while at < bytes.end {
            let run = usize::try_from(bytes.end - at).unwrap_or(ZEROS).min(ZEROS);
            self.file.write_at(HEADER_BYTES + at, zeros.split_at(run).0)?;
            at += run as u64;
        }
        Ok(())
    }

    /// Makes the file so many bytes longer, and claims their disk space, as far as the file
    /// system allows.
    ///
    /// It does not sync: the sync of the next frame covers the growth too. The system reports a
    /// failure once, so a sync here could receive the failure of a frame's write.
    pub(crate) fn grow(&self, space: &LogSpace, bytes: u64) -> Result<(), IoFailure> {
        let end = space.bytes();
        if let Err(error) = self.write_zeros(end..end + bytes) {
            // Best effort: what can't be given back now is overwritten by the next try.
            drop(self.file.set_len(HEADER_BYTES + end));
            return Err(IoFailure::new(&self.path, "extending", error));
        }
        space.grow(bytes);
        Ok(())
    }

    /// Rewrites frames in place and makes them durable. After a failed sync, the frames that were
    /// read may be only in the page cache. Needs no new space.
    pub(crate) fn write_again(&self, frames: &[(u64, usize)]) -> Result<(), IoFailure> {
        frames.iter().try_for_each(|(offset, len)| self.copy_in_place(*offset, *len))?;
        self.file.sync().map_err(|error| IoFailure::new(&self.path, "syncing", error))
    }
}

pub(crate) fn header(id: &Identity, segment_bytes: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&segment_bytes.to_le_bytes());
    bytes.extend_from_slice(&id.file_id);
    let checksum = id.checksummer.checksum("log", &[], &bytes);
    bytes.extend_from_slice(&checksum);
    bytes.resize(usize::try_from(HEADER_BYTES).unwrap_or(0), 0);
    bytes
}

/// Checks a header; gives the segment size.
pub(crate) fn read_header(path: &Path, bytes: &[u8], id: &Identity) -> Result<u64, OpenError> {
    let damaged = |what: &str| OpenError::from(Damage::new(path, "offset 0 (the header)", what));
    let cut = || damaged("the header is cut off");
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let (_, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let (segment, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let (file_id, rest) = rest.split_first_chunk::<16>().ok_or_else(cut)?;
    let (checksum, _) = rest.split_first_chunk::<CHECKSUM_BYTES>().ok_or_else(cut)?;
    let version = u32::from_le_bytes(*version);
    if magic != MAGIC {
        return Err(damaged("this is not the header of a log"));
    }
    codec::check_version(path, version)?;
    if *file_id != id.file_id {
        return Err(OpenError::LogOfAnotherFile(path.to_owned()));
    }
    let checked = bytes.split_at(bytes.len() - rest.len()).0;
    if *checksum != id.checksummer.checksum("log", &[], checked) {
        return Err(damaged("the checksum does not match"));
    }
    // What is allocated and divided by later.
    let segment = u64::from_le_bytes(*segment);
    if !SEGMENT_BYTES.contains(&segment) || !segment.is_multiple_of(frame::SECTOR as u64) {
        return Err(damaged(&format!("segments of {segment} bytes never were")));
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Secret;

    /// A header with a valid checksum can come from a memory fault, or from a program that has
    /// the file's secret. A size of zero would cause a division by zero.
    #[test]
    fn a_header_with_segments_of_no_possible_size_is_refused_though_it_is_sealed() {
        let id = Identity { file_id: [1; 16], checksummer: Checksummer::new(&Secret([2; 32])) };
        let read = |segment_bytes| read_header(Path::new("x.idem-wal"), &header(&id, segment_bytes), &id);
        for segment_bytes in [0, 1, 512, (64 << 10) - 512, (64 << 10) + 1, (1 << 30) + 512, u64::MAX] {
            assert!(matches!(read(segment_bytes), Err(OpenError::Damaged(_))), "{segment_bytes}");
        }
        for segment_bytes in [64 << 10, 8 << 20, 1 << 30] {
            assert_eq!(read(segment_bytes).unwrap(), segment_bytes);
        }
    }
}
