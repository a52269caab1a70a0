//! The gate: refuses calls once the engine is closed, and in a forked child.

use crate::error::{BeginError, CommitError, Failure, ReadError};
use crate::fork;
use crate::fork::Origin;
use crate::sync::{AtomicU64, Ordering};

/// No generation is as late as this.
const CLOSED: u64 = u64::MAX;

/// The gate that every call goes through before it takes a lock: in a forked child a lock may be
/// held by a thread that exists only in the parent.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The generation in which the engine is open, or [`CLOSED`].
    open_in: AtomicU64,
    origin: Origin,
}

/// Why an engine takes no calls.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) enum Unavailable {
    Closed,
    Forked,
}

impl Gate {
    pub(super) fn open() -> Self {
        Self { open_in: AtomicU64::new(fork::generation()), origin: Origin::here() }
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.open_in.load(Ordering::Acquire) == fork::generation()
    }

    /// Lets a call in, or gives the error.
    #[inline]
    pub(super) fn check(&self) -> Result<(), Unavailable> {
        if self.is_open() { Ok(()) } else { Err(self.why()) }
    }

    #[cold]
    fn why(&self) -> Unavailable {
        if self.is_forked() { Unavailable::Forked } else { Unavailable::Closed }
    }

    /// Closes it; whether it was open.
    pub(super) fn shut(&self) -> bool {
        self.open_in.swap(CLOSED, Ordering::AcqRel) != CLOSED
    }

    /// The process that opened the engine.
    #[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether this is a forked child, closed or not.
    #[inline]
    pub(super) fn is_forked(&self) -> bool {
        self.origin.is_elsewhere()
    }

    /// The same for calls that go to the disk, which can afford to ask the system too.
    pub(super) fn is_forked_for_sure(&self) -> bool {
        self.origin.is_elsewhere_for_sure()
    }

    /// The same for a call that also works on a closed engine.
    pub(super) fn check_process(&self) -> Result<(), Failure> {
        if self.is_forked_for_sure() { Err(Failure::Forked) } else { Ok(()) }
    }
}

impl From<Unavailable> for BeginError {
    fn from(shut: Unavailable) -> Self {
        match shut {
            Unavailable::Closed => Self::Closed,
            Unavailable::Forked => Self::Failed(Failure::Forked),
        }
    }
}

impl From<Unavailable> for ReadError {
    fn from(shut: Unavailable) -> Self {
        match shut {
            Unavailable::Closed => Self::Closed,
            Unavailable::Forked => Self::Forked,
        }
    }
}

impl From<Unavailable> for CommitError {
    fn from(shut: Unavailable) -> Self {
        match shut {
            Unavailable::Closed => Self::Closed,
            Unavailable::Forked => Self::Failed(Failure::Forked),
        }
    }
}
