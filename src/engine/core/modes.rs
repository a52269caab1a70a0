//! How a file is committed to, and how it is checked when it is opened.

/// What a commit waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum CommitMode {
    /// For the disk (`fdatasync`): acknowledged results survive a power cut.
    #[default]
    Synced,
    /// For the operating system: acknowledged results survive the death of the process, but not a
    /// power cut. For tests and for caches of results.
    Buffered,
}

/// When an opening verifies every page of the file, not only those that it reads anyway.
///
/// The checksums of records, claims and the log are always verified. This setting also verifies
/// the store's own pages: the store's library can panic, or abort the process, on an altered page
/// that it has not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verify {
    /// At every opening. Costs a read of the whole file.
    Always,
    /// When the file is no longer than this many bytes. The default is 64 MiB, which takes well
    /// below a second.
    UpTo(u64),
}

impl Default for Verify {
    fn default() -> Self {
        Self::UpTo(64 << 20)
    }
}
