//! The keeper: starts this process's session, renews it, and starts another when it has lapsed.

use std::rc::Rc;
use std::time::Duration;

use tokio_postgres::types::Type;

use super::columns::{Id, Params};
use super::connection::{Link, first};
use super::core::Core;
use super::row::{Columns, damaged};
use super::session::SessionState;
use super::statement::Miss;
use crate::clock::Deadline;
use crate::error::{FailureKind, StoreFailure};
use crate::sync::Arc;

/// Keeps the session until the runtime ends. It has a connection of its own: whatever keeps the
/// others busy, the claims of a process that lives stand.
pub(super) async fn keep(core: Arc<Core>) {
    let mut link = None;
    loop {
        let is_kept = match connected(&core, &mut link).await {
            Ok(link) => step(&core, link).await.is_ok(),
            Err(failure) => {
                core.failed_to_connect(failure);
                false
            }
        };
        core.session.has_tried();
        let pause = if is_kept { core.options.session / 3 } else { Duration::from_millis(200) };
        // Woken early by a caller that found the session over.
        first(tokio::time::sleep(pause), core.session.called.notified()).await;
    }
}

async fn connected<'a>(core: &Core, link: &'a mut Option<Link>) -> Result<&'a Link, StoreFailure> {
    if let Some(kept) = link.take().filter(|link| !link.is_broken()) {
        return Ok(link.insert(kept));
    }
    let opened = Link::open(core.link_options(), |_| {}).await?;
    core.is_connected(false);
    Ok(link.insert(opened))
}

async fn step(core: &Core, link: &Link) -> Result<(), Miss> {
    let kept = match core.session.state() {
        SessionState::None => start(core, link).await,
        SessionState::Live { id, .. } => match renew(core, link, id).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                core.session.set(SessionState::None);
                start(core, link).await
            }
            Err(miss) => Err(miss),
        },
        SessionState::Replaced | SessionState::OtherStore => Ok(()),
    };
    if let Err(Miss::NotDone(failure) | Miss::Unknown(failure)) = &kept {
        core.note_failure(failure);
    }
    kept
}

/// When a session that is renewed now is over for this process: a little before the server says
/// so, and counted from before the request is sent.
fn local_end(core: &Core) -> Deadline {
    Deadline::after(core.options.session / 30 * 29)
}

/// A process that had a session before continues as the same instance, unless another process has
/// taken the name since. Its rows have its nonce, so it is not taken for another one if the answer
/// to a start got lost. Tables with another secret have other digests for the same keys.
const START: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}), \
    store AS MATERIALIZED (SELECT t.secret = $6 AS is_same FROM {S}.meta t), \
    old AS (UPDATE {S}.sessions s SET replaced = true, until_ms = least(s.until_ms, m.now_ms) FROM moment m, store t \
      WHERE t.is_same AND s.instance = $1 AND NOT s.replaced AND (NOT $3 OR s.nonce = $4) RETURNING s.id), \
    ended AS MATERIALIZED (SELECT count(*) AS sessions FROM old), \
    started AS (INSERT INTO {S}.sessions (id, nonce, instance, until_ms, started_ms) \
      SELECT $5, $4, $1, m.now_ms + $2, m.now_ms FROM moment m CROSS JOIN ended e CROSS JOIN store t \
      WHERE t.is_same AND e.sessions >= 0 AND ($1 IS NULL OR NOT $3 OR NOT EXISTS \
        (SELECT FROM {S}.sessions o WHERE o.instance = $1 AND NOT o.replaced AND o.nonce <> $4)) \
      RETURNING id, started_ms) \
    SELECT t.is_same, s.id, s.started_ms FROM store t LEFT JOIN started s ON true";

async fn start(core: &Core, link: &Link) -> Result<(), Miss> {
    let until = local_end(core);
    let params = Params::default()
        .with(core.options.instance.clone(), Type::TEXT)
        .with(core.options.session_ms(), Type::INT8)
        .with(core.session.was_started(), Type::BOOL)
        .with(Id(core.nonce), Type::UUID)
        .with(new_id().map_err(Miss::NotDone)?, Type::INT8)
        .with(&core.secret.0[..], Type::BYTEA);
    let rows = link.once(&core.sql.filled(START), &params).await?;
    let row = rows.first().ok_or_else(|| Miss::NotDone(damaged("the table `meta` is empty")))?;
    let mut columns = Columns::new(row);
    if !columns.take::<bool>().map_err(Miss::Unknown)? {
        core.session.set(SessionState::OtherStore);
        return Ok(());
    }
    let id: Option<i64> = columns.take().map_err(Miss::Unknown)?;
    let Some(id) = id else {
        core.session.set(SessionState::Replaced);
        core.tell_of_replacement();
        return Ok(());
    };
    core.tell_time(columns.time().map_err(Miss::Unknown)?);
    core.session.set(SessionState::Live { id, until });
    Ok(())
}

/// A number that no session had before: not even one that a failover or a restore has lost.
fn new_id() -> Result<i64, StoreFailure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| {
        StoreFailure::new(FailureKind::Options, format!("the system gave no random bytes: {error}"))
    })?;
    Ok(i64::from_be_bytes(bytes) & i64::MAX)
}

const RENEW: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}) \
    UPDATE {S}.sessions s SET until_ms = m.now_ms + $2 FROM moment m \
      WHERE s.id = $1 AND s.nonce = $3 AND NOT s.replaced AND s.until_ms > m.now_ms RETURNING m.now_ms";

/// A session that has lapsed is never renewed: others may have taken its claims over.
async fn renew(core: &Core, link: &Link, id: i64) -> Result<bool, Miss> {
    let until = local_end(core);
    let params = Params::default()
        .with(id, Type::INT8)
        .with(core.options.session_ms(), Type::INT8)
        .with(Id(core.nonce), Type::UUID);
    let rows = link.once(&core.sql.filled(RENEW), &params).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    core.tell_time(Columns::new(row).time().map_err(Miss::Unknown)?);
    core.session.set(SessionState::Live { id, until });
    Ok(true)
}

const END: &str = "UPDATE {S}.sessions SET until_ms = least(until_ms, {NOW}) WHERE id = $1 AND nonce = $2";

/// Ends the session: the claims that are still out are interrupted.
pub(super) async fn end(core: &Arc<Core>) {
    let SessionState::Live { id, .. } = core.session.state() else { return };
    let shared = Arc::clone(core);
    let ended = core.errand(Deadline::after(core.options.statement_timeout), async move |link: Rc<Link>| {
        let params = Params::default().with(id, Type::INT8).with(Id(shared.nonce), Type::UUID);
        link.once(&shared.sql.filled(END), &params).await
    });
    // Otherwise it lapses by itself.
    drop(ended.await);
    core.session.set(SessionState::None);
}
