//! Errors: a small enum for each kind of call, each with a sentence that says what happened and what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sync::Arc;
use crate::tombstone::Tombstone;
use crate::{AttemptInfo, Claim, Status};

/// A key that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The key has no bytes.
    Empty,
    /// The key is longer than the limit.
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit, see `Options::max_key_bytes`.
        max: usize,
    },
    /// The name of the key's scope is longer than the limit.
    ScopeTooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the idempotency key is empty; send one of at least one byte"),
            Self::TooLong { len, max } => {
                write!(
                    f,
                    "the idempotency key has {len} bytes, the limit is {max}; send a shorter one, or a digest of it"
                )
            }
            Self::ScopeTooLong { len, max } => {
                write!(f, "the scope's name has {len} bytes, the limit is {max}; choose a shorter one")
            }
        }
    }
}

impl Error for KeyError {}

/// Bytes on disk that are not what was written: where they lie and what is wrong with them.
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
            "{} is damaged at {}: {}; keep the file as it is, and restore both it and its log from a backup",
            self.file.display(),
            self.place,
            self.what
        )
    }
}

impl Error for Damage {}

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
        is_disk_full(&self.0.source)
    }
}

pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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

/// Why the engine stopped granting claims. Only opening the file again decides what became of the
/// commits that were under way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Failure {
    /// Writing or syncing failed; what the failed call wrote may or may not be on disk.
    Io(IoFailure),
    /// The store is damaged.
    Damaged(Damage),
    /// A thread panicked while it committed for its group.
    Panicked,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the engine stopped after a failed commit, open the file again to go on: ")?;
        match self {
            Self::Io(failure) => failure.fmt(f),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Panicked => f.write_str("a thread panicked while it committed"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(failure) => Some(failure),
            Self::Damaged(damage) => Some(damage),
            Self::Panicked => None,
        }
    }
}

/// An option with a value outside its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) allowed: String,
}

impl OptionError {
    /// The option's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn new(name: &'static str, value: impl fmt::Debug, allowed: &str) -> Self {
        Self { name, value: format!("{value:?}"), allowed: allowed.to_owned() }
    }

    pub(crate) fn unless_within<T: PartialOrd + Copy + fmt::Debug>(
        name: &'static str,
        value: T,
        min: T,
        max: T,
    ) -> Result<(), Self> {
        if value >= min && value <= max {
            return Ok(());
        }
        Err(Self::new(name, value, &format!("{min:?} to {max:?}")))
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "option `{}` is {}; allowed is {}", self.name, self.value, self.allowed)
    }
}

impl Error for OptionError {}

