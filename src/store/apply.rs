//! Applying a checkpoint: one transaction that writes a batch, and drops or moves blocks that are
//! due.

use std::cell::Cell;

use redb::WriteTransaction;

use super::backend_error::{BackendError, catch_backend_panic};
use super::batch::{Applied, Batch, Commit};
use super::directory::BlockInfo;
use super::due::Due;
use super::forgotten::Row;
use super::layout::{BLOCKS, CLAIMS, FORGOTTEN, INDEX, META, SCOPES};
use super::merge::Merged;
use super::meta::Meta;
use super::opened::Opened;
use super::opening::read_meta_row;
use super::owned::Owned;
use super::refusal::StoreError;
use super::relocate::Relocated;
use super::tally::Tallies;
use super::transaction::{OpenTransaction, begin_durable, begin_last};
use super::{META_ROW, Store, block};
use crate::error::Failure;
use crate::record::{Record, RecordLocation, Relocation};
use crate::sync::Arc;
use crate::{Timestamp, codec};

/// How often a checkpoint is tried at once if reads fail.
const TRIES: usize = 4;

/// How often the file is opened to find out what became of a commit.
const LOOKS: usize = 10;

/// What one transaction is to write.
struct Plan {
    meta: Meta,
    blocks: Vec<block::Block>,
    /// Number of the first of them.
    first: u64,
    due: Due,
    /// Of the blocks that are due, those that are not merged.
    reclaimed: usize,
    carried: Relocated,
    merged: Merged,
}

impl Store {
    /// Writes a batch in one transaction, drops blocks that are due, moves their tombstones to new
    /// blocks, and sets every record's location. The commit is durable, except for a batch that
    /// [`closes`](Batch::closes) the store.
    ///
    /// `begun` is an application's transaction, to be committed with the batch. `change` sets
    /// other fields of the meta row. `pin_in_memory` gets, before a block is dropped, each moving
    /// tombstone or record, so that lookups find it in memory; its answer says whether the record
    /// may move now. Only one thread may call this at a time.
    pub(crate) fn apply(
        &self,
        begun: Option<OpenTransaction>,
        batch: &Batch,
        clock: &dyn Fn() -> Timestamp,
        change: impl FnOnce(&mut Meta),
        pin: impl Fn(RecordLocation, &Record) -> Relocation,
    ) -> Result<Applied, StoreError> {
        if self.origin.is_elsewhere_for_sure() {
            std::mem::forget(begun);
            return Err(StoreError::Failed(Failure::Forked));
        }
        let mut meta = self.meta();
        change(&mut meta);
        let (now, has_one_try) = (clock(), begun.is_some());
        let takes_blocks = Cell::new(!has_one_try || self.unreadable.lock().has_rested(now));
        let it = Commit { batch, now, clock, takes_blocks, has_one_try };
        if let Some(OpenTransaction { transaction, database }) = begun {
            // If the database has stopped, it fails.
            return self.commit(database, Some(transaction), &it, meta, &pin);
        }
        let mut tries = 1;
        loop {
            let database = self.access.writable(|database| self.check_current(database));
            let applied = database.and_then(|database| self.commit(database, None, &it, meta.clone(), &pin));
            match applied {
                Err(StoreError::Later(_)) if tries < TRIES => tries += 1,
                applied => return applied,
            }
        }
    }

    /// Makes one commit, or none.
    fn commit(
        &self,
        database: Arc<Opened>,
        begun: Option<Owned<WriteTransaction>>,
        it: &Commit<'_>,
        meta: Meta,
        pin: &impl Fn(RecordLocation, &Record) -> Relocation,
    ) -> Result<Applied, StoreError> {
        let (batch, now) = (it.batch, it.now);
        database.faults.before_commit();
        let has_others = begun.is_some();
        let mut plan = self.plan(&database, it, meta, pin)?;
        // First out of the directory, so that no reader looks for a block that is on its way out.
        let dropped = self.leave_out(&plan.due);
        let begun = catch_backend_panic(|| {
            database.hold()?;
            match begun {
                Some(begun) => Ok(begun),
                None if batch.closes => begin_last(&database),
                None => begin_durable(&database),
            }
        });
        let mut unreadable = None;
        // redb can't abort a transaction while a panic goes through it, so the transaction lies
        // outside.
        let written = begun.and_then(|transaction| {
            catch_backend_panic(|| self.write(&transaction, batch, &mut plan, &mut unreadable))?;
            catch_backend_panic(|| Ok(transaction.into_inner().commit()?))
        });
        let database = match written {
            Ok(()) => Ok(database),
            Err(trouble) => {
                unreadable = unreadable.filter(|_| trouble.is_answer_of_disk());
                self.settle(database, trouble, &plan.meta, has_others)
            }
        };
        let database = database.inspect_err(|error| {
            self.put_back(&dropped, &plan);
            if let (StoreError::Later(_), Some(number)) = (error, unreadable) {
                self.keep_unreadable(number, it);
            }
        })?;
        if batch.closes {
            self.access.set_unsynced();
        }
        // Before anybody learns of new blocks.
        database.renew();
        self.committed(&plan, it);
        let Plan { meta, blocks, reclaimed, merged, .. } = plan;
        *self.meta.lock() = meta;
        let records = blocks.into_iter().flat_map(|block| block.records).map(|(record, _)| record);
        let cold = records.filter(|record| record.expires() <= now).chain(merged.records()).collect();
        Ok(Applied { reclaimed, leaves_due: !it.takes_blocks.get(), cold })
    }

