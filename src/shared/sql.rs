//! The text of every statement about keys. Times are milliseconds of the server's clock.
//!
//! No statement decides what an event does to a key. Each inserts where there is no row, or
//! changes a row that still has the fence and the state that the caller decided on.

use std::collections::HashMap;
use std::time::Duration;

use super::place_sql::{begin_with_places, grant_with_places, without_places};
use crate::clock::millis;

/// The server's time.
pub(super) const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// When this server started: it tells one server from another, also behind a pooler.
pub(super) const SERVER: &str = "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

/// How long the row of a released or forgotten key stays at least, so that a repeated statement finds
/// out what became of the first.
pub(super) const VACATED_MS: i64 = 60_000;

/// The most keys that a notification of forgets names, which may have 8,000 bytes. With more,
/// processes drop all records.
const TOLD_MAX: usize = 200;

/// The end of the claim's lease. A claim without a lease of its own stands while its session
/// lives. A claim of a session that was replaced or closed is over; a claim of no session was handed over.
const LEASE: &str = "CASE WHEN k.session IS NULL THEN coalesce(k.lease_until_ms, 0) ELSE coalesce( \
    (SELECT CASE WHEN s.replaced THEN s.until_ms ELSE coalesce(k.lease_until_ms, s.until_ms) END \
     FROM {S}.sessions s WHERE s.id = k.session), k.lease_until_ms, 0) END";

/// Makes the commit of this transaction durable, whatever the server, the role or the transaction
/// was told. `remote_write` does not wait for the disks of standbys, `local` not for standbys, `off`
/// not even for the disk. And a server that tells of errors alone would not say that a standby has
/// not confirmed the commit. Both hold for this transaction only, so no other client of a pooler is
/// affected.
const SURE: &str = "CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') \
    THEN set_config('synchronous_commit', 'on', true) END AS sure, \
    CASE WHEN current_setting('client_min_messages') = 'error' \
    THEN set_config('client_min_messages', 'warning', true) END AS warned";

/// Since when an interrupted key is so: an interruption that a later attempt left standing counts
/// as it was. The index of interruptions has the same text.
pub(super) const SINCE: &str =
    "CASE WHEN returned AND e_fence IS NOT NULL THEN e_interrupted_ms ELSE interrupted_ms END";

/// The fence of the attempt that was interrupted then.
pub(super) const OF_FENCE: &str = "CASE WHEN returned AND e_fence IS NOT NULL THEN e_fence ELSE fence END";

/// The columns of a row, as `KeyRow` reads them.
const ROW: &str = "{BARE}, k.progress, k.body, false AS cut";

/// The same without what may be large.
const BARE_ROW: &str = "{BARE}, NULL::bytea, NULL::bytea, false";

const BARE: &str = "k.state, k.nonce, k.fence, k.attempt, k.fingerprint, {LEASE} AS lease, k.started_ms, \
    k.gone_ms, k.completed_ms, k.expires_ms, k.interrupted_ms, k.ttl_ms, k.remembered_ms, k.unresolved_ms, \
    k.lease_ms, k.e_fence, k.e_attempt, k.e_started_ms, k.e_interrupted_ms, k.outcome, k.wanted, k.returned, \
    k.leaving, k.body_kept, k.scope, k.key, k.session IS NULL AS free";

/// The session that a claim in flight depends on, if the store still has it.
const OF_SESSION: &str = "CASE WHEN k.state = 1 AND k.lease_until_ms IS NULL \
    THEN (SELECT s.id FROM {S}.sessions s WHERE s.id = k.session) END AS of_session";

/// Of the rows that were locked, those whose claim is over for certain. A session that seems to be
/// over is read once more under a lock, which a renewal needs as well. If a renewal has it, the
/// claim stands. If not, a later one finds the session over.
const FREE: &str = "over AS MATERIALIZED (SELECT l.ord FROM locked l JOIN {S}.sessions s ON s.id = l.of_session \
      WHERE s.until_ms <= l.now_ms FOR SHARE OF s SKIP LOCKED), \
    free AS MATERIALIZED (SELECT l.* FROM locked l \
      WHERE l.of_session IS NULL OR l.ord IN (SELECT o.ord FROM over o)), ";

