//! The copy of a live backup: copies the file byte for byte, and changed chunks again.

use std::io;
use std::path::Path;

use super::{Batch, Store};
use crate::Timestamp;
use crate::disk::{CHUNK, Disk, DiskFile, Tracking};
use crate::error::{IoFailure, OpenError};
use crate::record::Relocation;
use crate::sync::Arc;

/// Bytes that are copied between two syncs of the copy. With more at once, the disk would keep
/// the log waiting.
const SYNC_EVERY: u64 = 1 << 20;

/// A copy that is being made.
#[derive(Debug)]
pub(crate) struct Copy<'p> {
    from: &'p Path,
    to: &'p Path,
    tracking: &'p Tracking,
    file: Arc<dyn DiskFile>,
    /// The end of the written bytes.
    end: u64,
    unsynced: u64,
}

/// Whether the file may change while it is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    /// It may: the next round copies the changes.
    Changes,
    /// No page that counts is written.
    StaysAsItIs,
}

impl Store {
    /// Marks what is written from now on, for a copy; `None` if another copy is being made. That
    /// includes its last steps, in which its file is not locked: another copy with that name would
    /// take it for one that was left behind.
    pub(crate) fn track(&self) -> Option<Tracking> {
        self.access.track()
    }

    /// Starts a copy into the empty file `file` at `to`.
    pub(crate) fn copy<'p>(
        &'p self,
        to: &'p Path,
        file: Arc<dyn DiskFile>,
        tracking: &'p Tracking,
    ) -> Copy<'p> {
        Copy { from: &self.path, to, tracking, file, end: 0, unsynced: 0 }
    }
}

impl Copy<'_> {
    /// Bytes that are to be copied still.
    pub(crate) fn left(&self) -> Result<u64, IoFailure> {
        Ok(self.tracking.left(self.source_len()?))
    }

    fn source_len(&self) -> Result<u64, IoFailure> {
        self.tracking.file().len().map_err(|error| IoFailure::new(self.from, "measuring", error))
    }

    /// Copies every chunk that was written to since its last copy. `pause` is called after each,
    /// and may end the copy.
    pub(crate) fn round<E: From<IoFailure>>(
        &mut self,
        meanwhile: Meanwhile,
        mut pause: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        for chunk in 0..self.source_len()?.div_ceil(CHUNK) {
            if self.tracking.take(chunk) {
                self.copy_chunk(chunk, meanwhile)?;
                pause()?;
            }
        }
        Ok(())
    }

    fn copy_chunk(&mut self, chunk: u64, meanwhile: Meanwhile) -> Result<(), IoFailure> {
        let at = chunk * CHUNK;
        // Measured after the mark, as the bytes are read after it: what is written behind an earlier
        // end, before the mark, marks the chunk no more.
        let len = self.source_len()?;
        // What lies behind the end is zero, so that a file that grows again finds no old bytes
        // there.
        let mut bytes = vec![0; usize::try_from(CHUNK).unwrap_or(0)];
        let there = usize::try_from(len.saturating_sub(at).min(CHUNK)).unwrap_or(0);
        match self.tracking.file().read_at(at, bytes.split_at_mut(there).0) {
            Ok(()) => {}
            // It was made shorter just now.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && meanwhile == Meanwhile::Changes => {
                self.tracking.put_back(chunk);
                return Ok(());
            }
            Err(error) => return Err(IoFailure::new(self.from, "reading", error)),
        }
        // redb doubles its file: most of a large one can be nothing at all.
        if at >= self.end && bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        self.file.write_at(at, &bytes).map_err(|error| self.failed("writing", error))?;
        self.end = self.end.max(at + CHUNK);
        self.unsynced += CHUNK;
        if self.unsynced >= SYNC_EVERY && meanwhile == Meanwhile::Changes { self.sync() } else { Ok(()) }
    }

    fn failed(&self, doing: &'static str, error: io::Error) -> IoFailure {
        IoFailure::new(self.to, doing, error)
    }

    fn sync(&mut self) -> Result<(), IoFailure> {
        self.unsynced = 0;
        self.file.sync().map_err(|error| self.failed("syncing", error))
    }

    /// Cuts the copy to the file's length, which no thread changes now; nothing is copied after
    /// this.
    pub(crate) fn cut(mut self) -> Result<Whole, IoFailure> {
        self.end = self.source_len()?;
        Ok(Whole { len: self.end, file: Arc::clone(&self.file) })
    }
}

