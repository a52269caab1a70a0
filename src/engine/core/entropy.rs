//! Where random bytes come from: the system, or a seed in tests.

use std::path::Path;

use crate::error::{IoFailure, OpenError};

#[derive(Clone, Debug)]
pub(crate) enum Entropy {
    System,
    /// The same bytes for the same seed and purpose. For tests.
    #[cfg(feature = "sim")]
    Seeded(u64),
}

impl Entropy {
    /// `N` random bytes; with a seed, each `purpose` gives other bytes.
    pub(in crate::engine) fn draw<const N: usize>(&self, purpose: &str) -> Result<[u8; N], OpenError> {
        let mut bytes = [0; N];
        match self {
            Self::System => getrandom::fill(&mut bytes).map_err(|error| {
                let source = Path::new("the system's random source");
                OpenError::Io(IoFailure::new(source, "reading", error.into()))
            })?,
            #[cfg(feature = "sim")]
            Self::Seeded(seed) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&seed.to_le_bytes()).update(purpose.as_bytes());
                hasher.finalize_xof().fill(&mut bytes);
            }
        }
        #[cfg(not(feature = "sim"))]
        let _: &str = purpose;
        Ok(bytes)
    }
}