const MOMENT: &str = "moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}), \
    rules AS MATERIALIZED (SELECT policies FROM {S}.meta), ";

const ALIVE: &str = "alive AS MATERIALIZED (SELECT s.id FROM {S}.sessions s, moment m \
    WHERE s.id = ANY ($1::bigint[]) AND NOT s.replaced AND s.until_ms > m.now_ms), ";

/// About how many bytes of bodies and progress come back from one statement: that of a single key
/// may be longer. The others come back without, and are asked for again.
const ANSWER_BYTES: &str = "8388608";

/// How many bytes the rows before this one have.
const SO_FAR: &str = "coalesce(sum(coalesce(octet_length(l.body), 0) + coalesce(octet_length(l.progress), 0)) \
    OVER (ORDER BY l.ord ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS so_far";

/// The same columns of a row that was read before.
const SEEN: &str = "l.state, l.nonce, l.fence, l.attempt, l.fingerprint, l.lease, l.started_ms, l.gone_ms, \
    l.completed_ms, l.expires_ms, l.interrupted_ms, l.ttl_ms, l.remembered_ms, l.unresolved_ms, l.lease_ms, \
    l.e_fence, l.e_attempt, l.e_started_ms, l.e_interrupted_ms, l.outcome, l.wanted, l.returned, l.leaving, \
    l.body_kept, l.scope, l.key, l.free, CASE WHEN l.so_far < {ANSWER_BYTES} THEN l.progress END, \
    CASE WHEN l.so_far < {ANSWER_BYTES} THEN l.body END, l.so_far >= {ANSWER_BYTES}";

/// The same columns where there was no row.
const NO_ROW: &str = "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL";

/// Inserts keys of which there is no row, and reads the others.
const BEGIN: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}, \
      set_config('lock_timeout', '{LOCK_MS}', true) AS patience), \
    rules AS {KEPT} (SELECT policies FROM {S}.meta), \
    alive AS {KEPT} (SELECT s.id, s.until_ms FROM {S}.sessions s WHERE s.id = {ANY_OF_1} AND NOT s.replaced), \
    req AS {KEPT} ({CALLS}), \
    looked AS MATERIALIZED (SELECT r.ord, r.session AS of, r.policies, r.digest, r.nonce AS asked, r.fingerprint AS print, \
        r.scope AS of_scope, r.key AS of_key, r.ttl_ms AS ttl, r.remembered_ms AS remembered, r.unresolved_ms AS unresolved, \
        r.lease_ms AS lease_for, {MOST}m.now_ms, u.policies AS in_force, a.id AS living, x.* \
      FROM req r CROSS JOIN moment m CROSS JOIN rules u LEFT JOIN alive a ON a.id = r.session AND a.until_ms > m.now_ms \
        LEFT JOIN LATERAL (SELECT {ROW} FROM {S}.keys k WHERE k.digest = r.digest) x ON true), \
    {PLACES}ins AS (INSERT INTO {S}.keys (state, digest, nonce, fence, attempt, fingerprint, session, started_ms, \
        lease_until_ms, ttl_ms, remembered_ms, unresolved_ms, lease_ms, scope, key) \
      SELECT 1, l.digest, l.asked, {NEW_FENCE}, 1, l.print, l.of, l.now_ms, \
        l.now_ms + l.lease_for, l.ttl, l.remembered, l.unresolved, l.lease_for, l.of_scope, l.of_key \
      FROM looked l {HAS_PLACE}WHERE l.living IS NOT NULL AND l.policies = l.in_force AND l.state IS NULL {SORTED} \
      ON CONFLICT (digest) DO NOTHING RETURNING nonce, fence) {BEGUN}{FULL}";

/// The calls of a begin, with their types.
const BEGIN_CALLS: [(&str, &str); 12] = [
    ("session", "bigint"),
    ("policies", "bigint"),
    ("digest", "uuid"),
    ("nonce", "uuid"),
    ("fingerprint", "bytea"),
    ("scope", "bytea"),
    ("key", "bytea"),
    ("ttl_ms", "bigint"),
    ("remembered_ms", "bigint"),
    ("unresolved_ms", "bigint"),
    ("lease_ms", "bigint"),
    // Of scopes with a limit alone.
    ("most", "bigint"),
];

