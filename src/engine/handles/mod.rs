//! Handles: the types that callers hold, and the permits inside them.

pub(super) mod claim;
pub(super) mod completion;
pub(super) mod engine;
pub(super) mod handle;
pub(super) mod lists;
pub(super) mod pending;
pub(super) mod permit;
pub(super) mod running;
pub(super) mod scope;
pub(super) mod stats;
pub(super) mod token;
