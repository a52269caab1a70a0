//! The parts of the statements that grant claims of scopes with a limit. A claim of such a scope
//! has one of its places. Statements of other scopes have none of these parts.
//!
//! A row of `places` names the last claim that had the place. The place is free once that claim is
//! not in flight any more, so no end of a claim writes to it.

/// Numbers the claims that may be granted, within their scopes.
const OF_BEGINS: &str = "asks AS MATERIALIZED (SELECT l.ord, l.of_scope AS scope, l.digest, l.most, \
      nextval('{S}.fence') AS fence, row_number() OVER (PARTITION BY l.of_scope ORDER BY l.ord) AS nth \
      FROM looked l WHERE l.living IS NOT NULL AND l.policies = l.in_force AND l.state IS NULL), ";

const OF_GRANTS: &str = "asks AS MATERIALIZED (SELECT f.ord, f.scope, f.digest, f.most, f.fence, \
      row_number() OVER (PARTITION BY f.scope ORDER BY f.ord) AS nth FROM free f), ";

/// Takes a place for each of them, as far as there are any. A place counts as free only below as
/// many as are taken above it, for a limit can have been higher.
///
/// The fence that a place had is compared when its row is locked. A claim that took the place
/// meanwhile can't be looked up any more then: this statement does not see its row. Each inner
/// part has a `LIMIT`, so that it is an index scan for each place, and nothing else.
///
/// Places without a row count only where few rows are free: all of them are read by each begin.
const TAKEN: &str = "scopes AS MATERIALIZED (SELECT a.scope, max(a.most) AS most, count(*) AS calls \
      FROM asks a GROUP BY a.scope), \
    spots AS MATERIALIZED (SELECT s.scope, s.most, s.calls, n.place, coalesce(p.fence, 0) AS before, x.fence IS NOT NULL AS is_held \
      FROM moment m CROSS JOIN scopes s CROSS JOIN LATERAL generate_series(0, s.calls + \
        (SELECT coalesce(max(p.place), -1) FROM {S}.places p WHERE p.scope = s.scope)) n(place) \
      LEFT JOIN LATERAL (SELECT p.digest, p.fence FROM {S}.places p \
        WHERE p.scope = s.scope AND p.place = n.place LIMIT 1) p ON true \
      LEFT JOIN LATERAL (SELECT k.fence FROM {S}.keys k WHERE k.digest = p.digest AND k.fence = p.fence \
        AND k.state = 1 AND {LEASE} > m.now_ms LIMIT 1) x ON true), \
    vacant AS MATERIALIZED (SELECT v.scope, v.place, v.before, \
        row_number() OVER (PARTITION BY v.scope ORDER BY v.before = 0 AND v.spare >= 2 * v.calls, random()) AS nth \
      FROM (SELECT q.*, count(*) FILTER (WHERE NOT q.is_held AND q.before > 0) OVER (PARTITION BY q.scope) AS spare, \
        count(*) FILTER (WHERE q.is_held) OVER (PARTITION BY q.scope ORDER BY q.place DESC \
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS above FROM spots q) v \
      WHERE NOT v.is_held AND v.place + 1 + v.above <= v.most), \
    taken AS (INSERT INTO {S}.places AS p (scope, place, digest, fence, before) \
      SELECT a.scope, v.place, a.digest, a.fence, v.before FROM asks a \
        JOIN vacant v ON v.scope = a.scope AND v.nth = a.nth ORDER BY 1, 2 \
      ON CONFLICT (scope, place) DO UPDATE SET digest = excluded.digest, fence = excluded.fence, before = excluded.before \
        WHERE p.fence = excluded.before RETURNING p.fence, p.digest), ";

/// All places are taken before the first key is changed: no changed key waits for a place.
const HAS_PLACE: &str = "JOIN (SELECT * FROM taken ORDER BY fence) t ON t.fence = f.fence ";

/// The time, as the other grants have it, and how long a place is waited for: others wait meanwhile
/// for the places that this statement has.
const MOMENT: &str = "moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}, \
      set_config('lock_timeout', '{PLACED_LOCK_MS}', true) AS patience), \
    rules AS MATERIALIZED (SELECT policies FROM {S}.meta), ";

/// Where others of the group have every place of the scope that is free, or none is. A call that
/// lost its place to another process asks again.
const NONE_FREE: &str = "NOT EXISTS (SELECT FROM vacant v WHERE v.scope = a.scope AND v.nth = a.nth)";

/// A begin that found no place has a row with nothing but its number.
const FULL_BEGINS: &str = " UNION ALL SELECT a.ord, m.now_ms, u.policies, NULL, NULL, {NO_ROW} \
    FROM asks a CROSS JOIN moment m CROSS JOIN rules u WHERE {NONE_FREE}";

const FULL_GRANTS: &str = ", EXISTS (SELECT FROM asks a WHERE a.ord = r.ord AND {NONE_FREE})";

/// Parts of a statement, by their names in its text.
type Parts<'a> = [(&'a str, &'a str)];

fn with(text: &str, parts: &Parts<'_>) -> String {
    parts.iter().fold(text.to_owned(), |text, (name, part)| text.replace(name, part))
}

/// A begin or a grant in scopes without a limit.
pub(super) fn without_places(text: &str) -> String {
    let none = [("{MOST}", ""), ("{SCOPED}", ""), ("{PLACES}", ""), ("{HAS_PLACE}", ""), ("{FULL}", "")];
    with(text, &none).replace("{NEW_FENCE}", "nextval('{S}.fence')").replace("{MOST_PARAM}", "")
}

/// A begin in scopes with one.
pub(super) fn begin_with_places(text: &str) -> String {
    let parts = [
        ("{MOST}", "r.most, "),
        ("{PLACES}", "{OF_BEGINS}{TAKEN}"),
        ("{HAS_PLACE}", "JOIN taken t ON t.digest = l.digest "),
        ("{NEW_FENCE}", "t.fence"),
        ("{LOCK_MS}", "{PLACED_LOCK_MS}"),
        ("{FULL}", FULL_BEGINS),
        ("{OF_BEGINS}", OF_BEGINS),
        ("{TAKEN}", TAKEN),
        ("{NONE_FREE}", NONE_FREE),
    ];
    with(text, &parts)
}

/// A grant on a key of such a scope that has a row.
pub(super) fn grant_with_places(text: &str) -> String {
    let parts = [
        ("{MOMENT}", MOMENT),
        ("{MOST_PARAM}", ", $17::bigint[]"),
        ("{MOST}", "most, "),
        ("{SCOPED}", ", k.scope"),
        ("{PLACES}", "{OF_GRANTS}{TAKEN}"),
        ("{HAS_PLACE}", HAS_PLACE),
        ("{FULL}", FULL_GRANTS),
        ("{OF_GRANTS}", OF_GRANTS),
        ("{TAKEN}", TAKEN),
        ("{NONE_FREE}", NONE_FREE),
    ];
    with(text, &parts)
}
