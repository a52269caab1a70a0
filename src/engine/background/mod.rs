//! Background work. Callers call nothing here, except to request a checkpoint.

pub(super) mod checkpoint;
pub(super) mod commit_cost;
pub(super) mod compact;
pub(super) mod file_watch;
pub(super) mod growth;
pub(super) mod poison;
pub(super) mod sweep;
pub(super) mod tell;
pub(super) mod timekeeper;
pub(super) mod unattended;
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "public with the feature `sim`"))]
pub(super) mod worker;
