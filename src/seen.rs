//! `Seen`: what a caller saw of a key, by which it is forgotten and nothing else.

use crate::attempt::interruption::Interruption;
use crate::record::Record;
use crate::record::tombstone::Tombstone;
use crate::state::Fence;

/// What a caller saw of a key, for [`Scope::forget_if`](crate::Scope::forget_if).
///
/// The fence of an attempt alone would not do: an attempt that looked interrupted may have
/// completed its key since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The result, or what is remembered of it, that the attempt with this fence stored.
    Result(Fence),
    /// The interruption of the attempt with this fence.
    Interruption(Fence),
}

impl From<&Record> for Seen {
    fn from(record: &Record) -> Self {
        Self::Result(record.fence())
    }
}

impl From<&Tombstone> for Seen {
    fn from(tombstone: &Tombstone) -> Self {
        Self::Result(tombstone.fence())
    }
}

impl From<&Interruption> for Seen {
    fn from(interruption: &Interruption) -> Self {
        Self::Interruption(interruption.fence())
    }
}
