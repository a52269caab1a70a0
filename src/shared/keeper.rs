//! The keeper: starts this process's session, renews it, and starts another when it has lapsed.

use std::rc::Rc;
use std::time::Duration;

use tokio_postgres::types::Type;

use super::columns::{Id, Params};
use super::connection::{Link, first};
use super::core::Core;
use super::forgets::{Heard, LISTEN, hearing};
use super::row::{Columns, damaged};
use super::session::SessionState;
use super::statement::Miss;
use crate::clock::{Deadline, boot_ms};
use crate::error::{FailureKind, StoreFailure};
use crate::sync::Arc;

/// Keeps the session until the runtime ends. It has a connection of its own, so the claims of a
/// live process stand even while the other connections are busy.
pub(super) async fn keep(core: Arc<Core>) {
    let mut line = None;
    loop {
        let is_kept = match connected(&core, &mut line).await {
            Ok(line) => step(&core, line).await.is_ok(),
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

/// The keeper's connection, and what it hears there of records that are to be dropped.
struct Line {
    link: Link,
    heard: Rc<Heard>,
}

async fn connected<'a>(core: &Arc<Core>, line: &'a mut Option<Line>) -> Result<&'a Line, StoreFailure> {
    if let Some(kept) = line.take().filter(|line| !line.link.is_broken()) {
        return Ok(line.insert(kept));
    }
    let heard = Rc::default();
    let opened = Link::open(core.link_options(), hearing(core, &heard)).await?;
    if core.cache.is_on() && !opened.is_pooled() {
        opened.script(&core.sql.filled(LISTEN)).await?;
    }
    core.is_connected(false);
    Ok(line.insert(Line { link: opened, heard }))
}

async fn step(core: &Core, line: &Line) -> Result<(), Miss> {
    let kept = match core.session.state() {
        SessionState::None => start(core, line).await,
        SessionState::Live { id, .. } => match renew(core, line, id).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                core.cache.stop();
                core.session.set(SessionState::None);
                start(core, line).await
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
    store AS MATERIALIZED (SELECT t.secret = $6 AS is_same, t.forgets FROM {S}.meta t), \
    old AS (UPDATE {S}.sessions s SET replaced = true, until_ms = least(s.until_ms, m.now_ms) FROM moment m, store t \
      WHERE t.is_same AND s.instance = $1 AND NOT s.replaced AND (NOT $3 OR s.nonce = $4) RETURNING s.id), \
    ended AS MATERIALIZED (SELECT count(*) AS sessions FROM old), \
    started AS (INSERT INTO {S}.sessions (id, nonce, instance, until_ms, started_ms, replays_until_ms, seen) \
      SELECT $5, $4, $1, m.now_ms + $2, m.now_ms, m.now_ms + $2, CASE WHEN $7 THEN t.forgets END \
      FROM moment m CROSS JOIN ended e CROSS JOIN store t \
      WHERE t.is_same AND e.sessions >= 0 AND ($1 IS NULL OR NOT $3 OR NOT EXISTS \
        (SELECT FROM {S}.sessions o WHERE o.instance = $1 AND NOT o.replaced AND o.nonce <> $4)) \
      RETURNING id, started_ms, seen) \
    SELECT t.is_same, s.id, s.started_ms, s.seen, {SERVER} FROM store t LEFT JOIN started s ON true";

async fn start(core: &Core, line: &Line) -> Result<(), Miss> {
    let (until, sent) = (local_end(core), boot_ms());
    let params = Params::default()
        .with(core.options.instance.clone(), Type::TEXT)
        .with(core.options.session_ms(), Type::INT8)
        .with(core.session.was_started(), Type::BOOL)
        .with(Id(core.nonce), Type::UUID)
        .with(new_id().map_err(Miss::NotDone)?, Type::INT8)
        .with(&core.secret.0[..], Type::BYTEA)
        .with(core.cache.is_on(), Type::BOOL);
    let rows = line.link.once(&core.sql.filled(START), &params).await?;
    let row = rows.first().ok_or_else(|| Miss::NotDone(damaged("the table `meta` is empty")))?;
    let mut columns = Columns::new(row);
    if !columns.take::<bool>().map_err(Miss::Unknown)? {
        core.cache.stop();
        core.session.set(SessionState::OtherStore);
        return Ok(());
    }
    let id: Option<i64> = columns.take().map_err(Miss::Unknown)?;
    let Some(id) = id else {
        core.cache.stop();
        core.session.set(SessionState::Replaced);
        core.tell_of_replacement();
        return Ok(());
    };
    let now = columns.time().map_err(Miss::Unknown)?;
    core.tell_time(now);
    let last: Option<i64> = columns.take().map_err(Miss::Unknown)?;
    if let Some(last) = last {
        // What was dropped while there was no session was told to nobody.
        core.cache.lose_all();
        line.heard.dropped_all(last, columns.take().map_err(Miss::Unknown)?);
        core.cache.started(sent, now);
    }
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
    UPDATE {S}.sessions s SET until_ms = m.now_ms + $2, replays_until_ms = m.now_ms + $2, \
        seen = CASE WHEN $4 IS NULL OR $4 <= t.forgets AND $5 = {SERVER} THEN $4 ELSE -1 END \
      FROM moment m CROSS JOIN {S}.meta t WHERE s.id = $1 AND s.nonce = $3 AND NOT s.replaced \
        AND s.until_ms > m.now_ms AND (s.seen IS NULL) = ($4 IS NULL) RETURNING m.now_ms, t.forgets, {SERVER}";

/// No number: nothing is known of what is to be dropped.
const NOTHING: i64 = -1;
/// How long a notification may take that another connection has seen the commit of.
const LATE: Duration = Duration::from_millis(20);

/// A session that has lapsed is never renewed: others may have taken its claims over, or forgotten
/// what it has in memory.
async fn renew(core: &Core, line: &Line, id: i64) -> Result<bool, Miss> {
    loop {
        let seen = core.cache.is_on().then(|| line.heard.drop_told(core).unwrap_or(NOTHING));
        let (until, sent) = (local_end(core), boot_ms());
        let params = Params::default()
            .with(id, Type::INT8)
            .with(core.options.session_ms(), Type::INT8)
            .with(Id(core.nonce), Type::UUID)
            .with(seen, Type::INT8)
            .with(line.heard.server(), Type::INT8);
        let rows = line.link.once(&core.sql.filled(RENEW), &params).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let mut columns = Columns::new(row);
        let now = columns.time().map_err(Miss::Unknown)?;
        let last: i64 = columns.take().map_err(Miss::Unknown)?;
        let server: i64 = columns.take().map_err(Miss::Unknown)?;
        core.tell_time(now);
        core.session.set(SessionState::Live { id, until });
        let Some(seen) = seen else { return Ok(true) };
        core.cache.renewed(sent, now);
        let is_another = server != line.heard.server();
        if seen == last && !is_another {
            return Ok(true);
        }
        if seen != NOTHING && !line.link.is_pooled() {
            first(tokio::time::sleep(LATE), core.session.called.notified()).await;
        }
        // What no notification told of was missed.
        if is_another || seen > last || line.heard.drop_told(core).is_none_or(|told| told < last) {
            core.cache.lose_all();
            line.heard.dropped_all(last, server);
        }
    }
}

const END: &str =
    "UPDATE {S}.sessions SET until_ms = least(until_ms, {NOW}), seen = NULL WHERE id = $1 AND nonce = $2";

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
