//! The calls that are sent in groups.

pub(super) mod begin;
pub(super) mod change;
pub(super) mod end;
pub(super) mod grant;
pub(super) mod in_tx;
pub(super) mod limited;
pub(super) mod look;
