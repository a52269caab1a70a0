//! `SharedEntries`: an iterator over all live keys of a shared store, a page at a time, in the
//! order of their digests.

use std::collections::VecDeque;

use tokio_postgres::types::Type;

use super::columns::{Id, Params};
use super::core::SharedHandle;
use super::lists::{attempt_of, read};
use super::refusal::{Refusal, carry_checked};
use super::row::{Columns, KeyRow};
use crate::engine::common::names::KeyNames;
use crate::error::{ReadError, StoreFailure};
use crate::key::Digest;
use crate::status::Status;
use crate::sync::Arc;
use crate::task::caller::{Caller, block};

/// The most rows of one page.
const PAGE: i64 = 500;
/// A page ends with the row whose progress and body bring it to so many bytes.
const BYTES: usize = 8 << 20;

/// The rows of a page, with the bytes of those before each.
const READ: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms), \
    page AS MATERIALIZED (SELECT l.digest AS ord, l.* FROM {S}.keys l \
      WHERE $1::uuid IS NULL OR l.digest > $1 ORDER BY l.digest LIMIT $2) \
    SELECT k.digest, m.now_ms, {ROW} FROM (SELECT l.*, {SO_FAR} FROM page l) k CROSS JOIN moment m \
      WHERE k.so_far < $3 ORDER BY k.digest";

type Entry = Result<(Status, KeyNames), ReadError>;

pub(crate) struct SharedEntries {
    handle: Arc<SharedHandle>,
    /// The last digest that was read.
    after: Option<u128>,
    page: VecDeque<Entry>,
    is_over: bool,
}

impl SharedEntries {
    pub(crate) fn new(handle: &Arc<SharedHandle>) -> Self {
        Self { handle: Arc::clone(handle), after: None, page: VecDeque::new(), is_over: false }
    }

    async fn read(&mut self) -> Result<(), ReadError> {
        let core = &*self.handle.0;
        core.check()?;
        let after = self.after.map(Id);
        let params = move || {
            let params = Params::default().with(after, Type::UUID).with(PAGE, Type::INT8);
            params.with(i64::try_from(BYTES).unwrap_or(i64::MAX), Type::INT8)
        };
        let rows = read(core, READ, params).await?;
        let mut bytes = 0;
        for row in &rows {
            let mut columns = Columns::new(row);
            let Id(digest) = columns.take().map_err(Refusal::unavailable)?;
            self.after = Some(digest);
            let entry = entry(&self.handle, Digest::from_u128(digest), columns, &mut bytes);
            self.page.extend(entry.map_err(|failure| Refusal::unavailable(failure).into()).transpose());
        }
        self.is_over = rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) && bytes < BYTES;
        Ok(())
    }
}

fn entry(
    handle: &SharedHandle,
    digest: Digest,
    mut columns: Columns<'_>,
    bytes: &mut usize,
) -> Result<Option<(Status, KeyNames)>, StoreFailure> {
    let now = columns.time()?;
    let Some(row) = KeyRow::read(&mut columns)? else { return Ok(None) };
    *bytes += row.bytes();
    let names = match row.status(digest, now, &handle.0.budget) {
        Status::Vacant => return Ok(None),
        status @ (Status::InFlight(_) | Status::Interrupted(_)) => {
            (status, KeyNames::Attempt(Arc::new(attempt_of(&handle.0, &row, digest))))
        }
        status @ (Status::Done(_) | Status::Expired(_) | Status::Unreadable(_)) => {
            (status, KeyNames::Record(row.record(digest)))
        }
    };
    Ok(Some(names))
}

impl Iterator for SharedEntries {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.page.pop_front() {
                return Some(entry);
            }
            if self.is_over {
                return None;
            }
            if let Err(error) = block(carry_checked(Caller::Thread, self.read())) {
                self.is_over = true;
                return Some(Err(error));
            }
        }
    }
}

impl std::fmt::Debug for SharedEntries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedEntries").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}
