//! The statements of a claim that exists in one transaction only. They go by themselves, on the
//! caller's connection.

use std::rc::Rc;

use tokio_postgres::types::Type;

use crate::error::{FailureKind, StoreFailure};
use crate::key::Digest;
use crate::record::Outcome;
use crate::record::retention::Retention;
use crate::shared::columns::{Id, Params, signed};
use crate::shared::connection::Link;
use crate::shared::core::Core;
use crate::shared::granting::Asked;
use crate::shared::open_tx::{Tx, asked};
use crate::shared::row::{Columns, KeyRow, RowState};
use crate::shared::statement::Miss;
use crate::shared::statements::end::code;
use crate::state::Fence;
use crate::{Fingerprint, Timestamp};

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
    /// Whether another look sees what was committed since: the transaction does not keep its snapshot.
    pub(in crate::shared) sees_more: bool,
    /// `None` if another transaction has marked the key.
    pub(in crate::shared) fence: Option<Fence>,
    pub(in crate::shared) row: Option<KeyRow>,
}

/// Marks the key, and reads its row if there is one. Most keys have none, so the first statement
/// only asks whether they do.
pub(in crate::shared) async fn look(
    core: &Core,
    transaction: &mut Tx<'_>,
    digest: Digest,
) -> Result<Seen, StoreFailure> {
    let prepared = transaction.prepared;
    let params = Params::default()
        .with(Id(digest.as_u128()), Type::UUID)
        .with(mark(digest), Type::INT8)
        .with(Id(core.store), Type::UUID);
    let look = (&*core.tx_sql.look, prepared.map(|all| &all.look));
    let found = asked(core, transaction, look, &params).await?.ok_or_else(no_store)?;
    let mut columns = Columns::new(&found);
    let now = columns.time()?;
    let is_mine: bool = columns.take()?;
    let (is_of_this_store, policies, sees_more) = (columns.take()?, columns.take()?, columns.take()?);
    let fence = Some(Fence::new(columns.number()?)).filter(|_| is_mine);
    let has_row: bool = columns.take()?;
    let seen = Seen { now, is_of_this_store, policies, sees_more, fence, row: None };
    if !has_row || !is_mine || !is_of_this_store {
        return Ok(seen);
    }
    let params = Params::default().with(Id(digest.as_u128()), Type::UUID);
    let row = asked(core, transaction, (&core.tx_sql.row, prepared.map(|all| &all.row)), &params).await?;
    // The sweep has deleted it meanwhile.
    let Some(row) = row else { return Ok(seen) };
    let mut columns = Columns::new(&row);
    Ok(Seen { now: columns.time()?, policies: columns.take()?, row: KeyRow::read(&mut columns)?, ..seen })
}

/// Whether the tables are still those of this engine's store, by a connection of the engine's: a
/// transaction that keeps its snapshot sees the tables as they were.
pub(in crate::shared) async fn is_of_store(core: &Core) -> Result<bool, Miss> {
    let (sql, store) = (core.sql.filled("SELECT u.id = $1 FROM {S}.meta u"), Id(core.store));
    let looked = core.errand(core.deadline(), async move |link: Rc<Link>| {
        link.once(&sql, &Params::default().with(store, Type::UUID)).await
    });
    let rows = looked.await.map_err(Miss::of_a_read)?;
    Ok(rows.first().is_some_and(|row| row.try_get(0).unwrap_or(false)))
}

fn no_store() -> StoreFailure {
    StoreFailure::new(FailureKind::Schema, "the table `meta` is empty")
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
    /// Fence and state of the row that the caller saw, which has no claim in flight.
    pub(in crate::shared) seen: Option<(Fence, RowState)>,
}

/// What came of it.
pub(in crate::shared) enum Stored {
    /// When, and whether another process waits for the key.
    Done { at: Timestamp, is_wanted: bool },
    /// The store is another one, the policies are, or the key is not as it was.
    Not { is_of_this_store: bool, policies: i64 },
}

pub(in crate::shared) async fn store(
    core: &Core,
    transaction: &mut Tx<'_>,
    ask: &StoreAsk<'_>,
) -> Result<Stored, StoreFailure> {
    let prepared = transaction.prepared;
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
        .with(Id(core.store), Type::UUID);
    let (statement, params) = match ask.seen {
        None => ((&*core.tx_sql.insert, prepared.map(|all| &all.insert)), params),
        Some((fence, state)) => {
            let params = params.with(signed(fence.get()), Type::INT8).with(state.code(), Type::INT2);
            ((&*core.tx_sql.update, None), params)
        }
    };
    if let Some(row) = asked(core, transaction, statement, &params).await? {
        let mut columns = Columns::new(&row);
        return Ok(Stored::Done { at: columns.time()?, is_wanted: columns.take()? });
    }
    let params = Params::default().with(Id(core.store), Type::UUID);
    let row = asked(core, transaction, (&core.tx_sql.why, None), &params).await?.ok_or_else(no_store)?;
    let mut columns = Columns::new(&row);
    Ok(Stored::Not { is_of_this_store: columns.take()?, policies: columns.take()? })
}
