//! The sweep: expired rows are deleted, and claims whose lease is over become interrupted. One
//! process at a time sweeps, some pages of the table at a time.

use std::rc::Rc;
use std::time::Duration;

use tokio_postgres::types::Type;

use super::columns::{Id, Params, signed};
use super::connection::Link;
use super::core::Core;
use super::row::{Columns, KeyRow, RowState};
use super::statement::Miss;
use super::statements::change::ChangeAsk;
use crate::Timestamp;
use crate::clock::millis;
use crate::key::Digest;
use crate::state::{Event, Phase, decide};
use crate::sync::{Arc, Ordering};

/// Pages that one step reads: 4 MiB.
const PAGES: i64 = 512;
/// How long a process rests after a step within a pass.
const REST_MS: i64 = 20;

/// Takes the duty for one step, if it is due and no other process has it. After the last page the
/// duty rests for a millisecond a page, so that reading a large table costs little.
const TAKE: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms), \
    size AS MATERIALIZED (SELECT pg_relation_size('{S}.keys') / current_setting('block_size')::bigint AS pages), \
    mine AS MATERIALIZED (SELECT d.name, d.page FROM {S}.duties d, moment m \
      WHERE d.name = 'sweep' AND d.due_ms <= m.now_ms FOR UPDATE OF d SKIP LOCKED) \
    UPDATE {S}.duties d SET \
        page = CASE WHEN o.page + $1 < z.pages THEN o.page + $1 ELSE 0 END, \
        due_ms = m.now_ms + CASE WHEN o.page + $1 < z.pages THEN $2 ELSE greatest($3, z.pages) END \
      FROM mine o, moment m, size z WHERE d.name = o.name RETURNING o.page, m.now_ms";

/// Rows that may be over, without bodies. Rust decides.
const FIND: &str = "SELECT k.digest, {BARE_ROW} FROM {S}.keys k \
    WHERE k.ctid >= $1::text::tid AND k.ctid < $2::text::tid AND (k.gone_ms <= $3 OR k.state = 1 AND {LEASE} <= $3)";

/// A row that a transaction has locked is passed over until the next pass.
const DELETE: &str = "WITH free AS MATERIALIZED (SELECT r.* FROM {S}.keys k JOIN \
      unnest($1::uuid[], $2::bigint[], $3::smallint[]) r(digest, fence, state) ON r.digest = k.digest \
      WHERE k.fence = r.fence AND k.state = r.state ORDER BY k.digest FOR UPDATE OF k SKIP LOCKED), \
    deleted AS (DELETE FROM {S}.keys k USING free r \
      WHERE k.digest = r.digest AND k.fence = r.fence AND k.state = r.state RETURNING k.digest) \
    SELECT count(*) FROM deleted";

/// Sessions that are kept for claims with leases, of at most 30 days.
const FORGET_SESSIONS: &str = "DELETE FROM {S}.sessions WHERE until_ms < {NOW} - 31 * 86400000::bigint";

/// Sweeps until the runtime ends.
pub(super) async fn sweep(core: Arc<Core>) {
    let Some(every) = core.options.sweep_every else { return };
    loop {
        let rest = match step(&core).await {
            Ok(true) => Duration::from_millis(REST_MS.unsigned_abs()),
            Ok(false) | Err(_) => every,
        };
        tokio::time::sleep(rest).await;
    }
}

/// One step, if it was this process's turn.
pub(super) async fn step(core: &Arc<Core>) -> Result<bool, Miss> {
    let sql = core.sql.filled(TAKE);
    let every = signed(millis(core.options.sweep_every.unwrap_or_default()));
    let taken = core.errand(core.deadline(), async move |link: Rc<Link>| {
        let numbers = [PAGES, REST_MS, every];
        let params = numbers.into_iter().fold(Params::default(), |params, n| params.with(n, Type::INT8));
        link.once(&sql, &params).await
    });
    let taken = taken.await?;
    let Some(row) = taken.first() else { return Ok(false) };
    let mut columns = Columns::new(row);
    let page: i64 = columns.take().map_err(Miss::NotDone)?;
    let now = columns.time().map_err(Miss::NotDone)?;
    let found = find(core, page, now).await?;
    let (mut over, mut lapses) = (Vec::new(), Vec::new());
    for (digest, row) in found {
        match decide(row.state(), Event::Sweep { now }).becomes() {
            Some(Phase::Vacant) => over.push((digest, row)),
            Some(Phase::Interrupted) => lapses.push((digest, row)),
            // A vacated row is no state any more, only a trace of one.
            Some(Phase::InFlight | Phase::Ending | Phase::Done) | None => {
                if row.state == RowState::Vacated {
                    over.push((digest, row));
                }
            }
        }
    }
    lapse(core, lapses).await;
    delete(core, over).await?;
    if page == 0 {
        let sql = core.sql.filled(FORGET_SESSIONS);
        core.errand(core.deadline(), async move |link: Rc<Link>| link.once(&sql, &Params::default()).await)
            .await?;
    }
    Ok(true)
}

async fn find(core: &Arc<Core>, page: i64, now: Timestamp) -> Result<Vec<(Digest, KeyRow)>, Miss> {
    let sql = core.sql.filled(FIND);
    let rows = core.errand(core.deadline(), async move |link: Rc<Link>| {
        let at = |page: i64| format!("({page},0)");
        let params = Params::default()
            .with(at(page), Type::TEXT)
            .with(at(page + PAGES), Type::TEXT)
            .with(signed(now.as_millis()), Type::INT8);
        link.once(&sql, &params).await
    });
    let mut found = Vec::new();
    for row in &rows.await? {
        let mut columns = Columns::new(row);
        let Ok(Id(digest)) = columns.take() else { continue };
        // A damaged row stays: its next begin says so.
        if let Ok(Some(row)) = KeyRow::read(&mut columns) {
            found.push((Digest::from_u128(digest), row));
        }
    }
    Ok(found)
}

/// All are sent before the first answer is awaited, so that they share statements.
async fn lapse(core: &Arc<Core>, lapses: Vec<(Digest, KeyRow)>) {
    let deadline = core.deadline();
    let sent: Vec<_> = lapses
        .into_iter()
        .map(|(digest, row)| {
            let seen = (row.fence, row.state);
            let change = ChangeAsk { digest, seen, to: RowState::Interrupted };
            (core.send(change, deadline), digest, row)
        })
        .collect();
    for (answer, digest, row) in sent {
        let Ok(answer) = answer else { continue };
        // What did not happen, the next pass finds again.
        if answer.get().await.is_some_and(|changed| changed.is_ok_and(|changed| changed.is_done)) {
            core.note_lapse(&row, digest);
        }
    }
}

async fn delete(core: &Arc<Core>, over: Vec<(Digest, KeyRow)>) -> Result<(), Miss> {
    if over.is_empty() {
        return Ok(());
    }
    let sql = core.sql.filled(DELETE);
    let deleted = core.errand(core.deadline(), async move |link: Rc<Link>| {
        let params = Params::default()
            .ids(over.iter().map(|(digest, _)| digest.as_u128()))
            .numbers(over.iter().map(|(_, row)| Some(signed(row.fence.get()))))
            .smalls(over.iter().map(|(_, row)| Some(row.state.code())));
        link.once(&sql, &params).await
    });
    let rows = deleted.await?;
    let count = rows.first().and_then(|row| Columns::new(row).number().ok());
    core.traffic.swept.fetch_add(count.unwrap_or_default(), Ordering::Relaxed);
    Ok(())
}
