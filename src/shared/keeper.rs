//! The keeper: starts this process's session, renews it, and starts another when it has lapsed.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::Type;

use super::columns::{Id, Params};
use super::connection::{Link, first, race};
use super::core::Core;
use super::forgets::{Heard, LISTEN, hearing};
use super::row::{Columns, damaged};
use super::session::SessionState;
use super::statement::Miss;
use crate::clock::{Deadline, boot_ms};
use crate::error::{FailureKind, StoreFailure};
use crate::sync::Arc;

/// Keeps the session until it is told to stop. It has a connection of its own, so the claims of a
/// live process stand even while the other connections are busy.
pub(super) async fn keep(core: Arc<Core>) {
    let (mut line, mut pause) = (None, PAUSE_MIN);
    while !core.session.is_stopping() {
        let is_kept = match race(core.session.stopped(), connected(&core, &mut line)).await {
            Ok(()) => return,
            Err(Ok(line)) => step(&core, line).await.is_ok(),
            Err(Err(failure)) => {
                core.failed_to_connect(failure);
                false
            }
        };
        core.session.has_tried();
        if core.session.is_stopping() {
            return;
        }
        if is_kept {
            pause = PAUSE_MIN;
            // Woken early by a caller that found the session over.
            first(tokio::time::sleep(core.options.session / 3), core.session.called.notified()).await;
        } else {
            // Woken by no caller: it would connect as fast as connections fail.
            first(tokio::time::sleep(pause), core.session.stopped()).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

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
    let options = core.link_options().for_session(core.options.session);
    let opened = Link::open(options, hearing(core, &heard)).await?;
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

/// The session that has this process's name now.
const NAMED: &str = "SELECT s.id FROM {S}.sessions s WHERE s.instance = $1 AND NOT s.replaced";

/// A process that had a session before continues as the same instance, unless another process has
/// taken the name since. Its rows have its nonce, so it is not taken for another one if the answer
/// to a start got lost. Tables with another secret have other digests for the same keys.
///
/// Its own session before only loses the name: claims with leases of their own stand under it. All
/// sessions of another process are replaced, also those that lapsed before, if its session with the
/// name is the one that was seen.
const START: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}), \
    store AS MATERIALIZED (SELECT t.secret = $6 AS is_same, t.forgets FROM {S}.meta t), \
    named AS MATERIALIZED (SELECT o.nonce, o.nonce = $4 OR o.id IS NOT DISTINCT FROM $3 AS gives_way \
      FROM {S}.sessions o CROSS JOIN store t WHERE t.is_same AND o.instance = $1 AND NOT o.replaced), \
    before AS MATERIALIZED (SELECT s.id, s.nonce <> $4 AS is_other FROM {S}.sessions s \
      WHERE s.nonce IN (SELECT n.nonce FROM named n WHERE n.gives_way) AND NOT s.replaced \
      ORDER BY s.id FOR NO KEY UPDATE OF s), \
    old AS (UPDATE {S}.sessions s SET replaced = b.is_other, until_ms = least(s.until_ms, m.now_ms), \
        instance = CASE WHEN b.is_other THEN s.instance END \
      FROM moment m, before b WHERE s.id = b.id AND NOT s.replaced RETURNING s.id), \
    ended AS MATERIALIZED (SELECT count(*) AS sessions FROM old), \
    started AS (INSERT INTO {S}.sessions (id, nonce, instance, until_ms, started_ms, replays_until_ms, seen) \
      SELECT $5, $4, $1, m.now_ms + $2, m.now_ms, m.now_ms + $2, CASE WHEN $7 THEN t.forgets END \
      FROM moment m CROSS JOIN ended e CROSS JOIN store t \
      WHERE t.is_same AND e.sessions >= 0 AND NOT EXISTS (SELECT FROM named n WHERE NOT n.gives_way) \
      RETURNING id, started_ms, seen) \
    SELECT t.is_same, s.id, s.started_ms, s.seen, {SERVER} FROM store t LEFT JOIN started s ON true";

/// The session of another process that this one may take the name from. It sees which one has the
/// name first: a start that arrives late replaces nobody who took the name in between.
async fn predecessor(core: &Core, line: &Line) -> Result<Option<i64>, Miss> {
    let Some(name) = &core.options.instance else { return Ok(None) };
    if core.session.was_started() {
        return Ok(None);
    }
    let params = Params::default().with(name.clone(), Type::TEXT);
    let rows = line.link.once(&core.sql.filled(NAMED), &params).await?;
    rows.first().map(|row| Columns::new(row).take()).transpose().map_err(Miss::NotDone)
}

async fn start(core: &Core, line: &Line) -> Result<(), Miss> {
    let before = predecessor(core, line).await?;
    // Asked after that look: what it saw may be a session of the next try to connect.
    if !core.session.was_started() && core.connecting.has_left() {
        return Err(Miss::Closed);
    }
    let (until, sent) = (local_end(core), boot_ms());
    let params = Params::default()
        .with(core.options.instance.clone(), Type::TEXT)
        .with(core.options.session_ms(), Type::INT8)
        .with(before, Type::INT8)
        .with(Id(core.nonce), Type::UUID)
        .with(new_id().map_err(Miss::NotDone)?, Type::INT8)
        .with(&core.secret.0[..], Type::BYTEA)
        .with(core.cache.is_on(), Type::BOOL);
    core.session.may_start();
    let rows = line.link.once(&core.sql.filled(START), &params).await?;
    let row = rows.first().ok_or_else(|| Miss::NotDone(damaged("the table `meta` is empty")))?;
    let mut columns = Columns::new(row);
    if !columns.take::<bool>().map_err(Miss::Unknown)? {
        core.cache.stop();
        core.session.set(SessionState::OtherStore);
        return Ok(());
    }
    let id: Option<i64> = columns.take().map_err(Miss::Unknown)?;
    let Some(id) = id else { return is_named_otherwise(core) };
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

/// Another process has the name.
fn is_named_otherwise(core: &Core) -> Result<(), Miss> {
    if !core.session.was_started() {
        let message = "another process took the name at the same moment";
        return Err(Miss::NotDone(StoreFailure::new(FailureKind::Refused, message)));
    }
    core.cache.stop();
    core.session.set(SessionState::Replaced);
    core.tell_of_replacement();
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

/// The row is locked first, and only then the time is read. A statement that finds the session over
/// locks the row as well, so only one of the two goes by the session as it was.
const RENEW: &str = "WITH mine AS MATERIALIZED (SELECT s.id, s.until_ms, s.seen FROM {S}.sessions s \
      WHERE s.id = $1 AND s.nonce = $3 AND NOT s.replaced FOR NO KEY UPDATE), \
    moment AS MATERIALIZED (SELECT o.*, {NOW} AS now_ms, {SURE} FROM mine o) \
    UPDATE {S}.sessions s SET until_ms = m.now_ms + $2, replays_until_ms = m.now_ms + $2, \
        seen = CASE WHEN $4 IS NULL OR $4 <= t.forgets AND $5 = {SERVER} THEN $4 ELSE -1 END \
      FROM moment m CROSS JOIN {S}.meta t \
      WHERE s.id = m.id AND m.until_ms > m.now_ms AND (m.seen IS NULL) = ($4 IS NULL) RETURNING m.now_ms, t.forgets, {SERVER}";

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
        if seen == last && !is_another || core.session.is_stopping() {
            return Ok(true);
        }
        // As long as other processes forget records, this goes on.
        core.session.has_tried();
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

/// All sessions of this process are replaced, by none: claims with leases of their own are over too.
const END: &str = "UPDATE {S}.sessions SET until_ms = least(until_ms, {NOW}), seen = NULL, replaced = true \
    WHERE nonce = $1";

/// Ends the session: the claims that are still out are interrupted. The keeper stops before: what
/// it has under way would start or renew the session after its end.
pub(super) async fn end(core: &Arc<Core>, keeper: JoinHandle<()>) {
    core.session.stop();
    drop(timeout(core.options.statement_timeout, keeper).await);
    let is_ours = matches!(core.session.state(), SessionState::None | SessionState::Live { .. });
    if !is_ours || !core.session.may_have_started() {
        return;
    }
    let shared = Arc::clone(core);
    let ended = core.errand(Deadline::after(core.options.statement_timeout), async move |link: Rc<Link>| {
        link.once(&shared.sql.filled(END), &Params::default().with(Id(shared.nonce), Type::UUID)).await
    });
    // Otherwise it lapses by itself.
    drop(ended.await);
    core.session.set(SessionState::None);
}