/// What was inserted is told by its nonce: a join with the calls would compare each with each. A
/// call that neither was answered nor inserted has no row: a twin was faster, or the session or the
/// policies are others. The sessions that live say which.
const MANY_BEGUN: &str = "SELECT l.ord, l.now_ms, l.in_force, NULL::bigint, NULL::uuid, {SEEN} \
      FROM (SELECT l.*, {SO_FAR} FROM looked l WHERE l.state IS NOT NULL) l \
    UNION ALL SELECT 0, m.now_ms, u.policies, a.id, NULL, {NO_ROW} FROM alive a CROSS JOIN moment m CROSS JOIN rules u \
      WHERE a.until_ms > m.now_ms \
    UNION ALL SELECT NULL, m.now_ms, u.policies, i.fence, i.nonce, {NO_ROW} FROM ins i CROSS JOIN moment m CROSS JOIN rules u";

/// The one call always has a row, however it ended. The row says whether its session lives.
const ONE_BEGUN: &str = "SELECT l.ord, l.now_ms, l.in_force, i.fence, l.living IS NOT NULL, {SEEN} \
    FROM (SELECT l.*, 0 AS so_far FROM looked l) l LEFT JOIN ins i ON true";

/// Changes rows of claims, for their holders. It waits for a row that a transaction has for a
/// moment. The gentle form passes over such rows: it costs the server more. A withdrawal, which
/// knows no fence, also undoes that others found the claim over.
const END: &str =
    "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}{PATIENCE}), req AS {KEPT} ({CALLS})";

/// Not in a caller's transaction, where it would hold for what comes after.
const PATIENCE: &str = ", set_config('lock_timeout', '{LOCK_MS}', true) AS patience";

const END_CALLS: [(&str, &str); 16] = [
    ("digest", "uuid"),
    ("nonce", "uuid"),
    ("fence", "bigint"),
    ("to_state", "smallint"),
    ("checked", "bool"),
    ("outcome", "smallint"),
    ("body", "bytea"),
    ("body_kept", "bool"),
    ("ttl_ms", "bigint"),
    ("gone_after_ms", "bigint"),
    ("gone_at_ms", "bigint"),
    ("interrupted_at_ms", "bigint"),
    ("returned", "bool"),
    ("attempt", "int"),
    ("progress", "bytea"),
    ("hold", "smallint"),
];

const CHANGES: &str = "UPDATE {S}.keys k SET state = r.to_state, \
        completed_ms = CASE WHEN r.to_state = 3 THEN r.now_ms END, \
        expires_ms = CASE WHEN r.to_state = 3 THEN r.now_ms + r.ttl_ms END, \
        gone_ms = CASE WHEN r.to_state <> 1 THEN coalesce(r.gone_at_ms, r.now_ms + r.gone_after_ms) END, \
        interrupted_ms = CASE WHEN r.to_state = 2 THEN coalesce(r.interrupted_at_ms, r.now_ms) END, \
        lease_until_ms = CASE WHEN r.hold = 1 THEN r.now_ms + k.lease_ms ELSE k.lease_until_ms END, \
        session = CASE WHEN r.hold <> 2 THEN k.session END, \
        returned = r.returned, leaving = false, attempt = coalesce(r.attempt, k.attempt), outcome = r.outcome, body = r.body, \
        body_kept = r.body_kept, \
        progress = CASE WHEN r.to_state IN (1, 2) THEN coalesce(r.progress, k.progress) END \
      FROM (SELECT r.*, m.now_ms FROM req r CROSS JOIN moment m {JOIN_LOCKED} {SORTED}) r \
      WHERE k.digest = r.digest AND k.nonce = r.nonce AND (r.fence IS NULL OR k.fence = r.fence) \
        AND (k.state = 1 OR r.fence IS NULL AND k.state = 2 AND NOT k.returned) AND (NOT r.checked OR {LEASE} > r.now_ms) \
      RETURNING r.ord, r.now_ms, true, k.wanted";

