//! Lists of keys without an outcome. Interrupted ones are indexed. Claims are not: they are found
//! by reading the table, some pages at a time. Each statement is bounded, so a list works at any
//! size.

use std::collections::BTreeMap;
use std::rc::Rc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::columns::{Id, Params, signed};
use super::connection::Link;
use super::core::{Core, SharedHandle};
use super::granting::{Asked, NewClaim, Tries};
use super::refusal::Refusal;
use super::row::{Columns, KeyRow, damaged};
use crate::attempt::Attempt;
use crate::clock::{Timestamp, millis};
use crate::engine::handles::lists::{ListPosition, ListRequest, OpenKey, OpenState};
use crate::error::{ReadError, StoreFailure};
use crate::key::Digest;
use crate::state::Fence;
use crate::sync::Arc;

/// Pages of the table that one statement reads: 4 MiB.
const PAGES: i64 = 512;
/// The most rows of one statement.
const ROWS: usize = 1_000;
/// A statement ends with the row whose progress brings it to so many bytes.
const BYTES: usize = 8 << 20;

const SIZE: &str = "SELECT pg_relation_size('{S}.keys') / current_setting('block_size')::bigint";

/// Claims on some pages. One whose lease is over is interrupted since then.
const CLAIMS: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms) \
    SELECT * FROM (SELECT f.*, {BEFORE} FROM (SELECT * FROM (SELECT {ROW}, k.digest, \
      CASE WHEN {LEASE} > m.now_ms THEN k.started_ms ELSE {LEASE} END AS since, k.fence AS of_fence, true AS listed, \
      {LEASE} > m.now_ms AS is_out \
    FROM {S}.keys k CROSS JOIN moment m WHERE k.ctid >= $1::text::tid AND k.ctid < $2::text::tid AND k.state = 1 \
      AND ($3::bytea IS NULL OR k.scope = $3)) c \
    WHERE c.is_out = $4 AND (c.since, c.of_fence) > ($5, $6) AND (c.since, c.of_fence) < ($7, $8) \
    ORDER BY c.since, c.of_fence LIMIT $9) f) l WHERE l.bytes_before < $10 ORDER BY l.since, l.of_fence";

/// Interrupted keys after one of them, those of other scopes as well: looking for those of one
/// could take as long as there are keys.
const INTERRUPTED: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms), \
    part AS MATERIALIZED (SELECT {BARE}, CASE WHEN $1::bytea IS NULL OR k.scope = $1 THEN k.progress END AS progress, \
      NULL::bytea, false, k.digest, {SINCE} AS since, {OF_FENCE} AS of_fence, \
      ($1::bytea IS NULL OR k.scope = $1) AND (k.gone_ms IS NULL OR k.gone_ms > m.now_ms) \
    FROM (SELECT * FROM {S}.keys WHERE interrupted_ms IS NOT NULL AND ({SINCE}, {OF_FENCE}) > ($2, $3) \
      ORDER BY {SINCE}, {OF_FENCE} LIMIT $4) k CROSS JOIN moment m) \
    SELECT * FROM (SELECT f.*, {BEFORE} FROM part f) l WHERE l.bytes_before < $5 ORDER BY l.since, l.of_fence";

/// How many bytes of progress the rows before this one have.
const BEFORE: &str = "coalesce(sum(coalesce(octet_length(f.progress), 0)) OVER (ORDER BY f.since, f.of_fence \
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before";

/// The first entries of a list, by their place in it.
struct Entries<'a> {
    request: &'a ListRequest,
    found: BTreeMap<(Timestamp, u64), OpenKey>,
}

impl Entries<'_> {
    fn add(&mut self, key: OpenKey) {
        self.found.insert(key.position().parts(), key);
        if self.found.len() > self.request.limit {
            drop(self.found.pop_last());
        }
    }

    /// Before which place an entry must be; `None` while there is room for any.
    fn end(&self) -> Option<(Timestamp, u64)> {
        self.found
            .last_key_value()
            .filter(|_| self.found.len() >= self.request.limit)
            .map(|(place, _)| *place)
    }
}

/// A place in a list as the store has it.
fn place((since, fence): (Timestamp, u64)) -> (i64, i64) {
    (signed(since.as_millis()), signed(fence))
}

impl SharedHandle {
    pub(crate) async fn list(&self, request: &ListRequest) -> Result<Vec<OpenKey>, ReadError> {
        let core = &*self.0;
        let mut entries = Entries { request, found: BTreeMap::new() };
        core.check()?;
        if request.limit == 0 {
            return Ok(Vec::new());
        }
        // In this order: a claim that becomes interrupted meanwhile keeps its place.
        add_claims(core, &mut entries).await?;
        if request.state == OpenState::Interrupted {
            add_interrupted(core, &mut entries).await?;
        }
        Ok(entries.found.into_values().collect())
    }
}

/// Before the first place.
const START: (i64, i64) = (-1, -1);

