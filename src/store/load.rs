//! Loading: what an opening reads of the store.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::thread;

use redb::{ReadableDatabase, ReadableTable, TableHandle};

use super::backend_error::{BackendError, catch_backend_panic};
use super::directory::BlockInfo;
use super::forgotten::Row;
use super::layout::{CLAIMS, FORGOTTEN, INDEX, SCOPES};
use super::owned::Owned;
use super::tally::{Tallies, Tally};
use super::{Store, application_tables, block, open_row};
use crate::codec::{BadBytes, ClaimRow};
use crate::error::OpenError;
use crate::key::Digest;
use crate::policy::Policy;
use crate::record::RecordLocation;
use crate::sync::{Mutex, Ordering, spawn_scoped};
use crate::{Timestamp, codec};

/// The facts of a stored record for an opening.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    /// Until when it is remembered.
    pub(crate) until: Timestamp,
    pub(crate) place: RecordLocation,
}

/// So many records, and the rest of a block, are handed over together: enough for their cache
/// misses to overlap.
const RECORDS_A_CALL: usize = 256;

impl Store {
    /// Reads what an opening needs: every stored record, every claim row and every scope's policy.
    ///
    /// Each of `takers` gets all records, in its own thread, in the order in which their blocks
    /// are due, some hundred at a time. Forgotten records are left out; expired ones are not.
    pub(crate) fn load<T: FnMut(&[Stored]) + Send>(
        &self,
        takers: Vec<T>,
        mut claim: impl FnMut(&ClaimRow<'_>),
        mut scope: impl FnMut(&[u8], Policy),
    ) -> Result<(), OpenError> {
        let meta = self.meta();
        let database = self.access.database().map_err(|_closed| OpenError::Locked(self.path.clone()))?;
        let loaded = catch_backend_panic(|| {
            let transaction = Owned::new(database.begin_read()?);
            let (limits, forgotten) = self.load_forgotten(&transaction)?;
            let index = self.load_records(&transaction, &limits, takers)?;
            let claims = self.load_claims(&transaction, &mut claim)?;
            let scopes = self.load_scopes(&transaction, &mut scope)?;
            check(&meta.tallies, &Tallies { index, claims, forgotten, scopes })?;
            let others = transaction
                .list_tables()?
                .any(|table| !table.name().starts_with(application_tables::RESERVED));
            let others = others || transaction.list_multimap_tables()?.next().is_some();
            self.is_shared.store(others, Ordering::Relaxed);
            Ok(())
        });
        loaded.map_err(|trouble| trouble.into_open_error(&self.path))
    }

    fn load_forgotten(
        &self,
        transaction: &redb::ReadTransaction,
    ) -> Result<(HashMap<Digest, u64>, Tally), BackendError> {
        let (mut limits, mut tally) = (HashMap::new(), Tally::default());
        let mut rows = self.forgotten.lock();
        for row in FORGOTTEN.read(transaction)?.iter()? {
            let (digest, sealed) = row?;
            tally.add(sealed.value());
            let digest = Digest::from_u128(digest.value());
            let row: (u64, u64) = open_row(&self.checksummer, &FORGOTTEN, digest, sealed.value())?;
            limits.insert(digest, row.0);
            rows.insert(digest, Row { limit: row.0, until: Timestamp::from_millis(row.1) });
        }
        Ok((limits, tally))
    }

    /// Returns the tally of `index`, on which all threads have to agree.
    fn load_records<T: FnMut(&[Stored]) + Send>(
        &self,
        transaction: &redb::ReadTransaction,
        forgotten: &HashMap<Digest, u64>,
        takers: Vec<T>,
    ) -> Result<Tally, BackendError> {
        let mut takers = takers.into_iter();
        let Some(first) = takers.next() else { return Ok(Tally::default()) };
        let takers: Vec<_> = takers.map(|taker| Mutex::new(Some(taker))).collect();
        let load = |taker: &Mutex<Option<T>>| {
            let taker = taker.lock().take()?;
            Some(catch_backend_panic(|| self.load_index(transaction, forgotten, taker, |_, _| ())))
        };
        thread::scope(|threads| {
            // Where the system refuses a thread, this one loads in its place.
            let start = |taker| spawn_scoped(threads, "idemkv-load", move || load(taker)).ok();
            let others: Vec<_> = takers.iter().filter_map(start).collect();
            // No more than could be there, even if the meta row says more.
            let blocks = self.meta().tallies.index.rows.min(self.file_bytes() / block::PAGE_MIN as u64);
            let mut directory = self.directory.write();
            directory.reserve(blocks);
            let loaded = self.load_index(transaction, forgotten, first, |number, block| {
                directory.insert(number, block);
            });
            let left: Vec<_> = takers.iter().filter_map(load).collect();
            let others =
                others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            // One of them may fail to read what the others have read.
            others.flatten().chain(left).fold(loaded, |found, other| match (found?, other?) {
                (found, other) if found == other => Ok(found),
                _ => Err(BackendError::at("table `index`".to_owned(), BadBytes("it changes".to_owned()))),
            })
        })
    }

    fn load_index(
        &self,
        transaction: &redb::ReadTransaction,
        forgotten: &HashMap<Digest, u64>,
        mut taker: impl FnMut(&[Stored]),
        mut block: impl FnMut(u64, BlockInfo),
    ) -> Result<Tally, BackendError> {
        let mut records = Vec::with_capacity(2 * RECORDS_A_CALL);
        let mut tally = Tally::default();
        for row in INDEX.read(transaction)?.iter()? {
            let (key, index) = row?;
            tally.add(index.value());
            let (due, number) = key.value();
            let key = (Timestamp::from_millis(due), number);
            let contents =
                block::read_index(key, index.value(), &self.checksummer, |digest, until, place| {
                    if forgotten.get(&digest).is_none_or(|limit| place.block() >= *limit) {
                        records.push(Stored { digest, until, place });
                    }
                })
                .map_err(|bad| BackendError::at(format!("table `index`, row ({due}, {number})"), bad))?;
            block(number, BlockInfo::new(key.0, contents));
            if records.len() >= RECORDS_A_CALL {
                taker(&records);
                records.clear();
            }
        }
        if !records.is_empty() {
            taker(&records);
        }
        Ok(tally)
    }

    fn load_claims(
        &self,
        transaction: &redb::ReadTransaction,
        each: &mut impl FnMut(&ClaimRow<'_>),
    ) -> Result<Tally, BackendError> {
        let mut tally = Tally::default();
        for row in CLAIMS.read(transaction)?.iter()? {
            let (digest, sealed) = row?;
            tally.add(sealed.value());
            let digest = Digest::from_u128(digest.value());
            let row: ClaimRow<'_> = open_row(&self.checksummer, &CLAIMS, digest, sealed.value())?;
            codec::check_names(row.intent.scope, row.intent.key)
                .map_err(|bad| BackendError::row(CLAIMS.name(), digest, bad))?;
            each(&row);
        }
        Ok(tally)
    }

    fn load_scopes(
        &self,
        transaction: &redb::ReadTransaction,
        each: &mut impl FnMut(&[u8], Policy),
    ) -> Result<Tally, BackendError> {
        let mut tally = Tally::default();
        for row in SCOPES.read(transaction)?.iter()? {
            let (name, sealed) = row?;
            tally.add(sealed.value());
            let policy = self.checksummer.open(SCOPES.name(), &[], sealed.value()).and_then(|bytes| {
                let row: codec::ScopeRow<'_> = codec::decode(bytes)?;
                if row.name != name.value() {
                    return Err(BadBytes("the row belongs to another scope".to_owned()));
                }
                Policy::from_row(&row.policy)
            });
            let place = || format!("table `{}`, row \"{}\"", SCOPES.name(), name.value().escape_ascii());
            each(name.value(), policy.map_err(|bad| BackendError::at(place(), bad))?);
        }
        Ok(tally)
    }
}

/// Refuses tables that do not match their tallies.
fn check(written: &Tallies, found: &Tallies) -> Result<(), BackendError> {
    for (table, written, found) in [
        (INDEX.name(), written.index, found.index),
        (CLAIMS.name(), written.claims, found.claims),
        (FORGOTTEN.name(), written.forgotten, found.forgotten),
        (SCOPES.name(), written.scopes, found.scopes),
    ] {
        if found != written {
            let what = if found.rows == written.rows {
                format!("its {} rows are not those that were written", found.rows)
            } else {
                format!("{} rows are there, {} were written", found.rows, written.rows)
            };
            return Err(BackendError::at(format!("table `{table}`"), BadBytes(what)));
        }
    }
    Ok(())
}
