//! Common: what every core uses. It knows no log, no store and no place on disk.

pub(crate) mod completion;
pub(crate) mod counters;
pub(crate) mod end_request;
pub(crate) mod events;
pub(crate) mod leases;
pub(crate) mod limits;
pub(crate) mod names;
pub(crate) mod namespace;
pub(crate) mod policies;
pub(crate) mod request;
pub(crate) mod running;
pub(crate) mod untold;
