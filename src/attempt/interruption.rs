//! `Interruption`: an attempt that ended without an outcome, as callers see it.

use std::fmt;

use crate::attempt::progress::Progress;
use crate::{Fence, Fingerprint, Timestamp};

/// An attempt at an operation: number, fence and start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptInfo {
    pub(crate) fence: Fence,
    pub(crate) attempt: u32,
    pub(crate) started: Timestamp,
}

impl AttemptInfo {
    /// The fence of its claim.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Its number: 1 for the first claim of a key.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When its claim was granted.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.started
    }
}

impl fmt::Display for AttemptInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} with fence {}, started {}", self.attempt, self.fence.get(), self.started)
    }
}

/// An attempt that was interrupted, as later attempts remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Earlier {
    pub(crate) info: AttemptInfo,
    /// When it was interrupted.
    pub(crate) interrupted_at: Timestamp,
}

/// An attempt that ended without an outcome. Its effect may have happened or not: find out before
/// the operation runs again.
///
/// [`BeginError::Unresolved`](crate::BeginError::Unresolved),
/// [`Claim::interrupted`](crate::Claim::interrupted),
/// [`Status::Interrupted`](crate::Status::Interrupted) and
/// [`Event::Interrupted`](crate::Event::Interrupted) give it. Cheap to clone.
///
/// ```
/// # use idemkv::{BeginError, Engine, Fingerprint};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// # let request = Fingerprint::of("request");
/// drop(engine.default_scope().begin("key", request)?); // a worker that lost its way
/// let Err(BeginError::Unresolved(lost)) = engine.default_scope().begin("key", request) else { panic!() };
/// assert_eq!(lost.attempt(), 1);
/// assert!(lost.started() <= lost.interrupted_at());
/// assert!(lost.last_progress().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interruption {
    pub(crate) earlier: Earlier,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) progress: Option<Progress>,
}

impl Interruption {
    /// The number of the attempt: 1 for the first claim of a key.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.earlier.info.attempt
    }

    /// The fence of its claim.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.earlier.info.fence
    }

    /// When its claim was granted.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.earlier.info.started
    }

    /// When it was interrupted: at the drop of its claim, at the end of its lease, or at the
    /// opening after the process had died.
    #[must_use]
    pub fn interrupted_at(&self) -> Timestamp {
        self.earlier.interrupted_at
    }

    /// The fingerprint of the request.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The progress that was last saved, by this attempt or one before it.
    #[must_use]
    pub fn last_progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }
}

/// One line, without the bytes of the progress.
impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, interrupted {}, ", self.earlier.info, self.earlier.interrupted_at)?;
        match &self.progress {
            Some(progress) => write!(f, "with progress of {} bytes", progress.len()),
            None => f.write_str("without progress"),
        }
    }
}
