//! The keeper: starts this process's session, renews it, and starts another when it has lapsed.

use std::rc::Rc;
use std::time::Duration;

use tokio_postgres::types::Type;

use super::columns::Params;
use super::connection::{Link, first};
use super::core::Core;
use super::row::Columns;
use super::session::SessionState;
use super::statement::Miss;
use crate::clock::Deadline;
use crate::sync::Arc;

/// Keeps the session until the runtime ends.
pub(super) async fn keep(core: Arc<Core>) {
    loop {
        let is_kept = step(&core).await;
        core.session.has_tried();
        let pause = if is_kept { core.options.session / 3 } else { Duration::from_millis(200) };
        // Woken early by a caller that found the session over.
        first(tokio::time::sleep(pause), core.session.called.notified()).await;
    }
}

/// `false` if the store did not answer.
async fn step(core: &Arc<Core>) -> bool {
    match core.session.state() {
        SessionState::None => start(core).await.is_ok(),
        SessionState::Live { id, .. } => match renew(core, id).await {
            Ok(true) => true,
            Ok(false) => {
                core.session.set(SessionState::None);
                start(core).await.is_ok()
            }
            Err(_) => false,
        },
        SessionState::Replaced => true,
    }
}

/// When a session that is renewed now is over for this process: a little before the server says
/// so, and counted from before the request is sent.
fn local_end(core: &Core) -> Deadline {
    Deadline::after(core.options.session / 30 * 29)
}

/// A process that had a session before continues as the same instance, unless another process has
/// taken the name since.
const START: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms), \
    old AS (UPDATE {S}.sessions s SET replaced = true, until_ms = least(s.until_ms, m.now_ms) FROM moment m \
      WHERE s.instance = $1 AND NOT s.replaced AND ($3::bigint IS NULL OR s.id = $3) RETURNING s.id), \
    ended AS MATERIALIZED (SELECT count(*) AS sessions FROM old) \
    INSERT INTO {S}.sessions (instance, until_ms, started_ms) SELECT $1, m.now_ms + $2, m.now_ms \
      FROM moment m CROSS JOIN ended e WHERE $1 IS NULL OR $3 IS NULL OR e.sessions > 0 RETURNING id, started_ms";

async fn start(core: &Arc<Core>) -> Result<(), Miss> {
    let shared = Arc::clone(core);
    let started = core
        .errand(core.deadline(), async move |link: Rc<Link>| {
            let until = local_end(&shared);
            let params = Params::default()
                .with(shared.options.instance.clone(), Type::TEXT)
                .with(shared.options.session_ms(), Type::INT8)
                .with(shared.session.last(), Type::INT8);
            let rows = link.once(&shared.sql.filled(START), &params).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let mut columns = Columns::new(row);
            let id: i64 = columns.take().map_err(Miss::Unknown)?;
            shared.tell_time(columns.time().map_err(Miss::Unknown)?);
            Ok(Some((id, until)))
        })
        .await?;
    core.session.set(match started {
        Some((id, until)) => SessionState::Live { id, until },
        None => SessionState::Replaced,
    });
    if started.is_none() {
        core.tell_of_replacement();
    }
    Ok(())
}

const RENEW: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms) \
    UPDATE {S}.sessions s SET until_ms = m.now_ms + $2 FROM moment m \
      WHERE s.id = $1 AND NOT s.replaced AND s.until_ms > m.now_ms RETURNING m.now_ms";

/// A session that has lapsed is never renewed: others may have taken its claims over.
async fn renew(core: &Arc<Core>, id: i64) -> Result<bool, Miss> {
    let shared = Arc::clone(core);
    let renewed = core
        .errand(core.deadline(), async move |link: Rc<Link>| {
            let until = local_end(&shared);
            let params = Params::default().with(id, Type::INT8).with(shared.options.session_ms(), Type::INT8);
            let rows = link.once(&shared.sql.filled(RENEW), &params).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            shared.tell_time(Columns::new(row).time().map_err(Miss::Unknown)?);
            Ok(Some(until))
        })
        .await?;
    if let Some(until) = renewed {
        core.session.set(SessionState::Live { id, until });
    }
    Ok(renewed.is_some())
}

const END: &str = "UPDATE {S}.sessions SET until_ms = least(until_ms, {NOW}) WHERE id = $1";

/// Ends the session: the claims that are still out are interrupted.
pub(super) async fn end(core: &Arc<Core>) {
    let SessionState::Live { id, .. } = core.session.state() else { return };
    let shared = Arc::clone(core);
    let ended = core.errand(Deadline::after(core.options.statement_timeout), async move |link: Rc<Link>| {
        link.once(&shared.sql.filled(END), &Params::default().with(id, Type::INT8)).await
    });
    // Otherwise it lapses by itself.
    drop(ended.await);
    core.session.set(SessionState::None);
}
