//! The error of all that decodes.

/// Bytes that don't decode: what is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadBytes(pub(crate) String);