/// Why a file could not be opened. Nothing is lost, and a file that isn't ours is left as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// An option is out of range.
    Option(OptionError),
    /// The path names a directory or another thing that isn't a regular file.
    NotAFile(PathBuf),
    /// The file may not be written.
    ReadOnly(PathBuf),
    /// Another process, or another engine in this one, has the file open.
    Locked(PathBuf),
    /// The file is not one of ours. An empty file isn't either.
    NotIdemkv(PathBuf),
    /// The file was written by a newer version of this crate.
    NewerVersion {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest version this crate reads.
        supported: u32,
    },
    /// The file was written by an older version of this crate, in a format that this one no longer reads.
    OlderVersion {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u32,
        /// The oldest version this crate reads.
        supported: u32,
    },
    /// The log that belongs to the file isn't there, and the file was not closed cleanly: completions that were
    /// acknowledged are in that log.
    LogMissing(PathBuf),
    /// There is a log, but not the file that it belongs to.
    LogWithoutFile(PathBuf),
    /// The log belongs to another file.
    LogOfAnotherFile(PathBuf),
    /// Bytes on disk are not what was written.
    Damaged(Damage),
    /// The operating system refused.
    Io(IoFailure),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(error) => error.fmt(f),
            Self::NotAFile(path) => {
                write!(f, "{} is not a regular file; give the path of a file", path.display())
            }
            Self::ReadOnly(path) => {
                write!(
                    f,
                    "{} may not be written; the engine needs to write it, change its permissions",
                    path.display()
                )
            }
            Self::Locked(path) => {
                write!(
                    f,
                    "{} is open in another engine; one process at a time can have it, close the other",
                    path.display()
                )
            }
            Self::NotIdemkv(path) => {
                write!(f, "{} was not made by idemkv and was left alone; give another path", path.display())
            }
            Self::NewerVersion { file, found, supported } => write!(
                f,
                "{} has format version {found}, this build reads up to {supported}; use a newer idemkv",
                file.display()
            ),
            Self::OlderVersion { file, found, supported } => write!(
                f,
                "{} has format version {found}, this build reads from {supported} on; open it with the idemkv that wrote it",
                file.display()
            ),
            Self::LogMissing(path) => write!(
                f,
                "the log {} is missing and the file was not closed cleanly, so results may be in it; put it back",
                path.display()
            ),
            Self::LogWithoutFile(path) => write!(
                f,
                "the log {} is there, but not the file it belongs to; put the file back, or move the log away",
                path.display()
            ),
            Self::LogOfAnotherFile(path) => {
                write!(f, "the log {} belongs to another file; put the right one back", path.display())
            }
            Self::Damaged(damage) => damage.fmt(f),
            Self::Io(failure) => {
                write!(f, "{failure}; see that its directory is there, may be written and has room")
            }
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Option(error) => Some(error),
            Self::Damaged(damage) => Some(damage),
            Self::Io(failure) => Some(failure),
            Self::NotAFile(_)
            | Self::ReadOnly(_)
            | Self::Locked(_)
            | Self::NotIdemkv(_)
            | Self::NewerVersion { .. }
            | Self::OlderVersion { .. }
            | Self::LogMissing(_)
            | Self::LogWithoutFile(_)
            | Self::LogOfAnotherFile(_) => None,
        }
    }
}

impl OpenError {
    /// What a refusal to open a file means.
    pub(crate) fn from_io(file: &Path, doing: &'static str, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Self::Locked(file.to_owned());
        }
        Self::Io(IoFailure::new(file, doing, error))
    }
}

impl From<OptionError> for OpenError {
    fn from(error: OptionError) -> Self {
        Self::Option(error)
    }
}

impl From<Damage> for OpenError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl From<IoFailure> for OpenError {
    fn from(failure: IoFailure) -> Self {
        Self::Io(failure)
    }
}

/// Why a record on disk could not be read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The key can't be used.
    Key(KeyError),
    /// The engine is closed.
    Closed,
    /// The bytes on disk are not what was written.
    Damaged(Damage),
    /// The operating system refused.
    Io(IoFailure),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => error.fmt(f),
            Self::Closed => f.write_str(CLOSED),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Io(failure) => failure.fmt(f),
        }
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Key(error) => Some(error),
            Self::Closed => None,
            Self::Damaged(damage) => Some(damage),
            Self::Io(failure) => Some(failure),
        }
    }
}

impl From<KeyError> for ReadError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

const CLOSED: &str = "the engine is closed; open the file again";

/// A limit that held for longer than a caller may wait.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Busy {
    /// The commit queue, or the log behind it, stayed full.
    QueueFull {
        /// How long the call was prepared to wait: `Options::patience`.
        waited: Duration,
    },
    /// As many claims are out as may be.
    TooManyClaims {
        /// The limit, see `Options::max_in_flight` and `Policy::max_in_flight`.
        max: usize,
    },
    /// As many calls wait for claims of others as may.
    TooManyWaiters {
        /// The limit, see `Options::max_waiters`.
        max: usize,
    },
    /// The checkpoints of all claims take as much memory as they may.
    TooManyCheckpointBytes {
        /// The limit, see `Options::max_checkpoint_bytes`.
        max: usize,
    },
    /// The disk has no room for what a new claim may need. Completions within `Options::reserve_bytes` of claims already granted still succeed.
    DiskFull(IoFailure),
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull { waited } => {
                write!(
                    f,
                    "the log had no room for {} ms; try again later, with fewer calls at once",
                    waited.as_millis()
                )
            }
            Self::TooManyClaims { max } => {
                write!(
                    f,
                    "{max} claims are out, which is the limit; try again later, or raise `max_in_flight`"
                )
            }
            Self::TooManyWaiters { max } => write!(
                f,
                "{max} calls wait for claims of others, which is the limit; try again later, or raise `max_waiters`"
            ),
            Self::TooManyCheckpointBytes { max } => {
                write!(
                    f,
                    "checkpoints take {max} bytes of memory, which is the limit; make them shorter, or raise `max_checkpoint_bytes`"
                )
            }
            Self::DiskFull(failure) => {
                write!(
                    f,
                    "the disk has no room for what this call may need; free some and try again: {failure}"
                )
            }
        }
    }
}

