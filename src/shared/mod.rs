//! The shared store: one database for several processes, in place of a file for one. This is the
//! core over `PostgreSQL` behind `Engine`, `Scope`, `Claim` and `Pending`; `docs/shared.md` says
//! what works.
//!
//! The caller's future decides, with the pure state machine, on the row that came back and on the
//! server's time. The store only compares and sets. One thread runs the client; callers are
//! threads, and tasks on any executor.

mod address;
mod any_row;
mod awaited;
mod batch;
mod begin;
mod begin_in_tx;
mod blocked;
#[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
mod by_sqlx;
mod cache;
pub(crate) mod claim;
pub(crate) mod client_thread;
mod columns;
mod complete;
mod confirm;
mod connection;
mod copied_row;
pub(crate) mod copy;
pub(crate) mod core;
mod count_interrupted;
pub(crate) mod entries;
mod forget;
mod forgets;
mod granting;
mod handle;
mod in_tx;
mod intake;
mod interrupted_count;
mod jobs;
mod keeper;
mod listener;
mod lists;
mod loose_ends;
mod open_tx;
mod options;
mod place_sql;
mod policies;
mod progress;
pub(crate) mod refusal;
mod resolve;
mod row;
mod schema;
mod servers;
mod session;
mod set_policy;
mod settle;
mod sql;
mod statement;
mod statements;
mod stats;
mod sweep;
mod take_over;
mod tell;
#[cfg_attr(not(feature = "postgres-tls"), path = "no_tls.rs")]
mod tls;
mod token;
mod tx_sql;
mod tx_statements;
mod undelivered;
mod wait;
mod wait_for_end;
mod watches;
mod worker;

pub use begin_in_tx::{BeginInTx, ClaimInTx, UncommittedRecord};
pub use copy::Copied;
pub use handle::SharedStats;
pub use in_tx::CompletedInTx;
pub use open_tx::OpenTx;
pub(crate) use open_tx::{HasTx, Tx};
pub use options::{Pooling, SharedOptions};
pub use schema::Migrated;
pub use tx_statements::TxStatements;
