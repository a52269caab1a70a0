//! What the operating system refused.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::sync::Arc;

/// An operation on a file that the operating system refused.
#[derive(Clone, Debug)]
pub struct IoFailure(Arc<IoInner>);

#[derive(Debug)]
struct IoInner {
    file: PathBuf,
    doing: &'static str,
    source: io::Error,
}

impl IoFailure {
    pub(crate) fn new(file: &Path, doing: &'static str, source: io::Error) -> Self {
        Self(Arc::new(IoInner { file: file.to_owned(), doing, source }))
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// What kind of error the operating system gave.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.0.source.kind()
    }

    /// Whether the disk, or a quota on it, is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl fmt::Display for IoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} failed: {}", self.0.doing, self.0.file.display(), self.0.source)
    }
}

impl Error for IoFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0.source)
    }
}
