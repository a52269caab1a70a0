//! `Handle`: which kind of core is behind a public handle. Another store is another variant.
//!
//! An enum, with a variant for each kind of core. Public calls branch on it, once each and at the
//! top. See `docs/design.md`, "One API over several cores".

use std::time::Duration;

use crate::engine::file::handle::FileHandle;
#[cfg(feature = "serde")]
use crate::error::Failure;
#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
use crate::fork::Origin;
use crate::key::Secret;
#[cfg(feature = "postgres")]
use crate::shared::core::SharedHandle;
use crate::sync::Arc;

/// A reference to an open engine, which it keeps open.
#[derive(Clone, Debug)]
pub(crate) enum Handle {
    /// An engine on a file.
    File(Arc<FileHandle>),
    /// An engine on a store that several processes share.
    #[cfg(feature = "postgres")]
    Shared(Arc<SharedHandle>),
}

impl Handle {
    /// Whether this process is a forked child of the one that opened the engine.
    pub(crate) fn is_forked(&self) -> bool {
        match self {
            Self::File(file) => file.core().health.is_forked(),
            #[cfg(feature = "postgres")]
            Self::Shared(shared) => shared.is_forked(),
        }
    }

    /// The process that opened the engine.
    #[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::File(file) => file.core().health.origin(),
            #[cfg(feature = "postgres")]
            Self::Shared(shared) => shared.origin(),
        }
    }

    /// Refuses a forked child, for certain.
    #[cfg(feature = "serde")]
    pub(crate) fn check_process(&self) -> Result<(), Failure> {
        match self {
            Self::File(file) => file.core().health.check_process(),
            #[cfg(feature = "postgres")]
            Self::Shared(shared) if shared.is_forked() => Err(Failure::Forked),
            #[cfg(feature = "postgres")]
            Self::Shared(_) => Ok(()),
        }
    }

    /// The secret from which hashes of keys and keys of steps are derived.
    pub(crate) fn secret(&self) -> &Secret {
        match self {
            Self::File(file) => &file.core().secret,
            #[cfg(feature = "postgres")]
            Self::Shared(shared) => shared.secret(),
        }
    }

    /// Bytes of the longest key that is granted a claim.
    pub(crate) fn max_key_bytes(&self) -> usize {
        match self {
            Self::File(file) => file.core().options.max_key_bytes,
            #[cfg(feature = "postgres")]
            Self::Shared(shared) => shared.max_key_bytes(),
        }
    }

    /// How long a call waits where there is no room.
    pub(crate) fn queue_timeout(&self) -> Duration {
        match self {
            Self::File(file) => file.core().options.queue_timeout,
            // There is no room that a call waits for.
            #[cfg(feature = "postgres")]
            Self::Shared(_) => Duration::ZERO,
        }
    }
}

#[cfg(test)]
impl Handle {
    /// The file-backed core, for tests of its parts.
    pub(crate) fn core(&self) -> &crate::engine::core::Core {
        match self {
            Self::File(file) => file.core(),
            #[cfg(feature = "postgres")]
            Self::Shared(_) => unreachable!("the engine is on a file"),
        }
    }
}