impl Error for Busy {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::QueueFull { .. }
            | Self::TooManyClaims { .. }
            | Self::TooManyWaiters { .. }
            | Self::TooManyCheckpointBytes { .. } => None,
            Self::DiskFull(failure) => Some(failure),
        }
    }
}

/// Why [`begin`](crate::Engine::begin) gave no answer. The operation was not granted to the caller.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BeginError {
    /// The key can't be used.
    Key(KeyError),
    /// The key was used before, with another fingerprint: a client sent two requests under one key.
    KeyReused,
    /// The last attempt ended without an outcome, and the scope's policy lets no other run by itself.
    Unresolved(AttemptInfo),
    /// The batch has too many requests; none of them was looked at.
    BatchTooLong {
        /// Requests in it.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The operation has run, but its result is no longer kept: the retry comes too late. See
    /// [`Options::tombstone_ttl`](crate::Options::tombstone_ttl).
    Expired(Tombstone),
    /// A limit held for too long; trying again later can succeed.
    Busy(Busy),
    /// The engine stopped granting claims; records known to be durable are still replayed.
    Failed(Failure),
    /// The engine is closed.
    Closed,
    /// The key's record on disk is not what was written.
    Damaged(Damage),
    /// The key's record on disk could not be read.
    Io(IoFailure),
}

impl BeginError {
    /// Whether the same call can succeed later, with no change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy(_))
    }
}

impl fmt::Display for BeginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => error.fmt(f),
            Self::KeyReused => f.write_str(
                "the idempotency key was used for another request; send a new key with a new request",
            ),
            Self::Unresolved(attempt) => write!(
                f,
                "attempt {} ended without an outcome, so its effect may have happened; find out, then say so with `resolve`",
                attempt.attempt()
            ),
            Self::BatchTooLong { len, max } => too_long_a_batch(f, *len, *max),
            Self::Expired(tombstone) => write!(
                f,
                "the operation has run and its result is no longer kept ({tombstone}); \
                 look for its effect, and send a new key only if it is to run again"
            ),
            Self::Busy(busy) => busy.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
            Self::Closed => f.write_str(CLOSED),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Io(failure) => failure.fmt(f),
        }
    }
}

impl Error for BeginError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Key(error) => Some(error),
            Self::KeyReused
            | Self::Unresolved(_)
            | Self::Expired(_)
            | Self::BatchTooLong { .. }
            | Self::Closed => None,
            Self::Busy(busy) => Some(busy),
            Self::Failed(failure) => Some(failure),
            Self::Damaged(damage) => Some(damage),
            Self::Io(failure) => Some(failure),
        }
    }
}

impl From<KeyError> for BeginError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl From<ReadError> for BeginError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Key(error) => Self::Key(error),
            ReadError::Closed => Self::Closed,
            ReadError::Damaged(damage) => Self::Damaged(damage),
            ReadError::Io(failure) => Self::Io(failure),
        }
    }
}

impl From<CommitError> for BeginError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Busy(busy) => Self::Busy(busy),
            CommitError::Failed(failure) => Self::Failed(failure),
            CommitError::Closed => Self::Closed,
        }
    }
}

/// Why a commit did not happen, or is not known to have happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// A limit held for too long; nothing was written.
    Busy(Busy),
    /// A commit failed: whether this one is on disk is unknown until the file is opened again.
    Failed(Failure),
    /// The engine is closed; nothing was written.
    Closed,
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(busy) => busy.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
            Self::Closed => f.write_str(CLOSED),
        }
    }
}

impl Error for CommitError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Busy(busy) => Some(busy),
            Self::Failed(failure) => Some(failure),
            Self::Closed => None,
        }
    }
}

