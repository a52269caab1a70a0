//! How a file is committed to, and how it is checked when it is opened.

/// What a commit waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum CommitMode {
    /// For the disk (`fdatasync`): what was acknowledged survives a power cut.
    #[default]
    Synced,
    /// For the operating system to have it: what was acknowledged survives the death of the
    /// process, not a power cut. For tests and for caches of results.
    Buffered,
}

/// When an opening verifies every page of the file, instead of trusting those it does not need to
/// read.
///
/// Records, claims and the log carry checksums of their own that are always verified. What this
/// adds is the store's own pages: its library can panic, or abort the process, on a page that was
/// altered behind its back, unless it verified all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verify {
    /// At every opening. Costs a read of the whole file.
    Always,
    /// When the file is no longer than this many bytes. The default is 64 MiB, well below a
    /// second.
    UpTo(u64),
}

impl Default for Verify {
    fn default() -> Self {
        Self::UpTo(64 << 20)
    }
}
