//! What a server shows is confirmed by a commit in the same statement.

use super::sql::LOOK;

/// Writes to the log, and to no row. Its commit waits for the disk and for the standbys, which have
/// everything before it once they have this. If they don't, the server has to say so.
pub(super) const CONFIRM: &str = "SELECT pg_logical_emit_message( \
    CASE WHEN current_setting('synchronous_commit') NOT IN ('off', 'local', 'remote_write') THEN true \
    ELSE set_config('synchronous_commit', 'on', true) IS NOT NULL END \
    AND CASE WHEN current_setting('client_min_messages') <> 'error' THEN true \
    ELSE set_config('client_min_messages', 'warning', true) IS NOT NULL END, 'idemkv', '')";

/// The look at a key, with a commit that confirms what it reads: the rows were committed before.
pub(super) fn sure_look() -> String {
    LOOK.replacen("SELECT {NOW}", &format!("{CONFIRM} AS sure, {{NOW}}"), 1)
}