async fn add_claims(core: &Core, entries: &mut Entries<'_>) -> Result<(), Refusal> {
    let size = read(core, SIZE, Params::default).await?;
    let pages: i64 = match size.first() {
        Some(row) => Columns::new(row).take().map_err(Refusal::unavailable)?,
        None => 0,
    };
    let mut page = 0;
    while page < pages {
        let mut after = entries.request.after.map_or(START, |after| place(after.parts()));
        loop {
            let request = entries.request;
            let (scope, is_out) =
                (request.scope.as_ref().map(|name| name.to_vec()), request.state == OpenState::InFlight);
            let end = entries.end().map_or((i64::MAX, i64::MAX), place);
            let limit = request.limit.min(ROWS);
            let params = move || {
                let at = |page: i64| format!("({page},0)");
                let numbers = [after.0, after.1, end.0, end.1, signed(limit as u64), signed(BYTES as u64)];
                let params = Params::default()
                    .with(at(page), Type::TEXT)
                    .with(at(page + PAGES), Type::TEXT)
                    .with(scope.clone(), Type::BYTEA)
                    .with(is_out, Type::BOOL);
                numbers.into_iter().fold(params, |params, number| params.with(number, Type::INT8))
            };
            let rows = read(core, &CLAIMS.replace("{BEFORE}", BEFORE), params).await?;
            let Some(last) = add(core, entries, &rows, limit)? else { break };
            after = place(last);
        }
        page += PAGES;
    }
    Ok(())
}

async fn add_interrupted(core: &Core, entries: &mut Entries<'_>) -> Result<(), Refusal> {
    let mut after = entries.request.after.map_or(START, |after| place(after.parts()));
    loop {
        let scope = entries.request.scope.as_ref().map(|name| name.to_vec());
        let limit = entries.request.limit.min(ROWS);
        let params = move || {
            let params = Params::default().with(scope.clone(), Type::BYTEA);
            let numbers = [after.0, after.1, signed(limit as u64), signed(BYTES as u64)];
            numbers.into_iter().fold(params, |params, number| params.with(number, Type::INT8))
        };
        let rows = read(core, &INTERRUPTED.replace("{BEFORE}", BEFORE), params).await?;
        let Some(last) = add(core, entries, &rows, limit)? else { return Ok(()) };
        if entries.end().is_some_and(|end| last >= end) {
            return Ok(());
        }
        after = place(last);
    }
}

/// Adds what was read. The place of the last row, if there may be more behind it.
fn add(
    core: &Core,
    entries: &mut Entries<'_>,
    rows: &[Row],
    limit: usize,
) -> Result<Option<(Timestamp, u64)>, Refusal> {
    let (mut last, mut bytes) = (None, 0);
    for row in rows {
        let read = open_key(core, row, entries.request.state).map_err(Refusal::unavailable)?;
        bytes += read.bytes;
        last = Some(read.place);
        if let Some(key) = read.key {
            entries.add(key);
        }
    }
    Ok(last.filter(|_| rows.len() >= limit || bytes >= BYTES))
}

/// What was read of one row.
struct ReadKey {
    /// The entry, unless it is not to be listed.
    key: Option<OpenKey>,
    place: (Timestamp, u64),
    /// Of its progress.
    bytes: usize,
}

/// The rows of one bounded statement. The time limit of a call holds for it alone: how many a list
/// takes depends on the table.
pub(super) async fn read<P>(core: &Core, text: &str, params: P) -> Result<Vec<Row>, Refusal>
where
    P: Fn() -> Params<'static> + Clone + Send + 'static,
{
    let deadline = core.deadline();
    let mut tries = Tries::new(deadline);
    loop {
        core.check()?;
        let (sql, params) = (core.sql.filled(text), params.clone());
        let read = core.errand(deadline, async move |link: Rc<Link>| link.once(&sql, &params()).await);
        match read.await {
            Ok(rows) => return Ok(rows),
            Err(miss) => tries.again(core, miss.of_a_read()).await?,
        }
    }
}

fn open_key(core: &Core, row: &Row, state: OpenState) -> Result<ReadKey, StoreFailure> {
    let mut columns = Columns::new(row);
    let row = KeyRow::read(&mut columns)?.ok_or_else(|| damaged("a row of a list has no state"))?;
    let Id(digest) = columns.take()?;
    let (since, fence) = (columns.time()?, columns.number()?);
    let is_listed: bool = columns.take()?;
    let key = is_listed.then(|| {
        let attempt = attempt_of(core, &row, Digest::from_u128(digest));
        if state == OpenState::Interrupted {
            if row.was_returned() { attempt.give_back(since) } else { attempt.interrupt(since) }
        }
        OpenKey::new(state, Arc::new(attempt), ListPosition::new(since, Fence::new(fence)))
    });
    Ok(ReadKey { key, place: (since, fence), bytes: row.bytes() })
}

/// The claim of a row, to be shown.
pub(super) fn attempt_of(core: &Core, row: &KeyRow, digest: Digest) -> Attempt {
    let (scope, key) = row.names();
    let asked = Asked { scope: scope.into(), key: key.into(), digest };
    let attempt = NewClaim::found(row, core).attempt(&asked);
    if let Some(lease) = attempt.lease {
        attempt.renew(Timestamp::from_millis(row.lease.as_millis().saturating_sub(millis(lease))));
    }
    attempt
}
