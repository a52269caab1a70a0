//! Faults of the disk in a world: which one, since when, and what it excuses.

use idemkv::sim::{DiskFault, Operation, SimDisk};
use idemkv::{
    BeginError, Busy, ClaimError, CommitError, ForgetError, ReadError, ResolveError, SetPolicyError,
    TokenError,
};

use crate::script::Random;

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// One operation goes wrong.
    Once { at: u64, fault: DiskFault },
    /// Files can't grow from an operation of the disk on, for so many operations of the script.
    Full { from: u64, ops: usize },
    /// One read fails.
    Read { at: u64 },
}

impl Harm {
    /// One that fits an operation of the disk.
    pub(crate) fn draw(random: &mut Random, at: u64, operation: Operation) -> Self {
        let once = |fault| Self::Once { at, fault };
        match (random.below(5), operation) {
            (0 | 1, Operation::Sync) => once(DiskFault::Late),
            (0, _) => Self::Full { from: at, ops: 1 + usize::try_from(random.below(12)).unwrap_or(0) },
            (1, Operation::Write) => once(DiskFault::Late),
            (1 | 2, _) => once(DiskFault::Full),
            _ => once(DiskFault::Error),
        }
    }

    pub(crate) fn arm(self, disk: &SimDisk) {
        match self {
            Self::Once { at, fault } => disk.fault_at(at, fault),
            Self::Full { from, .. } => disk.fill_from(from),
            Self::Read { at } => disk.fail_read(at),
        }
    }

    /// Whether it has happened.
    pub(crate) fn has_struck(self, disk: &SimDisk) -> bool {
        match self {
            Self::Once { at, .. } | Self::Full { from: at, .. } => disk.operations() > at,
            Self::Read { at } => disk.reads() > at,
        }
    }

    /// Whether it says that there is no room, and nothing worse.
    pub(crate) fn is_only_full(self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether it leaves no doubt of what was written: nothing ends for good.
    pub(crate) fn is_harmless(self) -> bool {
        matches!(self, Self::Full { .. } | Self::Read { .. })
    }
}

/// What an error says of the call that it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There was no room, and nothing was written.
    Full,
    /// Something could not be read, and nothing was done.
    Unread,
    /// Nobody knows what was written.
    Failed,
    /// Something that no fault of a disk excuses.
    Other,
}

impl From<&BeginError> for Trouble {
    fn from(error: &BeginError) -> Self {
        match error {
            BeginError::Busy(Busy::DiskFull(_)) => Self::Full,
            BeginError::Failed(_) => Self::Failed,
            BeginError::Io(_) | BeginError::Busy(Busy::FileNotReady(_)) => Self::Unread,
            _ => Self::Other,
        }
    }
}

impl From<&CommitError> for Trouble {
    fn from(error: &CommitError) -> Self {
        match error {
            CommitError::Busy(Busy::DiskFull(_)) => Self::Full,
            CommitError::Busy(Busy::FileNotReady(_)) => Self::Unread,
            CommitError::Failed(_) => Self::Failed,
            _ => Self::Other,
        }
    }
}

impl From<&ClaimError> for Trouble {
    fn from(error: &ClaimError) -> Self {
        match error {
            ClaimError::Commit(error) => error.into(),
            _ => Self::Other,
        }
    }
}

impl From<&ReadError> for Trouble {
    fn from(error: &ReadError) -> Self {
        if matches!(error, ReadError::Io(_)) { Self::Unread } else { Self::Other }
    }
}

impl From<&ForgetError> for Trouble {
    fn from(error: &ForgetError) -> Self {
        match error {
            ForgetError::Read(error) => error.into(),
            ForgetError::Commit(error) => error.into(),
            _ => Self::Other,
        }
    }
}

impl From<&ResolveError> for Trouble {
    fn from(error: &ResolveError) -> Self {
        if let ResolveError::Begin(error) = error { error.into() } else { Self::Other }
    }
}

impl From<&TokenError> for Trouble {
    fn from(error: &TokenError) -> Self {
        if let TokenError::Begin(error) = error { error.into() } else { Self::Other }
    }
}

impl From<&SetPolicyError> for Trouble {
    fn from(error: &SetPolicyError) -> Self {
        if let SetPolicyError::Commit(error) = error { error.into() } else { Self::Other }
    }
}
