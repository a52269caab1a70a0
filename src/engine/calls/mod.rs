//! Calls: the calls on a file-backed engine, each written once for threads and tasks.

mod batch;
mod begin;
mod detach;
mod end_many;
mod ends;
mod forget;
mod grant;
pub(super) mod lease;
mod lists;
mod log_space;
pub(super) mod lookup;
mod pending_grant;
mod progress;
mod resolve_slot;
mod resume;
mod set_policy;
mod stats;
mod token;
mod transaction;
mod wait;
mod withdraw;