/// Why a claim could not be ended. Where nothing was written, the claim comes back with the error.
#[derive(Debug)]
pub struct EndError {
    reason: ClaimError,
    claim: Option<Box<Claim>>,
}

/// Why a claim was refused something.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClaimError {
    /// The body, or the checkpoint, is longer than the limit.
    BodyTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit, see `Options::max_body_bytes`.
        max: usize,
    },
    /// A time of the [`Completion`](crate::Completion) is out of range.
    Option(OptionError),
    /// The claim is not the current one for its key: its lease ran out. Here is what became of the key.
    Superseded(Box<Status>),
    /// The claim's scope has no leases, and a claim without one would be lost with its token.
    NoLease,
    /// The call was made inside another call of [`Claim::complete_in`], which it would wait for.
    InsideTransaction,
    /// The batch has too many claims; none of them was ended.
    BatchTooLong {
        /// Claims in it.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The commit did not happen, or is not known to have happened.
    Commit(CommitError),
}

fn too_long_a_batch(f: &mut fmt::Formatter<'_>, len: usize, max: usize) -> fmt::Result {
    write!(f, "the batch has {len} calls, the limit is {max}; split it")
}

impl ClaimError {
    /// Whether the same call can succeed later, with no change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Commit(CommitError::Busy(_)))
    }
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BodyTooLarge { len, max } => write!(
                f,
                "the body has {len} bytes, the limit is {max}; complete the claim with a smaller one, or raise `max_body_bytes`"
            ),
            Self::Superseded(current) => {
                let now = match &**current {
                    Status::Vacant => "vacant",
                    Status::InFlight(_) => "in flight with another claim",
                    Status::Interrupted(_) => "interrupted",
                    Status::Done(_) => "done",
                    Status::Expired(_) => "done, and its result no longer kept",
                };
                write!(
                    f,
                    "the claim's lease has run out, and its key is {now}; look what became of the operation before acting"
                )
            }
            Self::Option(error) => write!(f, "{error}; end the claim again with a value in that range"),
            Self::NoLease => f.write_str(
                "the claim has no lease, so it can't be handed over as a token; declare a policy with a lease for its scope",
            ),
            Self::InsideTransaction => f.write_str(
                "a transaction can't be started inside another; complete the claims one after the other",
            ),
            Self::BatchTooLong { len, max } => too_long_a_batch(f, *len, *max),
            Self::Commit(error) => error.fmt(f),
        }
    }
}

impl Error for ClaimError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Option(error) => Some(error),
            Self::BodyTooLarge { .. }
            | Self::Superseded(_)
            | Self::NoLease
            | Self::InsideTransaction
            | Self::BatchTooLong { .. } => None,
            Self::Commit(error) => Some(error),
        }
    }
}

impl From<CommitError> for ClaimError {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}

impl EndError {
    pub(crate) fn new(reason: ClaimError, claim: Option<Claim>) -> Self {
        Self { reason, claim: claim.map(Box::new) }
    }

    #[cfg(feature = "serde")]
    pub(crate) fn into_parts(self) -> (ClaimError, Option<Box<Claim>>) {
        (self.reason, self.claim)
    }

    /// What went wrong.
    #[must_use]
    pub fn reason(&self) -> &ClaimError {
        &self.reason
    }

    /// The claim, where it is still good: nothing was written and it can be ended again, with another body or
    /// later. `None` after a failed commit, whose outcome is unknown until the file is opened again.
    #[must_use]
    pub fn into_claim(self) -> Option<Claim> {
        self.claim.map(|claim| *claim)
    }

    /// Whether ending the claim again later can succeed, with no change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.reason.is_retryable()
    }
}

impl fmt::Display for EndError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl Error for EndError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.reason)
    }
}

/// Why a claim was not completed in a transaction. Nothing was written, but after a failed commit: what became of that, the next
/// opening decides.
#[derive(Debug)]
#[non_exhaustive]
pub enum CompleteInError<E> {
    /// The work gave this error. The claim is still good.
    Work {
        /// What it gave.
        error: E,
        /// The claim.
        claim: Box<Claim>,
    },
    /// The claim could not be completed.
    End(EndError),
}

