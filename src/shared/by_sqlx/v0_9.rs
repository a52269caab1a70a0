//! `SQLx` 0.9.

use sqlx_0_9 as sqlx;

#[allow(clippy::duplicate_mod, reason = "the same code for each version of the crate")]
#[path = "client.rs"]
mod client;

/// A text as this version takes it. Values are parameters; the text has the schema's name, which
/// was checked when the engine connected.
fn checked(text: &str) -> sqlx::AssertSqlSafe<&str> {
    sqlx::AssertSqlSafe(text)
}
