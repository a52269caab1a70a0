//! `Place`: what a claim takes of the limits on claims in flight.

/// A place among the claims in flight.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// The engine counts it.
    pub(crate) is_counted: bool,
    /// The scope that counts it.
    pub(crate) scope: Option<Box<[u8]>>,
}