impl<E: fmt::Display> fmt::Display for CompleteInError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work { error, .. } => write!(f, "nothing was written, because of this: {error}"),
            Self::End(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> Error for CompleteInError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Work { .. } => None,
            Self::End(error) => Some(error),
        }
    }
}

impl<E> From<EndError> for CompleteInError<E> {
    fn from(error: EndError) -> Self {
        Self::End(error)
    }
}

/// Why an interrupted key could not be resolved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ResolveError {
    /// The key is not interrupted: here is what it is.
    NotInterrupted(Box<Status>),
    /// No claim could be had.
    Begin(BeginError),
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInterrupted(_) => {
                f.write_str("the key is not interrupted, so there is nothing to resolve; look at what it is")
            }
            Self::Begin(error) => error.fmt(f),
        }
    }
}

impl Error for ResolveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotInterrupted(_) => None,
            Self::Begin(error) => Some(error),
        }
    }
}

impl From<BeginError> for ResolveError {
    fn from(error: BeginError) -> Self {
        Self::Begin(error)
    }
}

/// Why a claim could not be taken up again from its token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// These bytes are no token, or not what they were.
    Malformed,
    /// Another file granted the claim.
    OtherFile,
    /// The claim belongs to another scope.
    OtherScope,
    /// The claim is not the current one for its key: it has ended, or its lease ran out. Here is what became of the key.
    Superseded(Box<Status>),
    /// Somebody in this process holds the claim already.
    Held,
    /// The engine stopped granting claims, or is closed.
    Begin(BeginError),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("these bytes are not a token; pass them on as they were given"),
            Self::OtherFile => {
                f.write_str("the token is of another file; resume the claim where it was granted")
            }
            Self::OtherScope => f.write_str("the token is of another scope; resume the claim in its own"),
            Self::Superseded(_) => f.write_str(
                "the claim has ended or its lease has run out; look what became of the operation before acting",
            ),
            Self::Held => f.write_str("the claim is held already; a token is resumed once"),
            Self::Begin(error) => error.fmt(f),
        }
    }
}

impl Error for TokenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Malformed | Self::OtherFile | Self::OtherScope | Self::Superseded(_) | Self::Held => None,
            Self::Begin(error) => Some(error),
        }
    }
}

impl From<BeginError> for TokenError {
    fn from(error: BeginError) -> Self {
        Self::Begin(error)
    }
}

/// Why a scope could not be given a policy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DeclareError {
    /// The scope's name is too long.
    Name(KeyError),
    /// A part of the policy is out of range, or contradicts another.
    Policy(OptionError),
    /// So many scopes have policies of their own already.
    TooManyScopes {
        /// The limit.
        max: usize,
    },
    /// The commit did not happen, or is not known to have happened.
    Commit(CommitError),
}

impl fmt::Display for DeclareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Policy(error) => error.fmt(f),
            Self::TooManyScopes { max } => {
                write!(
                    f,
                    "{max} scopes have policies of their own, which is the limit; use the default policy"
                )
            }
            Self::Commit(error) => error.fmt(f),
        }
    }
}

impl Error for DeclareError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Name(error) => Some(error),
            Self::Policy(error) => Some(error),
            Self::TooManyScopes { .. } => None,
            Self::Commit(error) => Some(error),
        }
    }
}

impl From<OptionError> for DeclareError {
    fn from(error: OptionError) -> Self {
        Self::Policy(error)
    }
}

impl From<CommitError> for DeclareError {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}

/// Why a key could not be forgotten.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ForgetError {
    /// A claim on the key is out; end it first.
    InFlight,
    /// The key's record could not be read.
    Read(ReadError),
    /// The commit did not happen, or is not known to have happened.
    Commit(CommitError),
}

impl fmt::Display for ForgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFlight => {
                f.write_str("the key is in flight and can't be forgotten; wait until its claim has ended")
            }
            Self::Read(error) => error.fmt(f),
            Self::Commit(error) => error.fmt(f),
        }
    }
}

impl Error for ForgetError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::InFlight => None,
            Self::Read(error) => Some(error),
            Self::Commit(error) => Some(error),
        }
    }
}

impl From<ReadError> for ForgetError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<CommitError> for ForgetError {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}
