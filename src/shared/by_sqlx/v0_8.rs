//! `SQLx` 0.8.

use sqlx_0_8 as sqlx;

#[allow(clippy::duplicate_mod, reason = "the same code for each version of the crate")]
#[path = "client.rs"]
mod client;

/// A text as this version takes it.
fn checked(text: &str) -> &str {
    text
}
