//! Calls: the calls on an engine, each written once for threads and tasks.

pub(super) mod batch;
pub(super) mod begin;
pub(super) mod complete;
mod completing;
pub(super) mod detach;
pub(super) mod end_many;
mod end_request;
pub(super) mod ending;
pub(super) mod entries;
pub(super) mod forget;
pub(super) mod grant;
pub(super) mod lease;
pub(super) mod lookup;
mod pending_end;
pub(super) mod pending_grant;
pub(super) mod progress;
pub(super) mod resolve_slot;
pub(super) mod resume;
#[cfg(feature = "serde")]
pub(super) mod run;
pub(super) mod set_policy;
pub(super) mod transaction;
pub(super) mod waiting;
pub(super) mod withdraw;
