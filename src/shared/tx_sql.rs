//! The text of the statements that go on a caller's connection, in its transaction. Unless the
//! caller has them prepared they are planned anew each time, so each is as small as it can be.

use super::sql::Sql;

/// Marks the key for as long as the transaction lasts, unless another transaction has done so, and
/// looks whether it has a row. It changes nothing, so begins of others go on.
const LOOK: &str = "SELECT {NOW}, pg_try_advisory_xact_lock($2::bigint), u.id = $3::uuid, u.policies, \
      current_setting('transaction_isolation') IN ('read committed', 'read uncommitted'), nextval('{S}.fence'), k.digest IS NOT NULL \
    FROM {S}.meta u LEFT JOIN {S}.keys k ON k.digest = $1::uuid";

/// Reads the row, and the version of the policies that it is to be judged by.
const ROW: &str =
    "SELECT {NOW}, u.policies, {ROW} FROM {S}.keys k CROSS JOIN {S}.meta u WHERE k.digest = $1::uuid";

/// The store, if it is the one and the policies are those of the grant.
const MOMENT: &str =
    "(SELECT {NOW} AS now_ms, {SURE} FROM {S}.meta u WHERE u.id = $14::uuid AND u.policies = $13::bigint) m";

/// Writes the result where there is no row.
const INSERT: &str = "INSERT INTO {S}.keys (state, digest, nonce, fence, attempt, fingerprint, started_ms, \
      completed_ms, expires_ms, gone_ms, ttl_ms, remembered_ms, outcome, body, body_kept, scope, key) \
    SELECT 3, $1::uuid, $2::uuid, $3::bigint, $4::int, $5::bytea, $6::bigint, m.now_ms, m.now_ms + $7::bigint, \
      m.now_ms + $8::bigint, $7, $8, $9::smallint, $10::bytea, true, $11::bytea, $12::bytea FROM {MOMENT} \
    ON CONFLICT (digest) DO NOTHING RETURNING completed_ms, false";

/// Writes the result where the row is still as the caller saw it, and no transaction has it.
const UPDATE: &str = "UPDATE {S}.keys k SET state = 3, nonce = $2::uuid, fence = $3::bigint, attempt = $4::int, \
      fingerprint = $5::bytea, session = NULL, started_ms = $6::bigint, completed_ms = m.now_ms, \
      expires_ms = m.now_ms + $7::bigint, gone_ms = m.now_ms + $8::bigint, ttl_ms = $7, remembered_ms = $8, \
      unresolved_ms = NULL, lease_ms = NULL, lease_until_ms = NULL, interrupted_ms = NULL, e_fence = NULL, \
      e_attempt = NULL, e_started_ms = NULL, e_interrupted_ms = NULL, returned = false, leaving = false, \
      outcome = $9::smallint, body = $10::bytea, body_kept = true, progress = NULL \
    FROM {MOMENT}, (SELECT f.digest FROM {S}.keys f WHERE f.digest = $1::uuid FOR NO KEY UPDATE SKIP LOCKED) free \
    WHERE k.digest = free.digest AND k.fence = $15::bigint AND k.state = $16::smallint AND k.state <> 1 AND k.fence < $3 \
      RETURNING m.now_ms, k.wanted";

/// After a result that was not written.
const WHY: &str = "SELECT u.id = $1::uuid, u.policies FROM {S}.meta u";

/// The statements, with the schema's name.
#[derive(Debug)]
pub(super) struct TxSql {
    pub(super) look: String,
    pub(super) row: String,
    pub(super) insert: String,
    pub(super) update: String,
    pub(super) why: String,
    /// The end of a claim that was granted before.
    pub(super) end: String,
}

impl TxSql {
    pub(super) fn new(sql: &Sql) -> Self {
        let filled = |text: &str| sql.filled(&text.replace("{MOMENT}", MOMENT));
        Self {
            look: filled(LOOK),
            row: filled(ROW),
            insert: filled(INSERT),
            update: filled(UPDATE),
            why: filled(WHY),
            end: sql.end_in_tx.clone(),
        }
    }
}