/// Only what was done is told.
const ENDED: &str = "{END} {CHANGES}, false, true";

/// What was not done is told as well, and why.
const GENTLY_ENDED: &str = "{END}, {LOCKED}, done AS ({CHANGES}) \
    SELECT r.ord, m.now_ms, d.ord IS NOT NULL, coalesce(d.wanted, false), \
    x.there AND NOT EXISTS (SELECT FROM locked l WHERE l.digest = r.digest), x.there \
    FROM req r CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM {S}.keys k WHERE k.digest = r.digest) AS there) x \
      CROSS JOIN moment m LEFT JOIN done d ON d.ord = r.ord";

const LOCKED: &str = "locked AS MATERIALIZED (SELECT k.digest FROM {S}.keys k JOIN req r ON r.digest = k.digest \
    ORDER BY k.digest FOR NO KEY UPDATE OF k SKIP LOCKED)";

/// Puts rows of vacated keys where there are none. A grant that comes later finds one, and inserts
/// nothing. An insert that is under way is waited for, for a moment: then it is aborted, and this
/// statement is repeated.
pub(super) const OCCUPY: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}, \
      set_config('lock_timeout', '100', true) AS patience), \
    req AS MATERIALIZED (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[]) \
      r(digest, nonce, scope, key)) \
    INSERT INTO {S}.keys (state, digest, nonce, fence, attempt, fingerprint, started_ms, gone_ms, ttl_ms, \
        remembered_ms, scope, key) \
      SELECT 4, r.digest, r.nonce, nextval('{S}.fence'), 1, decode(repeat('00', 32), 'hex'), m.now_ms, \
        m.now_ms + $5, 0, 0, r.scope, r.key FROM req r CROSS JOIN moment m ORDER BY r.digest \
      ON CONFLICT (digest) DO NOTHING RETURNING digest";

/// Grants claims on keys that have a row, if the row is still as the caller saw it. A row that a
/// transaction has locked is passed over, even if the lease is over. The fence is drawn before
/// the row is locked; one that is not above the row's is not used.
const GRANT: &str = "WITH {MOMENT} {ALIVE} \
    req AS MATERIALIZED (SELECT r.*, nextval('{S}.fence') AS fence FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], \
      $4::uuid[], $5::bytea[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::smallint[], \
      $12::int[], $13::bigint[], $14::int[], $15::bigint[], $16::bigint[]{MOST_PARAM}) WITH ORDINALITY \
      r(session, policies, digest, nonce, fingerprint, ttl_ms, remembered_ms, unresolved_ms, lease_ms, seen_fence, \
        seen_state, attempt, e_fence, e_attempt, e_started_ms, e_interrupted_ms, {MOST}ord)), \
    locked AS MATERIALIZED (SELECT r.*, m.now_ms, k.wanted{SCOPED}, {OF_SESSION} FROM {S}.keys k JOIN req r ON k.digest = r.digest CROSS JOIN moment m \
      JOIN alive a ON a.id = r.session JOIN rules u ON u.policies = r.policies \
      WHERE k.fence = r.seen_fence AND k.state = r.seen_state AND k.fence < r.fence \
        AND (k.state <> 1 OR {LEASE} <= m.now_ms) \
      ORDER BY k.digest FOR NO KEY UPDATE OF k SKIP LOCKED), \
    {FREE}{PLACES}done AS (UPDATE {S}.keys k SET state = 1, nonce = f.nonce, fence = f.fence, attempt = f.attempt, \
        fingerprint = f.fingerprint, session = f.session, started_ms = f.now_ms, \
        lease_until_ms = f.now_ms + f.lease_ms, ttl_ms = f.ttl_ms, remembered_ms = f.remembered_ms, \
        unresolved_ms = f.unresolved_ms, lease_ms = f.lease_ms, e_fence = f.e_fence, e_attempt = f.e_attempt, \
        e_started_ms = f.e_started_ms, e_interrupted_ms = f.e_interrupted_ms, gone_ms = NULL, completed_ms = NULL, \
        expires_ms = NULL, interrupted_ms = NULL, outcome = NULL, wanted = false, returned = false, \
        body_kept = false, body = NULL, progress = CASE WHEN f.attempt > 1 THEN k.progress END \
      FROM free f {HAS_PLACE}WHERE k.digest = f.digest AND k.fence = f.seen_fence AND k.state = f.seen_state \
      RETURNING f.ord, k.fence, f.wanted) \
    SELECT r.ord, m.now_ms, a.id IS NOT NULL, u.policies, d.fence, coalesce(d.wanted, false){FULL} FROM req r CROSS JOIN moment m CROSS JOIN rules u \
      LEFT JOIN alive a ON a.id = r.session LEFT JOIN done d ON d.ord = r.ord";

