//! The life of an engine: opening, backing up and closing a file.

pub(super) mod backup;
pub(super) mod check;
pub(super) mod close;
pub(super) mod open;
pub(super) mod prepare;
pub(super) mod recovery;
pub(super) mod shutdown;
pub(super) mod spawn;
