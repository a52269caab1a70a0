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
/// A statement deletes at most so many rows.
const ROWS: usize = 1_000;
/// It ends with the row whose body and progress bring it to so many bytes. The server marks each
/// block of them, and a statement that takes too long is undone as a whole.
const BYTES: u64 = 8 << 20;
/// How long a process rests after a step within a pass.
const REST_MS: i64 = 20;

/// Takes the duty for one step, if it is due and no other process has it. After the last page the
/// duty rests for a millisecond a page, so that reading a large table costs little. A duty that is
/// to rest for longer than that was taken before the server's clock was set back.
const TAKE: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms), \
    size AS MATERIALIZED (SELECT pg_relation_size('{S}.keys') / current_setting('block_size')::bigint AS pages), \
    mine AS MATERIALIZED (SELECT d.name, d.page FROM {S}.duties d, moment m, size z WHERE d.name = 'sweep' \
      AND (d.due_ms <= m.now_ms OR d.due_ms > m.now_ms + greatest($2, $3, z.pages)) FOR UPDATE OF d SKIP LOCKED) \
    UPDATE {S}.duties d SET \
        page = CASE WHEN o.page + $1 < z.pages THEN o.page + $1 ELSE 0 END, \
        due_ms = m.now_ms + CASE WHEN o.page + $1 < z.pages THEN $2 ELSE greatest($3, z.pages) END \
      FROM mine o, moment m, size z WHERE d.name = o.name RETURNING o.page, m.now_ms";

/// Rows that may be over, without what may be large, and how large that is. Rust decides.
const FIND: &str = "SELECT k.digest, {BARE_ROW}, \
    coalesce(pg_column_size(k.body), 0) + coalesce(pg_column_size(k.progress), 0) FROM {S}.keys k \
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
    for found in found {
        match decide(found.row.state(), Event::Sweep { now }).becomes() {
            Some(Phase::Vacant) => over.push(found),
            Some(Phase::Interrupted) => lapses.push(found),
            // A vacated row is no state any more, only a trace of one.
            Some(Phase::InFlight | Phase::Ending | Phase::Done) | None => {
                if found.row.state == RowState::Vacated {
                    over.push(found);
                }
            }
        }
    }
    lapse(core, lapses).await;
    for part in parts(over) {
        delete(core, part).await?;
    }
    if page == 0 {
        let sql = core.sql.filled(FORGET_SESSIONS);
        core.errand(core.deadline(), async move |link: Rc<Link>| link.once(&sql, &Params::default()).await)
            .await?;
    }
    Ok(true)
}

/// A row that may be over.
struct Found {
    digest: Digest,
    row: KeyRow,
    /// Of its body and progress, as they are stored.
    bytes: u64,
}

async fn find(core: &Arc<Core>, page: i64, now: Timestamp) -> Result<Vec<Found>, Miss> {
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
            let bytes: i32 = columns.take().map_err(Miss::NotDone)?;
            found.push(Found {
                digest: Digest::from_u128(digest),
                row,
                bytes: u64::from(bytes.unsigned_abs()),
            });
        }
    }
    Ok(found)
}

/// All are sent before the first answer is awaited, so that they share statements.
async fn lapse(core: &Arc<Core>, lapses: Vec<Found>) {
    let deadline = core.deadline();
    let sent: Vec<_> = lapses
        .into_iter()
        .map(|Found { digest, row, .. }| {
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

/// The rows in parts that are deleted one after the other. What was deleted stays so, whatever
/// comes after.
fn parts(over: Vec<Found>) -> Vec<Vec<Found>> {
    let (mut parts, mut bytes) = (Vec::<Vec<Found>>::new(), 0);
    for found in over {
        let of_row = found.bytes;
        match parts.last_mut() {
            Some(part) if part.len() < ROWS && bytes < BYTES => {
                bytes += of_row;
                part.push(found);
            }
            Some(_) | None => {
                bytes = of_row;
                parts.push(vec![found]);
            }
        }
    }
    parts
}

async fn delete(core: &Arc<Core>, over: Vec<Found>) -> Result<(), Miss> {
    let sql = core.sql.filled(DELETE);
    let deleted = core.errand(core.deadline(), async move |link: Rc<Link>| {
        let params = Params::default()
            .ids(over.iter().map(|found| found.digest.as_u128()))
            .numbers(over.iter().map(|found| Some(signed(found.row.fence.get()))))
            .smalls(over.iter().map(|found| Some(found.row.state.code())));
        link.once(&sql, &params).await
    });
    let rows = deleted.await?;
    let count = rows.first().and_then(|row| Columns::new(row).number().ok());
    core.traffic.swept.fetch_add(count.unwrap_or_default(), Ordering::Relaxed);
    Ok(())
}