/// Changes rows that have no holder, or one whose lease is over. A record that stays one is
/// leaving: the processes are told to drop it, under a number that is counted up to the commit. A
/// record that is not leaving is not vacated: a failover may have taken the mark back.
const CHANGE: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}), \
    req AS MATERIALIZED (SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::smallint[]) \
      WITH ORDINALITY r(digest, seen_fence, seen_state, to_state, ord)), \
    locked AS MATERIALIZED (SELECT r.*, m.now_ms, {LEASE} AS lease, {OF_SESSION} FROM {S}.keys k \
      JOIN req r ON k.digest = r.digest \
      CROSS JOIN moment m WHERE k.fence = r.seen_fence AND k.state = r.seen_state \
        AND (k.state <> 1 OR {LEASE} <= m.now_ms) AND (r.to_state <> 4 OR k.state <> 3 OR k.leaving) \
      ORDER BY k.digest FOR NO KEY UPDATE OF k SKIP LOCKED), \
    {FREE}done AS (UPDATE {S}.keys k SET state = f.to_state, \
        interrupted_ms = CASE WHEN f.to_state = 2 THEN f.lease END, \
        gone_ms = CASE f.to_state WHEN 2 THEN f.now_ms + k.unresolved_ms WHEN 3 THEN k.gone_ms \
          ELSE f.now_ms + {VACATED_MS} END, \
        completed_ms = CASE WHEN f.to_state = 3 THEN k.completed_ms END, \
        expires_ms = CASE WHEN f.to_state = 3 THEN k.expires_ms END, \
        outcome = CASE WHEN f.to_state = 3 THEN k.outcome END, \
        body = CASE WHEN f.to_state = 3 THEN k.body END, body_kept = k.body_kept AND f.to_state = 3, \
        leaving = f.to_state = 3, progress = CASE WHEN f.to_state = 2 THEN k.progress END \
      FROM free f WHERE k.digest = f.digest AND k.fence = f.seen_fence AND k.state = f.seen_state \
      RETURNING f.ord, k.digest, k.wanted, k.leaving), \
    leavers AS MATERIALIZED (SELECT count(*) AS keys, string_agg(replace(digest::text, '-', ''), '') AS digits \
      FROM done WHERE leaving), \
    told AS (UPDATE {S}.meta t SET forgets = t.forgets + 1 FROM leavers l WHERE l.keys > 0 RETURNING t.forgets, \
      pg_notify('{FORGETS}', t.forgets || ':' || CASE WHEN l.keys <= {TOLD_MAX} THEN l.digits ELSE '' END) IS NULL AS sent) \
    SELECT r.ord, m.now_ms, d.ord IS NOT NULL, coalesce(d.wanted, false), CASE WHEN d.leaving THEN t.forgets END, t.sent \
      FROM req r CROSS JOIN moment m LEFT JOIN done d ON d.ord = r.ord LEFT JOIN told t ON true";

/// Reads rows.
pub(super) const LOOK: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms), \
    req AS MATERIALIZED (SELECT * FROM unnest($1::uuid[]) WITH ORDINALITY r(digest, ord)), {LOOKED} \
    SELECT l.ord, m.now_ms, {SEEN} FROM (SELECT l.*, {SO_FAR} FROM looked l) l CROSS JOIN moment m";

const LOOKED: &str = "looked AS MATERIALIZED (SELECT r.ord, r.digest, x.* FROM req r \
    LEFT JOIN LATERAL (SELECT {ROW} FROM {S}.keys k WHERE k.digest = r.digest) x ON true)";