    /// Reads the records that move, and packs them and the new records into blocks.
    fn plan(
        &self,
        database: &Opened,
        it: &Commit<'_>,
        mut meta: Meta,
        pin: &impl Fn(RecordLocation, &Record) -> Relocation,
    ) -> Result<Plan, StoreError> {
        let (batch, now) = (it.batch, it.now);
        let merged = self.merge(database, it, pin)?;
        let mut live = merged.records();
        live.reserve(batch.records.len());
        live.extend(batch.records.iter().filter(|record| record.remembered_until() > now).cloned());
        let first = meta.block_next;
        let mut blocks = block::pack(live, now, first, &self.checksummer);
        let written: u64 = blocks.iter().map(|block| BlockInfo::of(block).file_bytes()).sum();
        let mut due =
            self.due(now, if it.takes_blocks.get() { batch.reclaim_max.max(2 * written) } else { 0 });
        self.leave_to_checkpoints(&mut due.blocks, it);
        let carried = self.relocate(database, &mut due, it, pin).inspect_err(|_| merged.put_back())?;
        let reclaimed = due.blocks.len();
        due.blocks.extend(merged.blocks());
        let next = first + blocks.len() as u64;
        blocks.extend(block::pack(carried.records(), now, next, &self.checksummer));
        meta.block_next += blocks.len() as u64;
        assert!(meta.block_next < RecordLocation::BLOCK_LIMIT, "block numbers last for exabytes");
        Ok(Plan { meta, blocks, first, due, reclaimed, carried, merged })
    }

    /// Writes everything; stores in `at` the block at which it stopped.
    fn write(
        &self,
        transaction: &WriteTransaction,
        batch: &Batch,
        plan: &mut Plan,
        at: &mut Option<u64>,
    ) -> Result<(), BackendError> {
        let Plan { meta, blocks, first, due, .. } = plan;
        write_blocks(transaction, &mut meta.tallies, blocks)?;
        drop_blocks(transaction, &mut meta.tallies, &due.blocks, at)?;
        let added: usize = blocks.iter().map(|block| block.records.len()).sum();
        meta.keys = (meta.keys + added as u64).saturating_sub(due.keys());
        self.write_claims(transaction, &mut meta.tallies, batch)?;
        self.write_forgotten(transaction, &mut meta.tallies, batch, due, *first)?;
        self.write_scopes(transaction, &mut meta.tallies, batch)?;
        transaction.open_table(META)?.insert(META_ROW, meta.encode().as_slice())?;
        Ok(())
    }

    /// Finds out whether a commit that returned an error is in the file; returns the database if
    /// it is.
    ///
    /// redb also reads after a commit, and another caller's failed read stops redb at any point.
    /// Before the second header is written, the commit does not count. After that, the file is
    /// synced and opened in a view, and its meta row decides.
    fn settle(
        &self,
        database: Arc<Opened>,
        trouble: BackendError,
        meta: &Meta,
        has_others: bool,
    ) -> Result<Arc<Opened>, StoreError> {
        if has_others && trouble.is_poisoned() {
            return Err(StoreError::Poisoned);
        }
        let error = self.access.failed(trouble, &database.faults);
        if !matches!(error, StoreError::Later(_)) || !database.faults.may_have_committed() {
            return Err(error);
        }
        // The last that knows a database closes it.
        drop(database);
        let mut is_there = false;
        let mut look = || {
            self.access.look_again(|database| {
                is_there = read_meta_row(database)?.is_some_and(|row| row == meta.encode());
                if is_there { Ok(()) } else { self.check_current(database) }
            })
        };
        // Reads that fail here fail at random, and this is the last moment at which anybody knows
        // both rows.
        let mut opened = look();
        for _ in 1..LOOKS {
            if !matches!(opened, Err(StoreError::Later(_))) {
                break;
            }
            opened = look();
        }
        match opened {
            Ok(database) if is_there => Ok(database),
            Ok(_) => Err(error),
            // Others must be told whether their writes are there, and nobody knows. For all else
            // the next commit asks: if this one is there, it ends grants until the next opening of
            // the engine.
            Err(StoreError::Full(failure) | StoreError::Later(failure)) if has_others => {
                Err(StoreError::Failed(Failure::Io(failure)))
            }
            Err(unknown) => Err(unknown),
        }
    }

