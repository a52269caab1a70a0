//! A check of a whole file, for tools: it reads everything, and says what it could not tell.

use std::path::Path;

use crate::engine::core::Core;
use crate::engine::core::modes::Verify;
use crate::engine::core::options::Options;
use crate::engine::file::handle::FileHandle;
use crate::engine::handles::engine::Engine;
use crate::engine::handles::handle::Handle;
use crate::error::{Damage, IoFailure, OpenError, ReadError};
use crate::status::Status;
use crate::wal::{self, LogEnd};

/// The most damages that a check lists; it counts them all.
const LISTED: usize = 100;

/// What a check found; see [`Options::check_file`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// Records that were read and are replayed.
    pub records: u64,
    /// Records that were read, whose time is over and whose keys are remembered.
    pub expired: u64,
    /// Interrupted keys.
    pub interrupted: u64,
    /// Keys in flight: their claims were handed over as tokens.
    pub in_flight: u64,
    /// Policies of scopes.
    pub policies: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of the log; zero if there is none.
    pub log_bytes: u64,
    /// Frames of the log that the file does not have yet.
    pub log_frames: u64,
    /// Offset in the log of bytes that may be a torn or a damaged last frame.
    pub log_end_unclear: Option<u64>,
    /// Keys whose records are damaged.
    pub damaged: u64,
    /// The first hundred damages.
    pub damages: Vec<Damage>,
    /// Reads that the operating system refused: of keys, or of pages.
    pub unread: u64,
}

/// The three answers of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything was read, and is what was written.
    Sound,
    /// Bytes are not what was written.
    Damaged,
    /// Nothing damaged was found, but something could not be read, or the end of the log can't be
    /// told from a damaged last frame.
    Inconclusive,
}

impl Checked {
    /// The answer.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.damaged > 0 {
            Verdict::Damaged
        } else if self.unread > 0 || self.log_end_unclear.is_some() {
            Verdict::Inconclusive
        } else {
            Verdict::Sound
        }
    }

    fn count(&mut self, status: &Status) {
        match status {
            Status::Done(_) => self.records += 1,
            Status::Expired(_) => self.expired += 1,
            Status::Interrupted(_) => self.interrupted += 1,
            Status::InFlight(_) => self.in_flight += 1,
            // Its time was over since it was listed.
            Status::Vacant => {}
            Status::Unreadable(_) => self.unread += 1,
        }
    }

    fn count_error(&mut self, error: ReadError) {
        match error {
            ReadError::Damaged(damage) => {
                self.damaged += 1;
                if self.damages.len() < LISTED {
                    self.damages.push(damage);
                }
            }
            ReadError::Key(_) | ReadError::Closed | ReadError::Forked | ReadError::Io(_) => self.unread += 1,
            #[cfg(feature = "postgres")]
            ReadError::NoFile | ReadError::InsideCallback | ReadError::Shared(_) => self.unread += 1,
        }
    }
}

impl Options {
    /// Reads a file that no engine has open, every page and record of it and its log, and changes
    /// nothing. It opens the file as with [`read_only`](Self::read_only) and
    /// [`Verify::Always`](crate::Verify::Always).
    ///
    /// Room of the file that is free, and frames of the log that the file has, are no part of the
    /// contents: an altered byte there is harmless, and is not reported.
    ///
    /// It can't know of frames that are gone without a trace: see "Known limits" in
    /// `docs/operations.md`.
    ///
    /// # Errors
    ///
    /// When the file can't be opened: it is in use, or so much of it is damaged that there is
    /// nothing to count ([`OpenError::Damaged`]).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Verdict};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("x.idem");
    /// let engine = Engine::open(&path)?;
    /// let Begin::Fresh(claim) = engine.default_scope().begin("key", Fingerprint::of("request"))? else { panic!() };
    /// claim.complete("reply")?;
    /// engine.close()?;
    /// let checked = Engine::options().check_file(&path)?;
    /// assert_eq!((checked.verdict(), checked.records), (Verdict::Sound, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_file(self, path: impl AsRef<Path>) -> Result<Checked, OpenError> {
        let file = FileHandle::open(path.as_ref(), self.read_only().verify(Verify::Always))?;
        let (end, log_bytes) = (file.core().find_end_of_log()?, file.core().log_file_bytes()?);
        let engine = Engine::new(Handle::File(file));
        let stats = engine.stats();
        let mut checked = Checked {
            policies: engine.policies().len() as u64,
            file_bytes: stats.file_bytes,
            log_bytes,
            log_frames: end.frames,
            log_end_unclear: end.unclear,
            ..Checked::default()
        };
        for entry in engine.entries() {
            match entry {
                Ok(entry) => checked.count(entry.status()),
                Err(error) => checked.count_error(error),
            }
        }
        // One that nobody was told of counts, too.
        checked.unread = checked.unread.max(engine.stats().failed_reads);
        Ok(checked)
    }
}

impl Core {
    fn find_end_of_log(&self) -> Result<LogEnd, IoFailure> {
        let meta = self.store.meta();
        match self.log.get() {
            // Without need for it, nothing in it counts.
            Some(log) if !meta.log_empty => {
                wal::find_end(&log, self.store.checksummer(), meta.salt, meta.checkpointed_seq)
            }
            Some(_) | None => Ok(LogEnd { frames: 0, unclear: None }),
        }
    }

    fn log_file_bytes(&self) -> Result<u64, IoFailure> {
        self.log.get().map_or(Ok(0), |log| log.bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Pages are read before keys. So this needs a record that is damaged under the right checksum
    /// of its page.
    #[test]
    fn damage_counts_for_more_than_a_read_that_fails() {
        let mut checked = Checked::default();
        checked.count(&Status::Vacant);
        assert_eq!(checked.verdict(), Verdict::Sound);
        checked.count_error(ReadError::Closed);
        checked.count(&Status::Unreadable(ReadError::Closed));
        assert_eq!((checked.unread, checked.verdict()), (2, Verdict::Inconclusive));
        for _ in 0..=LISTED {
            let damage = Damage::new(Path::new("x.idem"), "a record".to_owned(), "altered".to_owned());
            checked.count_error(ReadError::Damaged(damage));
        }
        assert_eq!((checked.damaged, checked.damages.len()), (LISTED as u64 + 1, LISTED));
        assert_eq!(checked.verdict(), Verdict::Damaged);
    }
}
