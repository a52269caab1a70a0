//! The error of all decoders.

/// Why bytes don't decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadBytes(pub(crate) String);
