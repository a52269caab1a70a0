//! `Stepped`: what a step of the background work did.

/// What a step did; for tests and for tools that step an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "sim"), expect(unreachable_pub, reason = "it is public with the feature `sim`"))]
pub struct Stepped {
    /// Whether the log's content was moved to the store.
    pub checkpointed: bool,
    /// Whether the file was compacted.
    pub compacted: bool,
    /// Keys that had expired and were removed from memory.
    pub swept: usize,
    /// Cells of the index that were passed to find them.
    pub passed: usize,
}