/// Notes on rows of claims that other processes wait for them, and reads the rows as they were
/// when the statement started.
const WANT: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms), \
    req AS MATERIALIZED (SELECT * FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY r(digest, fence, ord)), \
    {LOOKED}, free AS MATERIALIZED (SELECT k.digest, r.fence FROM {S}.keys k JOIN req r ON k.digest = r.digest \
      WHERE k.fence = r.fence AND k.state = 1 AND NOT k.wanted ORDER BY k.digest FOR NO KEY UPDATE OF k SKIP LOCKED), \
    flagged AS (UPDATE {S}.keys k SET wanted = true FROM free f \
      WHERE k.digest = f.digest AND k.fence = f.fence AND k.state = 1 RETURNING k.digest, k.fence) \
    SELECT l.ord, m.now_ms, w.digest IS NOT NULL, {SEEN} FROM (SELECT l.*, {SO_FAR} FROM looked l) l \
      CROSS JOIN moment m JOIN req r ON r.ord = l.ord \
      LEFT JOIN flagged w ON w.digest = r.digest AND w.fence = r.fence";

/// The statements about keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Begin,
    /// The same in scopes that limit their claims.
    LimitedBegin,
    End,
    GentleEnd,
    Grant,
    LimitedGrant,
    Change,
    Look,
    Want,
}

/// How long an insert waits at most for another one of the same key to be committed, and an end for
/// a transaction that has its row.
const LOCK_MS: u64 = 1_000;

/// The same of a statement that has places, for which others wait meanwhile.
const PLACED_LOCK_MS: u64 = 250;

/// The calls of a group that waited go again without the one that it waited for. So a wait is a part
/// of a call's time.
const WAITS_IN_A_CALL: u32 = 4;

/// How many calls a statement is for. Both forms have one text, over another source of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    /// The parameters are those of the call: a plan for one row starts in half the time.
    One,
    /// The parameters are arrays.
    Many,
}

impl Shape {
    /// `text` with the calls as the source `req`.
    fn of(self, text: &str, calls: &[(&str, &str)]) -> String {
        let names: Vec<_> = calls.iter().map(|(name, _)| *name).collect();
        let params = (1..).zip(calls);
        match self {
            Self::One => {
                let params: Vec<_> =
                    params.map(|(number, (name, kind))| format!("${number}::{kind} AS {name}")).collect();
                let one = format!("SELECT {}, 1::bigint AS ord", params.join(", "));
                let text = text.replace("{CALLS}", &one).replace("{KEPT}", "NOT MATERIALIZED");
                text.replace("{SORTED}", "").replace("{ANY_OF_1}", "$1::bigint")
            }
            Self::Many => {
                let params: Vec<_> =
                    params.map(|(number, (_, kind))| format!("${number}::{kind}[]")).collect();
                let (params, names) = (params.join(", "), names.join(", "));
                let many = format!("SELECT * FROM unnest({params}) WITH ORDINALITY r({names}, ord)");
                let text = text.replace("{CALLS}", &many).replace("{KEPT}", "MATERIALIZED");
                text.replace("{SORTED}", "ORDER BY digest").replace("{ANY_OF_1}", "ANY ($1::bigint[])")
            }
        }
    }
}

/// The text of every statement, with the schema's name.
#[derive(Debug)]
pub(super) struct Sql {
    names: Names,
    /// The end of a claim, in a transaction of a caller's.
    pub(super) end_in_tx: String,
    texts: HashMap<(Kind, Shape), String>,
}

/// What the texts name.
#[derive(Debug)]
struct Names {
    schema: String,
    now: String,
    server: String,
    /// How long a statement waits for a row.
    lock_ms: u64,
}

