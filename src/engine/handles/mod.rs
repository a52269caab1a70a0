//! Handles: the types that callers hold, and their calls, on a core of any kind.

mod begin_many;
pub(crate) mod claim;
#[cfg(feature = "postgres")]
mod copy;
pub(super) mod end_many;
pub(super) mod ending;
mod ends;
pub(super) mod engine;
pub(super) mod entries;
pub(super) mod file_only;
pub(crate) mod handle;
pub(crate) mod lists;
#[cfg(feature = "postgres")]
mod on_shared;
pub(crate) mod pending;
mod progress;
#[cfg(feature = "serde")]
pub(super) mod run;
pub(super) mod scope;
pub(crate) mod stats;
pub(crate) mod token;
mod waiting;
