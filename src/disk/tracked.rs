//! `Tracked`: a file that marks the chunks that were written to, for a live backup.

use std::io;
use std::path::Path;

use super::DiskFile;
use crate::fork::Origin;
use crate::sync::{Arc, UnseenMutex};

/// Bytes of a chunk.
pub(crate) const CHUNK: u64 = 64 << 10;

/// Passes everything to the file below.
#[derive(Debug)]
pub(crate) struct Tracked {
    file: Arc<dyn DiskFile>,
    /// The chunks that were not written to since they were read; `None` while there is no copy.
    /// Leaf lock, held for a moment.
    clean: UnseenMutex<Option<Clean>>,
}

/// One bit a chunk. A chunk without a bit is not clean.
#[derive(Debug, Default)]
struct Clean {
    bits: Vec<u64>,
    count: u64,
}

impl Clean {
    fn place(chunk: u64) -> (usize, u64) {
        (usize::try_from(chunk / 64).unwrap_or(usize::MAX), 1 << (chunk % 64))
    }

    /// Whether the bit was not set before.
    fn set(&mut self, chunk: u64) -> bool {
        let (word, bit) = Self::place(chunk);
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let is_new = self.bits.get(word).is_some_and(|bits| bits & bit == 0);
        if is_new && let Some(bits) = self.bits.get_mut(word) {
            *bits |= bit;
            self.count += 1;
        }
        is_new
    }

    fn clear(&mut self, chunks: std::ops::Range<u64>) {
        let end = chunks.end.min(self.bits.len() as u64 * 64);
        for chunk in chunks.start..end {
            let (word, bit) = Self::place(chunk);
            if let Some(bits) = self.bits.get_mut(word).filter(|bits| **bits & bit != 0) {
                *bits &= !bit;
                self.count -= 1;
            }
        }
    }
}

/// A copy is being made. Its drop ends the marking.
#[derive(Debug)]
#[must_use = "nothing is noted once it is gone"]
pub(crate) struct Tracking {
    of: Arc<Tracked>,
    /// In a forked child the lock may be held for ever.
    origin: Origin,
}

impl Tracked {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, clean: UnseenMutex::new(None) }
    }

    /// Marks writes from now on; `None` if a copy is already being made. No chunk is clean at
    /// first.
    pub(crate) fn track(self: &Arc<Self>) -> Option<Tracking> {
        let mut clean = self.clean.lock();
        if clean.is_some() {
            return None;
        }
        *clean = Some(Clean::default());
        Some(Tracking { of: Arc::clone(self), origin: Origin::here() })
    }

    /// Marks these chunks as changed since they were read.
    fn soil(&self, chunks: std::ops::Range<u64>) {
        if let Some(clean) = &mut *self.clean.lock() {
            clean.clear(chunks);
        }
    }
}

impl Tracking {
    /// Marks a chunk as clean before it is read; `false` if it is clean already and need not be
    /// read.
    ///
    /// A chunk is marked after its write, not before, so that a chunk that is read during the
    /// write is marked again. If it were marked before, a reader that doesn't see the write yet
    /// could clear the mark.
    pub(crate) fn take(&self, chunk: u64) -> bool {
        self.of.clean.lock().as_mut().is_some_and(|clean| clean.set(chunk))
    }

    /// Marks a chunk as not clean again: the bytes that were read were not used.
    pub(crate) fn put_back(&self, chunk: u64) {
        self.of.soil(chunk..chunk + 1);
    }

    /// Bytes in chunks that are not clean, of the first `len` bytes.
    pub(crate) fn left(&self, len: u64) -> u64 {
        let clean = self.of.clean.lock().as_ref().map_or(0, |clean| clean.count);
        len.div_ceil(CHUNK).saturating_sub(clean) * CHUNK
    }

    /// The file, to read from.
    pub(crate) fn file(&self) -> &dyn DiskFile {
        &*self.of.file
    }
}

impl Drop for Tracking {
    fn drop(&mut self) {
        if !self.origin.is_elsewhere() {
            *self.of.clean.lock() = None;
        }
    }
}

impl DiskFile for Tracked {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_at(offset, bytes);
        // Also where it failed: some of it may be there.
        self.soil(offset / CHUNK..(offset + bytes.len() as u64).div_ceil(CHUNK));
        written
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let set = self.file.set_len(len);
        self.soil(len / CHUNK..u64::MAX);
        set
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn is_gone_from(&self, path: &Path) -> bool {
        self.file.is_gone_from(path)
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::disk::sim::SimDisk;

    fn tracked() -> Arc<Tracked> {
        Arc::new(Tracked::new(SimDisk::new().create(Path::new("f"), None).unwrap()))
    }

    fn soiled(tracking: &Tracking) -> Vec<u64> {
        (0..200).filter(|chunk| tracking.take(*chunk)).collect()
    }

    #[test]
    fn chunks_that_were_written_to_are_to_be_read_again_and_no_others() {
        let file = tracked();
        file.write_at(0, &[1; 100]).unwrap();
        let tracking = file.track().unwrap();
        assert_eq!(soiled(&tracking).len(), 200, "nothing was read yet");
        assert_eq!((soiled(&tracking).len(), tracking.left(200 * CHUNK)), (0, 0));
        file.write_at(CHUNK - 1, &[1; 2]).unwrap();
        file.write_at(5 * CHUNK, &[1; 1]).unwrap();
        assert_eq!(tracking.left(200 * CHUNK), 3 * CHUNK);
        assert_eq!(soiled(&tracking), [0, 1, 5]);
        tracking.put_back(3);
        assert_eq!(soiled(&tracking), [3]);
    }

    #[test]
    fn what_lies_behind_a_new_end_is_to_be_read_again() {
        let file = tracked();
        let tracking = file.track().unwrap();
        assert_eq!(soiled(&tracking).len(), 200);
        file.set_len(198 * CHUNK + 1).unwrap();
        assert_eq!(soiled(&tracking), [198, 199]);
    }

    #[test]
    fn one_copy_is_made_at_a_time() {
        let file = tracked();
        let tracking = file.track().unwrap();
        assert!(file.track().is_none());
        drop(tracking);
        assert!(file.track().is_some());
    }

    #[test]
    fn a_copy_that_a_forked_child_drops_takes_no_lock() {
        let file = tracked();
        let mut tracking = file.track().unwrap();
        tracking.origin = Origin::of_another();
        drop(tracking);
        assert!(file.clean.lock().is_some());
    }
}
