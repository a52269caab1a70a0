//! The name of one boot of one machine.

/// The name of one boot of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BootId(pub(crate) [u8; 16]);
