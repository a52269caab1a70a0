//! The two statements of a claim that exists in one transaction only. They go by themselves, on the
//! caller's connection.

use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};

use crate::error::StoreFailure;
use crate::key::Digest;
use crate::record::Outcome;
use crate::record::retention::Retention;
use crate::shared::columns::{Id, Params, signed};
use crate::shared::core::Core;
use crate::shared::granting::Asked;
use crate::shared::row::{Columns, KeyRow, RowState};
use crate::shared::statements::end::code;
use crate::state::Fence;
use crate::{Fingerprint, Timestamp};

/// Marks the key for as long as the transaction lasts, unless another transaction has done so, and
/// reads its row. It changes nothing, so begins of others go on.
const LOOK: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms), \
    mark AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($2) AS is_mine) \
    SELECT m.now_ms, a.is_mine, u.id = $3, u.policies, current_setting('transaction_isolation') = 'read committed', CASE WHEN a.is_mine THEN nextval('{S}.fence') END, x.* \
    FROM moment m CROSS JOIN mark a CROSS JOIN {S}.meta u \
      LEFT JOIN LATERAL (SELECT {ROW} FROM {S}.keys k WHERE k.digest = $1) x ON true";

/// Writes the result where there is no row, or where the row is still as the caller saw it.
const STORE: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}), \
    ins AS (INSERT INTO {S}.keys (state, digest, nonce, fence, attempt, fingerprint, started_ms, completed_ms, \
        expires_ms, gone_ms, ttl_ms, remembered_ms, outcome, body, body_kept, scope, key) \
      SELECT 3, $1, $2, $3, $4, $5, $6, m.now_ms, m.now_ms + $7, m.now_ms + $8, $7, $8, $9, $10, true, $11, $12 \
      FROM moment m JOIN {S}.meta u ON u.policies = $13 AND u.id = $16 WHERE $14::bigint IS NULL \
      ON CONFLICT (digest) DO NOTHING RETURNING false AS wanted), \
    upd AS (UPDATE {S}.keys k SET state = 3, nonce = $2, fence = $3, attempt = $4, fingerprint = $5, session = NULL, \
        started_ms = $6, completed_ms = m.now_ms, expires_ms = m.now_ms + $7, gone_ms = m.now_ms + $8, ttl_ms = $7, \
        remembered_ms = $8, unresolved_ms = NULL, lease_ms = NULL, lease_until_ms = NULL, interrupted_ms = NULL, \
        e_fence = NULL, e_attempt = NULL, e_started_ms = NULL, e_interrupted_ms = NULL, returned = false, leaving = false, \
        outcome = $9, body = $10, body_kept = true, progress = NULL \
      FROM moment m JOIN {S}.meta u ON u.policies = $13 AND u.id = $16 \
      WHERE k.digest = $1 AND k.fence = $14 AND k.state = $15 AND k.fence < $3 \
        AND (k.state <> 1 OR {LEASE} <= m.now_ms) RETURNING k.wanted) \
    SELECT m.now_ms, u.id = $16, u.policies, d.wanted FROM moment m CROSS JOIN {S}.meta u \
      LEFT JOIN (SELECT wanted FROM ins UNION ALL SELECT wanted FROM upd) d ON true";

/// The number of a key among advisory locks. It depends on the store's secret, as the digest does.
pub(in crate::shared) fn mark(digest: Digest) -> i64 {
    let [_, low] = digest.halves();
    i64::from_ne_bytes(low.to_ne_bytes())
}

/// The keys that open transactions of this database have marked, by [`mark`].
pub(in crate::shared) const MARKED: &str = "SELECT (l.classid::bigint << 32) | l.objid::bigint FROM pg_locks l \
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted \
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())";

/// What a transaction sees of a key.
pub(in crate::shared) struct Seen {
    pub(in crate::shared) now: Timestamp,
    pub(in crate::shared) is_of_this_store: bool,
    pub(in crate::shared) policies: i64,
    /// Whether another look sees what was committed since.
    pub(in crate::shared) sees_more: bool,
    /// `None` if another transaction has marked the key.
    pub(in crate::shared) fence: Option<Fence>,
    pub(in crate::shared) row: Option<KeyRow>,
}

