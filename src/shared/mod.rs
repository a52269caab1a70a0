//! The shared store: one database for several processes, in place of a file for one.
//!
//! Unfinished: `docs/shared.md` says what works. This is the core over PostgreSQL, with a small
//! door of its own for tests. `Engine`, `Scope` and `Claim` will lead here later.
//!
//! The caller's future decides, with the pure state machine, on the row that came back and on the
//! server's time. The store only compares and sets. One thread runs the client; callers are
//! threads, and tasks on any executor.

mod begin;
mod claim;
mod columns;
mod complete;
mod connection;
mod core;
mod driver;
mod error;
mod forget;
mod granting;
mod group;
mod handle;
mod in_tx;
mod keeper;
mod listener;
mod loose_ends;
mod options;
mod pending;
mod policies;
mod progress;
mod resolve;
mod row;
mod schema;
mod scope;
mod session;
mod set_policy;
mod settle;
mod sql;
mod statement;
mod statements;
mod sweep;
mod take_over;
mod wait;
mod watches;
mod worker;

pub use claim::{SharedBegin, SharedClaim};
pub use complete::SharedEndError;
pub use error::{FailureKind, SharedError, StoreFailure};
pub use handle::{Shared, SharedStats};
pub use in_tx::CompletedInTx;
pub use options::{Pooling, SharedOptions};
pub use pending::SharedPending;
pub use schema::plain_sql;
pub use scope::SharedScope;