/// All bytes of a copy. Not durable yet.
#[derive(Debug)]
#[must_use = "it is made durable by `finish`"]
pub(crate) struct Whole {
    len: u64,
    file: Arc<dyn DiskFile>,
}

impl Whole {
    /// Makes the copy at `path` an independent file, durably: it needs no log, and an opening
    /// refuses the original's log beside it. Verifies every page. Returns the file, locked.
    pub(crate) fn finish(
        self,
        disk: &dyn Disk,
        path: &Path,
        now: Timestamp,
        salt: u64,
    ) -> Result<Arc<dyn DiskFile>, OpenError> {
        let failed = |doing| move |error| OpenError::from(IoFailure::new(path, doing, error));
        self.file.set_len(self.len).map_err(failed("cutting"))?;
        self.file.sync().map_err(failed("syncing"))?;
        // It is opened as any file is, which takes its lock.
        self.file.unlock().map_err(failed("unlocking"))?;
        drop(self);
        let store = Store::open(disk, path, |_len| 1 << 20, |_len| true)?;
        let sealed = store.apply(
            None,
            &Batch::default(),
            &|| now,
            |meta| {
                meta.log_empty = true;
                meta.log_bytes = 0;
                meta.salt = salt;
                // It was never opened: a log beside it is the original's.
                meta.opened_as.0.clear();
            },
            |_from, _moving| Relocation::Stays,
        );
        let closed = store.close();
        sealed.map_err(super::StoreError::into_open_error)?;
        closed.map_err(|failure| super::StoreError::Failed(failure).into_open_error())?;
        let file = disk.open(path).map_err(failed("opening"))?;
        file.sync().map_err(failed("syncing"))?;
        Ok(file)
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::*;
    use crate::disk::Tracked;
    use crate::disk::sim::SimDisk;

    /// A checkpoint grows the file while a round is under way, and writes behind the old end in the
    /// chunk that has it.
    #[test]
    fn what_is_written_behind_the_end_that_a_round_began_with_is_copied() {
        let (disk, old_end) = (SimDisk::new(), CHUNK + CHUNK / 2);
        let new = |name: &str| disk.create(Path::new(name), None).unwrap();
        let file = Arc::new(Tracked::new(new("file")));
        file.write_at(0, &vec![1; usize::try_from(old_end).unwrap()]).unwrap();
        let (tracking, copied) = (file.track().unwrap(), new("copy"));
        let mut copy = Copy {
            from: Path::new("file"),
            to: Path::new("copy"),
            tracking: &tracking,
            file: Arc::clone(&copied),
            end: 0,
            unsynced: 0,
        };
        let mut pauses = 0;
        let grow = || {
            pauses += 1;
            if pauses == 1 {
                file.set_len(3 * CHUNK).unwrap();
                file.write_at(old_end, &[2; 100]).unwrap();
            }
            Ok::<_, IoFailure>(())
        };
        copy.round(Meanwhile::Changes, grow).unwrap();
        copy.round(Meanwhile::StaysAsItIs, || Ok::<_, IoFailure>(())).unwrap();
        let whole = copy.cut().unwrap();
        whole.file.set_len(whole.len).unwrap();
        let bytes = |file: &dyn DiskFile| {
            let mut bytes = vec![0; usize::try_from(3 * CHUNK).unwrap()];
            file.read_at(0, &mut bytes).unwrap();
            bytes
        };
        assert!(bytes(&*copied) == bytes(&*file));
    }
}
