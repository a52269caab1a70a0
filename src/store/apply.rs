//! Applying a checkpoint: one transaction that writes a batch, and drops or moves blocks that are due.

use redb::WriteTransaction;

use super::backend_error::{BackendError, catch_backend_panic};
use super::batch::{Applied, Batch};
use super::directory::BlockInfo;
use super::due::Due;
use super::forgotten::Row;
use super::layout::{BLOCKS, CLAIMS, FORGOTTEN, INDEX, META, SCOPES};
use super::meta::Meta;
use super::refusal::StoreError;
use super::tally::Tallies;
use super::transaction::{OpenTransaction, begin_durable};
use super::{META_ROW, Store, block};
use crate::error::Failure;
use crate::record::{Record, RecordLocation, Relocation};
use crate::{Timestamp, codec};

impl Store {
    /// Writes a batch, drops blocks that are due and writes anew what is still to be remembered of them, in one durable
    /// transaction, and tells every record its place.
    ///
    /// `begun` is a transaction that others have written in, to be committed with it. `change` sets what else is new in the meta
    /// row. `pin_in_memory` is told, before a record's block goes, of the tombstone that takes
    /// its place, or of the record that moves, so that a look finds that in memory; it says whether the record may go now. Only one thread may be in
    /// here.
    pub(crate) fn apply(
        &self,
        begun: Option<OpenTransaction>,
        batch: &Batch,
        now: Timestamp,
        change: impl FnOnce(&mut Meta),
        pin: impl Fn(RecordLocation, &Record) -> Relocation,
    ) -> Result<Applied, StoreError> {
        if self.origin.is_elsewhere_for_sure() {
            std::mem::forget(begun);
            return Err(StoreError::Failed(Failure::Forked));
        }
        let mut meta = self.meta();
        change(&mut meta);
        let database = match &begun {
            // It is of the database that is open, or of one that has stopped: then it fails.
            Some(_) => self
                .access
                .database()
                .map_err(|_closed| self.access.failed(BackendError::unexpected("the store is closed")))?,
            None => self.access.writable(|database| self.check_current(database))?,
        };
        let merged = self.merge(&database, batch, now, &pin)?;
        let mut live = merged.records();
        live.extend(batch.records.iter().filter(|record| record.remembered_until() > now).cloned());
        let first = meta.block_next;
        let mut blocks = block::pack(live, now, first, &self.checksummer);
        let written: u64 = blocks.iter().map(|block| BlockInfo::of(block).file_bytes()).sum();
        let mut due = self.due(now, batch.reclaim_max.max(2 * written));
        let carried =
            self.relocate(&database, &mut due, batch, now, &pin).inspect_err(|_| merged.put_back())?;
        let reclaimed = due.blocks.len();
        due.blocks.extend(merged.blocks());
        let next = first + blocks.len() as u64;
        blocks.extend(block::pack(carried.records(), now, next, &self.checksummer));
        meta.block_next += blocks.len() as u64;
        assert!(meta.block_next < RecordLocation::BLOCK_LIMIT, "block numbers last for exabytes");
        // First out of the directory, so that no reader looks for a block that is on its way out.
        let dropped = self.leave_out(&due);
        let begun = catch_backend_panic(|| {
            database.hold()?;
            begun.map_or_else(|| begin_durable(&database), |OpenTransaction(transaction)| Ok(transaction))
        });
        // redb can't abort a transaction while a panic goes through it, so the transaction lies outside.
        let written = begun.and_then(|transaction| {
            catch_backend_panic(|| {
                write_blocks(&transaction, &mut meta.tallies, &blocks)?;
                drop_blocks(&transaction, &mut meta.tallies, &due.blocks)?;
                let added: usize = blocks.iter().map(|block| block.records.len()).sum();
                meta.keys = (meta.keys + added as u64).saturating_sub(due.keys());
                self.write_claims(&transaction, &mut meta.tallies, batch)?;
                self.write_forgotten(&transaction, &mut meta.tallies, batch, &due, first)?;
                self.write_scopes(&transaction, &mut meta.tallies, batch)?;
                transaction.open_table(META)?.insert(META_ROW, meta.encode().as_slice())?;
                Ok(())
            })?;
            catch_backend_panic(|| Ok(transaction.into_inner().commit()?))
        });
        if let Err(trouble) = written {
            let mut directory = self.directory.write();
            for (number, block) in dropped {
                directory.insert(number, block);
            }
            drop(directory);
            carried.put_back();
            merged.put_back();
            drop(database);
            return Err(self.access.failed(trouble));
        }
        // Before anybody learns of new blocks.
        database.renew();
        self.committed(&blocks, batch, &due, first);
        *self.meta.lock() = meta;
        let records = blocks.into_iter().flat_map(|block| block.records).map(|(record, _)| record);
        let cold = records.filter(|record| record.expires() <= now).chain(merged.records()).collect();
        Ok(Applied { reclaimed, cold })
    }

    /// Takes blocks out of the directory; gives what it said of them.
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
        for digest in &batch.ended {
            rows.remove(digest.as_u128())?;
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
        // The limit lies below this batch's blocks: a key forgotten and completed again within one batch stays. Tombstones that move
        // now lie above it too, but none of a key that this batch forgets: `carry` leaves those out.
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

    fn committed(&self, blocks: &[block::Block], batch: &Batch, due: &Due, limit: u64) {
        let mut directory = self.directory.write();
        for block in blocks {
            directory.insert(block.number, BlockInfo::of(block));
        }
        drop(directory);
        // After the directory, so that a reader that sees a place finds its block.
        for (record, place) in blocks.iter().flat_map(|block| &block.records) {
            record.set_location(*place);
        }
        let rows = self.forgotten_until(batch);
        let mut forgotten = self.forgotten.lock();
        for digest in &due.forgotten {
            forgotten.remove(*digest);
        }
        for (digest, until) in rows {
            forgotten.insert(digest, Row { limit, until });
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

fn drop_blocks(
    transaction: &WriteTransaction,
    tallies: &mut Tallies,
    due: &[(u64, BlockInfo)],
) -> Result<(), BackendError> {
    let mut bodies = transaction.open_table(BLOCKS)?;
    let mut index = INDEX.write(transaction, tallies)?;
    for (number, block) in due {
        bodies.remove((block.due.as_millis(), *number))?;
        index.remove((block.due.as_millis(), *number))?;
    }
    Ok(())
}
