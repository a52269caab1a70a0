//! Lists of keys without an outcome. They read the whole table: nothing but a key's digest is
//! indexed.

use std::rc::Rc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::columns::{Id, Params, signed};
use super::connection::Link;
use super::core::{Core, SharedHandle};
use super::granting::{Asked, NewClaim, Tries};
use super::refusal::Refusal;
use super::row::{Columns, KeyRow};
use crate::attempt::Attempt;
use crate::clock::{Timestamp, millis};
use crate::engine::handles::lists::{ListPosition, ListRequest, OpenKey, OpenState};
use crate::error::{ReadError, StoreFailure};
use crate::key::Digest;
use crate::state::Fence;
use crate::sync::Arc;

/// A claim whose lease is over is interrupted since then. An interruption that a later attempt left
/// standing is listed as it was.
const LIST: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms) SELECT * FROM (SELECT {ROW}, k.digest, \
      CASE WHEN k.state = 2 AND k.returned AND k.e_fence IS NOT NULL THEN k.e_interrupted_ms \
        WHEN k.state = 2 THEN k.interrupted_ms WHEN {LEASE} > m.now_ms THEN k.started_ms ELSE {LEASE} END AS since, \
      CASE WHEN k.state = 2 AND k.returned AND k.e_fence IS NOT NULL THEN k.e_fence ELSE k.fence END AS of_fence, \
      k.state = 1 AND {LEASE} > m.now_ms AS is_out \
    FROM {S}.keys k CROSS JOIN moment m WHERE k.state IN (1, 2) \
      AND (k.state = 1 OR k.gone_ms IS NULL OR k.gone_ms > m.now_ms) AND ($1::bytea IS NULL OR k.scope = $1)) f \
    WHERE f.is_out = $2 AND ($3::bigint IS NULL OR (f.since, f.of_fence) > ($3, $4)) \
    ORDER BY f.since, f.of_fence LIMIT $5";

impl SharedHandle {
    pub(crate) async fn list(&self, request: &ListRequest) -> Result<Vec<OpenKey>, ReadError> {
        let core = &*self.0;
        core.check()?;
        let deadline = core.deadline();
        let mut tries = Tries::new(deadline);
        let rows = loop {
            let (sql, scope) = (core.sql.filled(LIST), request.scope.as_ref().map(|name| name.to_vec()));
            let (is_out, after) =
                (request.state == OpenState::InFlight, request.after.map(ListPosition::parts));
            let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
            let listed = core.errand(deadline, async move |link: Rc<Link>| {
                let params = Params::default()
                    .with(scope, Type::BYTEA)
                    .with(is_out, Type::BOOL)
                    .with(after.map(|(since, _)| signed(since.as_millis())), Type::INT8)
                    .with(after.map(|(_, fence)| signed(fence)), Type::INT8)
                    .with(limit, Type::INT8);
                link.once(&sql, &params).await
            });
            match listed.await {
                Ok(rows) => break rows,
                Err(miss) => tries.again(core, miss).await?,
            }
        };
        let keys = rows.iter().filter_map(|row| open_key(core, row, request.state).transpose());
        keys.collect::<Result<_, _>>().map_err(|failure| Refusal::unavailable(failure).into())
    }
}

fn open_key(core: &Core, row: &Row, state: OpenState) -> Result<Option<OpenKey>, StoreFailure> {
    let mut columns = Columns::new(row);
    let Some(row) = KeyRow::read(&mut columns)? else { return Ok(None) };
    let Id(digest) = columns.take()?;
    let (since, fence) = (columns.time()?, Fence::new(columns.number()?));
    let attempt = attempt_of(core, &row, Digest::from_u128(digest));
    if state == OpenState::Interrupted {
        if row.was_returned() { attempt.give_back(since) } else { attempt.interrupt(since) }
    }
    Ok(Some(OpenKey::new(state, Arc::new(attempt), ListPosition::new(since, fence))))
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
