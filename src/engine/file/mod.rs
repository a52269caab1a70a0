//! The file-backed core's part of each handle: what `handles` wraps, and other rooms work on.

pub(super) mod claim;
pub(super) mod entries;
pub(super) mod handle;
pub(super) mod pending_end;
pub(super) mod permit;