impl Sql {
    /// `schema` is a quoted name, `now` and `server` are expressions.
    pub(super) fn new(schema: &str, now: &str, server: &str, call_timeout: Duration) -> Self {
        let names = Names {
            schema: schema.to_owned(),
            now: now.to_owned(),
            server: server.to_owned(),
            lock_ms: millis(call_timeout / WAITS_IN_A_CALL).clamp(1, LOCK_MS),
        };
        let begin = |shape: Shape, begun| {
            let [calls @ .., _] = &BEGIN_CALLS;
            shape.of(&without_places(&BEGIN.replace("{BEGUN}", begun)), calls)
        };
        let limited = begin_with_places(&BEGIN.replace("{BEGUN}", MANY_BEGUN));
        let end = |shape: Shape, text: &str, join, patience| {
            let text = text.replace("{END}", END).replace("{CHANGES}", CHANGES);
            let text = text.replace("{JOIN_LOCKED}", join).replace("{PATIENCE}", patience);
            shape.of(&text.replace("{LOCKED}", LOCKED), &END_CALLS)
        };
        let texts = [
            (Kind::Begin, Shape::One, begin(Shape::One, ONE_BEGUN)),
            (Kind::Begin, Shape::Many, begin(Shape::Many, MANY_BEGUN)),
            (Kind::LimitedBegin, Shape::Many, Shape::Many.of(&limited, &BEGIN_CALLS)),
            (Kind::End, Shape::One, end(Shape::One, ENDED, "", PATIENCE)),
            (Kind::End, Shape::Many, end(Shape::Many, ENDED, "", PATIENCE)),
            (Kind::GentleEnd, Shape::Many, end(Shape::Many, GENTLY_ENDED, "JOIN locked USING (digest)", "")),
            (Kind::Grant, Shape::Many, without_places(GRANT)),
            (Kind::LimitedGrant, Shape::Many, grant_with_places(GRANT)),
            (Kind::Change, Shape::Many, CHANGE.to_owned()),
            (Kind::Look, Shape::Many, LOOK.to_owned()),
            (Kind::Want, Shape::Many, WANT.to_owned()),
        ];
        let texts = texts.map(|(kind, shape, text)| ((kind, shape), filled(&text, &names)));
        let end_in_tx = filled(&end(Shape::One, ENDED, "", ""), &names);
        Self { names, end_in_tx, texts: texts.into() }
    }

    /// The form of a statement for one call: not each kind has one of its own.
    pub(super) fn shape_for_one(&self, kind: Kind) -> Shape {
        if self.texts.contains_key(&(kind, Shape::One)) { Shape::One } else { Shape::Many }
    }

    pub(super) fn text(&self, kind: Kind, shape: Shape) -> &str {
        self.texts.get(&(kind, shape)).map_or("", String::as_str)
    }

    /// Another statement, with the names filled in.
    pub(super) fn filled(&self, text: &str) -> String {
        filled(text, &self.names)
    }
}

fn filled(text: &str, names: &Names) -> String {
    let parts = [
        ("{MOMENT}", MOMENT),
        ("{ALIVE}", ALIVE),
        ("{FREE}", FREE),
        ("{OF_SESSION}", OF_SESSION),
        ("{LOOKED}", LOOKED),
        ("{ROW}", ROW),
        ("{BARE_ROW}", BARE_ROW),
        ("{BARE}", BARE),
        ("{SEEN}", SEEN),
        ("{SO_FAR}", SO_FAR),
        ("{ANSWER_BYTES}", ANSWER_BYTES),
        ("{SINCE}", SINCE),
        ("{OF_FENCE}", OF_FENCE),
        ("{NO_ROW}", NO_ROW),
        ("{LEASE}", LEASE),
        ("{SURE}", SURE),
        ("{NOW}", &names.now),
        ("{SERVER}", &names.server),
        ("{FORGETS}", &format!("idemkv-f:{}", names.schema.trim_matches('"'))),
        ("{TOLD_MAX}", &TOLD_MAX.to_string()),
    ];
    let text = parts.iter().fold(text.to_owned(), |text, (name, part)| text.replace(name, part));
    let text = text.replace("{LOCK_MS}", &names.lock_ms.to_string());
    let text = text.replace("{PLACED_LOCK_MS}", &names.lock_ms.min(PLACED_LOCK_MS).to_string());
    text.replace("{VACATED_MS}", &VACATED_MS.to_string()).replace("{S}", &names.schema)
}
