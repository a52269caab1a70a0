//! Relocation: when a block is dropped, its tombstones move to a new block, without bodies.
//!
//! A checkpoint drops a block when the last of its bodies has expired. In the same transaction it
//! writes tombstones of the keys that are still remembered into new blocks. So a crash finds the
//! old block or the new one, never neither.
//!
//! Readers may hold the old location meanwhile. Before the block leaves the directory, every key
//! that the index has there gets its tombstone in memory (`pin_in_memory`). So a reader that
//! finds the block gone asks the index again and finds the tombstone. If the index still names a
//! location after its block was dropped, the key is no longer remembered.

use std::collections::HashSet;

use redb::{Database, ReadableDatabase};

use super::backend_error::{BackendError, catch_backend_panic};
use super::batch::Commit;
use super::block::read_record;
use super::directory::BlockInfo;
use super::layout::{BLOCKS, INDEX};
use super::opened::Opened;
use super::owned::Owned;
use super::{Due, Store, StoreError, block};
use crate::Timestamp;
use crate::codec::BadBytes;
use crate::key::Digest;
use crate::record::{Record, RecordLocation, Relocation};

/// Tombstones, or records, that move to new blocks.
#[derive(Debug, Default)]
pub(super) struct Relocated(pub(super) Vec<MovingRecord>);

#[derive(Debug)]
pub(super) struct MovingRecord {
    pub(super) from: RecordLocation,
    pub(super) record: Record,
}

impl Relocated {
    pub(super) fn records(&self) -> Vec<Record> {
        self.0.iter().map(|moving| moving.record.clone()).collect()
    }

    /// The blocks stay after all: pinned records get their old locations back.
    pub(super) fn put_back(&self) {
        for moving in &self.0 {
            moving.record.set_location(moving.from);
        }
    }
}

impl Store {
    /// Takes the records that are still remembered out of the due blocks. Removes a block that
    /// can't be dropped now from `due`.
    ///
    /// Blocks with nothing to remember are not read.
    pub(super) fn relocate(
        &self,
        database: &Opened,
        due: &mut Due,
        it: &Commit<'_>,
        pin: &impl Fn(RecordLocation, &Record) -> Relocation,
    ) -> Result<Relocated, StoreError> {
        let (batch, now) = (it.batch, it.now);
        let forgotten_now: HashSet<Digest> = batch.forgotten.iter().map(|(digest, _)| *digest).collect();
        let mut carried = Relocated::default();
        let mut go = Vec::with_capacity(due.blocks.len());
        for (number, info) in std::mem::take(&mut due.blocks) {
            if info.remembered_until <= now {
                go.push((number, info));
                continue;
            }
            // What is forgotten must not move: its row hides blocks by their numbers, and the new
            // one is higher.
            let is_forgotten = |digest| forgotten_now.contains(&digest) || self.hides(digest, number);
            let is_remembered = |digest, until| until > now && !is_forgotten(digest);
            let found = self.remembered(database, number, info, is_remembered, Record::without_body);
            let found = found.map_err(|trouble| {
                carried.put_back();
                self.block_failed(database, number, it, trouble)
            })?;
            match found {
                Ok(moving) if moving.iter().all(|it| pin(it.from, &it.record) != Relocation::Stays) => {
                    carried.0.extend(moving);
                    go.push((number, info));
                }
                // One of its keys is being forgotten at this moment. The block goes next time.
                Ok(moving) => Relocated(moving).put_back(),
                // Its keys are answered with the damage for as long as they would have been
                // remembered.
                Err(_damaged) => self.keep(number, info.remembered_until),
            }
        }
        due.blocks = go;
        Ok(carried)
    }

    /// Whether a row of `forgotten` says that this block does not count for this key.
    fn hides(&self, digest: Digest, block: u64) -> bool {
        self.forgotten.lock().get(digest).is_some_and(|row| block < row.limit)
    }

    /// A block that can't be read stays until `until`.
    pub(super) fn keep(&self, number: u64, until: Timestamp) {
        self.directory.write().keep(number, until);
    }

    /// The error for an unreadable block: the checkpoint continues without it, and the block is
    /// tried again later.
    pub(super) fn block_failed(
        &self,
        database: &Opened,
        number: u64,
        it: &Commit<'_>,
        trouble: BackendError,
    ) -> StoreError {
        let is_unreadable = trouble.is_answer_of_disk();
        let error = self.access.failed(trouble, &database.faults);
        if is_unreadable && matches!(error, StoreError::Later(_)) {
            self.keep_unreadable(number, it);
        }
        error
    }

    /// An unreadable block stays for a while, from the end of the read on: a disk may take minutes
    /// to give a sector up.
    pub(super) fn keep_unreadable(&self, number: u64, it: &Commit<'_>) {
        it.takes_blocks.set(false);
        let now = (it.clock)();
        let mut unreadable = self.unreadable.lock();
        let until = unreadable.failed(number, now);
        if it.has_one_try {
            unreadable.rests(now);
        }
        drop(unreadable);
        self.keep(number, until);
    }

    /// Leaves blocks that could not be read to checkpoints, which have further tries.
    pub(super) fn leave_to_checkpoints(&self, blocks: &mut Vec<(u64, BlockInfo)>, it: &Commit<'_>) {
        if it.has_one_try {
            let unreadable = self.unreadable.lock();
            blocks.retain(|(number, _)| !unreadable.has(*number));
        }
    }

    /// The records to move, of a block's entries that are still remembered.
    pub(super) fn remembered(
        &self,
        database: &Database,
        number: u64,
        info: BlockInfo,
        is_remembered: impl Fn(Digest, Timestamp) -> bool,
        moved: impl Fn(&Record) -> Record,
    ) -> Result<Result<Vec<MovingRecord>, BadBytes>, BackendError> {
        catch_backend_panic(|| {
            let transaction = Owned::new(database.begin_read()?);
            let (blocks, index) = (transaction.open_table(BLOCKS)?, INDEX.read(&transaction)?);
            let key = (info.due.as_millis(), number);
            let (Some(block), Some(index)) = (blocks.get(key)?, index.get(key)?) else {
                return Ok(Err(BadBytes("the block is missing".to_owned())));
            };
            let mut places = Vec::new();
            let listed = block::read_index(
                (info.due, number),
                index.value(),
                &self.checksummer,
                |digest, until, place| {
                    if is_remembered(digest, until) {
                        places.push((digest, place));
                    }
                },
            );
            let read = |(digest, from)| {
                let record = read_record(block.value(), from, digest, &self.checksummer)?;
                Ok(MovingRecord { from, record: moved(&record) })
            };
            Ok(listed.and_then(|_| places.into_iter().map(read).collect()))
        })
    }
}
