//! Reading one record of a block.

use super::access::READ_TRIES;
use super::backend_error::BackendError;
use super::directory::Gone;
use super::opened::Opened;
use super::unread::MayRead;
use super::{Store, block};
use crate::Timestamp;
use crate::codec::BadBytes;
use crate::error::ReadError;
use crate::key::Digest;
use crate::record::{Record, RecordLocation};

/// What a location led to.
#[derive(Debug)]
pub(crate) enum StoredRecord {
    Found(Record),
    /// Its block is not there. The record is no longer remembered, or has moved. The index knows
    /// which, because it is changed before the block goes.
    Gone(Gone),
}

impl Store {
    /// The record at `place`. A block whose reads fail again and again is read less and less often,
    /// by one caller at a time; meanwhile the answer is the disk's last one. The rest between two
    /// reads counts from the end of the first: a disk may take minutes to give a sector up.
    pub(crate) fn read(
        &self,
        place: RecordLocation,
        digest: Digest,
        now: impl Fn() -> Timestamp,
    ) -> Result<StoredRecord, ReadError> {
        let began = now();
        let block = place.block();
        let due = match self.due_of(place) {
            Ok(due) => due,
            Err(gone) => {
                self.unread.is_fine(block);
                return Ok(StoredRecord::Gone(gone));
            }
        };
        let (tries, _probe) = match self.unread.ask(block, began) {
            MayRead::AsOften => (READ_TRIES, None),
            MayRead::Once(probe) => (1, Some(probe)),
            MayRead::No(failure) => return Err(ReadError::Io(failure)),
        };
        match self.access.try_read(tries, |database| self.read_in(database, due, place, digest))? {
            Ok(found) => {
                self.unread.is_fine(block);
                Ok(found)
            }
            Err(trouble) => {
                let is_answer_of_disk = trouble.is_answer_of_disk();
                let error = trouble.into_read_error(&self.path);
                if let ReadError::Io(failure) = &error
                    && is_answer_of_disk
                {
                    self.unread.failed(block, failure, began..now());
                    // A commit may have dropped the block meanwhile, and nobody asks for it again.
                    if self.due_of(place).is_err() {
                        self.unread.is_fine(block);
                    }
                }
                Err(error)
            }
        }
    }

    fn read_in(
        &self,
        database: &Opened,
        due: Timestamp,
        place: RecordLocation,
        digest: Digest,
    ) -> Result<StoredRecord, BackendError> {
        let blocks = database.blocks()?;
        let Some(block) = blocks.get((due.as_millis(), place.block()))? else {
            return match self.due_of(place) {
                Ok(_) => Err(self.block_missing(due, place)),
                Err(gone) => Ok(StoredRecord::Gone(gone)),
            };
        };
        match block::read_record(block.value(), place, digest, &self.checksummer) {
            Ok(record) => Ok(StoredRecord::Found(record)),
            Err(bad) => Err(BackendError::at(block_place(due, place), bad)),
        }
    }

    /// Whether the block has been gone since. Asked after another look at the index: if that still
    /// named the location, the record is no longer remembered.
    pub(crate) fn is_still_gone(&self, gone: Gone) -> bool {
        self.directory.read().gone() == gone
    }

    /// When the block of a record is due.
    fn due_of(&self, place: RecordLocation) -> Result<Timestamp, Gone> {
        let directory = self.directory.read();
        directory.get(place.block()).map(|block| block.due).ok_or_else(|| directory.gone())
    }

    fn block_missing(&self, due: Timestamp, place: RecordLocation) -> BackendError {
        if !self.access.is_current() {
            // A checkpoint that failed in its last step may have dropped it, and only the next
            // opening can tell.
            return BackendError::last_word("a failed checkpoint may have moved what it holds");
        }
        BackendError::at(block_place(due, place), BadBytes("the block is missing".to_owned()))
    }
}

fn block_place(due: Timestamp, place: RecordLocation) -> String {
    format!("table `blocks`, row ({}, {}), offset {}", due.as_millis(), place.block(), place.offset())
}