pub(in crate::shared) async fn look(
    core: &Core,
    transaction: &Transaction<'_>,
    digest: Digest,
) -> Result<Seen, StoreFailure> {
    let params = Params::default()
        .with(Id(digest.as_u128()), Type::UUID)
        .with(mark(digest), Type::INT8)
        .with(Id(core.store), Type::UUID);
    let row = one(core, transaction, LOOK, &params).await?;
    let mut columns = Columns::new(&row);
    let now = columns.time()?;
    let is_mine: bool = columns.take()?;
    let (is_of_this_store, policies, sees_more) = (columns.take()?, columns.take()?, columns.take()?);
    let fence = columns.number_or_none()?.map(Fence::new);
    let row = KeyRow::read(&mut columns)?;
    Ok(Seen { now, is_of_this_store, policies, sees_more, fence: fence.filter(|_| is_mine), row })
}

/// A result to be written.
pub(in crate::shared) struct StoreAsk<'a> {
    pub(in crate::shared) asked: &'a Asked,
    pub(in crate::shared) nonce: u128,
    pub(in crate::shared) fence: Fence,
    pub(in crate::shared) attempt: u32,
    pub(in crate::shared) fingerprint: Fingerprint,
    pub(in crate::shared) started: Timestamp,
    pub(in crate::shared) retention: Retention,
    pub(in crate::shared) outcome: Outcome,
    pub(in crate::shared) body: &'a [u8],
    /// The version of the policies that the grant was decided under.
    pub(in crate::shared) policies: i64,
    /// Fence and state of the row that the caller saw.
    pub(in crate::shared) seen: Option<(Fence, RowState)>,
}

/// What came of it.
pub(in crate::shared) struct Stored {
    pub(in crate::shared) now: Timestamp,
    pub(in crate::shared) is_of_this_store: bool,
    pub(in crate::shared) policies: i64,
    /// `None` if the key is not as it was. Otherwise whether another process waits for it.
    pub(in crate::shared) is_wanted: Option<bool>,
}

pub(in crate::shared) async fn store(
    core: &Core,
    transaction: &Transaction<'_>,
    ask: &StoreAsk<'_>,
) -> Result<Stored, StoreFailure> {
    let params = Params::default()
        .with(Id(ask.asked.digest.as_u128()), Type::UUID)
        .with(Id(ask.nonce), Type::UUID)
        .with(signed(ask.fence.get()), Type::INT8)
        .with(i32::try_from(ask.attempt).unwrap_or(i32::MAX), Type::INT4)
        .with(&ask.fingerprint.as_bytes()[..], Type::BYTEA)
        .with(signed(ask.started.as_millis()), Type::INT8)
        .with(signed(ask.retention.ttl_ms()), Type::INT8)
        .with(signed(ask.retention.remembered_ms()), Type::INT8)
        .with(code(ask.outcome), Type::INT2)
        .with(ask.body, Type::BYTEA)
        .with(&*ask.asked.scope, Type::BYTEA)
        .with(&*ask.asked.key, Type::BYTEA)
        .with(ask.policies, Type::INT8)
        .with(ask.seen.map(|(fence, _)| signed(fence.get())), Type::INT8)
        .with(ask.seen.map(|(_, state)| state.code()), Type::INT2)
        .with(Id(core.store), Type::UUID);
    let row = one(core, transaction, STORE, &params).await?;
    let mut columns = Columns::new(&row);
    let (now, is_of_this_store) = (columns.time()?, columns.take()?);
    Ok(Stored { now, is_of_this_store, policies: columns.take()?, is_wanted: columns.take()? })
}

async fn one(
    core: &Core,
    transaction: &Transaction<'_>,
    text: &str,
    params: &Params<'_>,
) -> Result<Row, StoreFailure> {
    let asked = transaction.query_typed_one(&core.sql.filled(text), &params.typed()).await;
    asked.map_err(|error| StoreFailure::of(&error))
}
