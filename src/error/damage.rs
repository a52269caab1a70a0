//! Bytes on disk that are not what was written.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

/// Damaged bytes on disk: where they lie and what is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    file: PathBuf,
    place: String,
    what: String,
}

impl Damage {
    pub(crate) fn new(file: &Path, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), place: place.into(), what: what.into() }
    }

    /// The damaged file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Row and offset of the damage within the file.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is damaged at {}: {}; keep the file and its log as they are, and ask `idemkv doctor` what can be saved before you restore both from a backup",
            self.file.display(),
            self.place,
            self.what
        )
    }
}

impl Error for Damage {}