    /// Nothing was written: no record moves.
    fn put_back(&self, dropped: &[(u64, BlockInfo)], plan: &Plan) {
        // The directory first: a lookup that sees an old location again must see that its block
        // came back.
        self.directory.write().put_back(dropped);
        plan.carried.put_back();
        plan.merged.put_back();
    }

    /// Removes blocks from the directory; returns their entries.
    fn leave_out(&self, due: &Due) -> Vec<(u64, BlockInfo)> {
        let mut directory = self.directory.write();
        due.blocks
            .iter()
            .filter_map(|(number, _)| directory.remove(*number).map(|block| (*number, block)))
            .collect()
    }

    fn write_claims(
        &self,
        transaction: &WriteTransaction,
        tallies: &mut Tallies,
        batch: &Batch,
    ) -> Result<(), BackendError> {
        let mut rows = CLAIMS.write(transaction, tallies)?;
        // Most claims end before a checkpoint finds them out, so that often no row is there.
        if !rows.is_empty() {
            let mut ended = batch.ended.clone();
            ended.sort_unstable();
            ended.iter().try_for_each(|digest| rows.remove(digest.as_u128()))?;
        }
        for (digest, row) in &batch.claims {
            let sealed = self.checksummer.seal(CLAIMS.name(), &digest.halves(), row);
            rows.insert(digest.as_u128(), &sealed)?;
        }
        Ok(())
    }

    fn write_forgotten(
        &self,
        transaction: &WriteTransaction,
        tallies: &mut Tallies,
        batch: &Batch,
        due: &Due,
        limit: u64,
    ) -> Result<(), BackendError> {
        let mut rows = FORGOTTEN.write(transaction, tallies)?;
        for digest in &due.forgotten {
            rows.remove(digest.as_u128())?;
        }
        // The limit lies below this batch's blocks: a key forgotten and completed again within one
        // batch stays. Tombstones that move now lie above it too, but none of a key that this
        // batch forgets: `carry` leaves those out.
        for (digest, until) in &self.forgotten_until(batch) {
            let mut row = Vec::new();
            codec::encode_into(&(limit, until.as_millis()), &mut row);
            let sealed = self.checksummer.seal(FORGOTTEN.name(), &digest.halves(), &row);
            rows.insert(digest.as_u128(), &sealed)?;
        }
        Ok(())
    }

    fn write_scopes(
        &self,
        transaction: &WriteTransaction,
        tallies: &mut Tallies,
        batch: &Batch,
    ) -> Result<(), BackendError> {
        let mut rows = SCOPES.write(transaction, tallies)?;
        for (name, row) in &batch.scopes {
            rows.insert(&**name, &self.checksummer.seal(SCOPES.name(), &[], row))?;
        }
        Ok(())
    }

    fn committed(&self, plan: &Plan, it: &Commit<'_>) {
        let Plan { blocks, due, first: limit, .. } = plan;
        let mut directory = self.directory.write();
        for block in blocks {
            directory.insert(block.number, BlockInfo::of(block));
        }
        drop(directory);
        due.blocks.iter().for_each(|(block, _)| self.unread.is_fine(*block));
        let mut unreadable = self.unreadable.lock();
        for (block, _) in &due.blocks {
            unreadable.is_gone(*block);
        }
        if it.has_one_try && !due.blocks.is_empty() {
            unreadable.rests_no_more();
        }
        drop(unreadable);
        // After the directory, so that a reader that sees a place finds its block.
        for (record, place) in blocks.iter().flat_map(|block| &block.records) {
            record.set_location(*place);
        }
        let rows = self.forgotten_until(it.batch);
        let mut forgotten = self.forgotten.lock();
        for digest in &due.forgotten {
            forgotten.remove(*digest);
        }
        for (digest, until) in rows {
            forgotten.insert(digest, Row { limit: *limit, until });
        }
    }
}

fn write_blocks(
    transaction: &WriteTransaction,
    tallies: &mut Tallies,
    blocks: &[block::Block],
) -> Result<(), BackendError> {
    let mut bodies = transaction.open_table(BLOCKS)?;
    let mut index = INDEX.write(transaction, tallies)?;
    for block in blocks {
        let key = (block.due.as_millis(), block.number);
        bodies.insert(key, block.bytes.as_slice())?;
        index.insert(key, &block.index)?;
    }
    Ok(())
}

/// Stores in `at` the block at which it stops.
fn drop_blocks(
    transaction: &WriteTransaction,
    tallies: &mut Tallies,
    due: &[(u64, BlockInfo)],
    at: &mut Option<u64>,
) -> Result<(), BackendError> {
    let mut bodies = transaction.open_table(BLOCKS)?;
    let mut index = INDEX.write(transaction, tallies)?;
    for (number, block) in due {
        *at = Some(*number);
        bodies.remove((block.due.as_millis(), *number))?;
        index.remove((block.due.as_millis(), *number))?;
    }
    *at = None;
    Ok(())
}
