//! Errors of the shared store.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tokio_postgres::error::{Severity, SqlState};

use crate::Interruption;
use crate::error::{KeyError, OptionError};
use crate::record::tombstone::Tombstone;
use crate::status::Status;
use crate::sync::Arc;

const CLOSED_STORE: &str = "the store is closed; connect again";
const FORKED_STORE: &str =
    "this process is a fork of the one that connected to the store; connect after the fork";

/// What kind of failure of the store it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection, or it broke.
    Unreachable,
    /// The server did not answer in time, or cancelled the statement.
    TimedOut,
    /// The server takes no writes: it is a standby, or was made read-only.
    ReadOnly,
    /// The server has no room: disk, memory or connections.
    Full,
    /// The role may not do that, or could not log in.
    Forbidden,
    /// The tables are missing, or of another version.
    Schema,
    /// The options can't work with this server.
    Options,
    /// A row is not as this library writes it.
    Damaged,
    /// The commit waits for a standby that did not confirm it.
    NotReplicated,
    /// The server gave another error.
    Refused,
}

/// What went wrong with the store.
#[derive(Clone, Debug)]
pub struct StoreFailure(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: FailureKind,
    message: String,
    /// The server aborted the statement: it certainly did nothing.
    aborted: bool,
    code: Option<String>,
}

impl StoreFailure {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), aborted: false, code: None }))
    }

    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            return Self::new(FailureKind::Unreachable, message);
        };
        // A fatal error may come after the commit: the server was shut down while it waited for a
        // standby, or before it could answer.
        let aborted = db.parsed_severity() == Some(Severity::Error)
            && *db.code() != SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN;
        let message = match db.detail() {
            Some(detail) => format!("{} ({detail})", db.message()),
            None => db.message().to_owned(),
        };
        let code = db.code().code();
        Self(Arc::new(Inner { kind: kind_of(code), message, aborted, code: Some(code.to_owned()) }))
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.0.kind
    }

    /// The SQLSTATE, if the server gave an error.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    pub(super) fn message(&self) -> &str {
        &self.0.message
    }

    pub(super) fn was_aborted(&self) -> bool {
        self.0.aborted
    }

    /// Whether the same statement may succeed at once on another try.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.code(), Some("40001" | "40P01" | "57014" | "26000" | "42P05" | "55P03" | "0A000"))
    }

    /// Whether prepared statements went astray, as behind a pooler that was not detected.
    pub(super) fn is_of_a_pooler(&self) -> bool {
        matches!(self.code(), Some("26000" | "42P05" | "08P01"))
    }
}

fn kind_of(code: &str) -> FailureKind {
    match code {
        "25006" => FailureKind::ReadOnly,
        "57014" | "55P03" => FailureKind::TimedOut,
        "42501" => FailureKind::Forbidden,
        "42P01" | "3F000" | "42703" | "3D000" => FailureKind::Schema,
        _ if code.starts_with("53") => FailureKind::Full,
        _ if code.starts_with("28") => FailureKind::Forbidden,
        _ if code.starts_with("57P") || code.starts_with("08") => FailureKind::Unreachable,
        _ => FailureKind::Refused,
    }
}

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind() {
            FailureKind::Unreachable => "the store can't be reached, so look at the server and the network",
            FailureKind::TimedOut => "the store did not answer in time, so look at its load and its locks",
            FailureKind::ReadOnly => "the store takes no writes, so connect to the primary",
            FailureKind::Full => "the store has no room, so free disk, memory or connections",
            FailureKind::Forbidden => "the store refuses this role, so look at its password and its rights",
            FailureKind::Schema | FailureKind::Options => "the store can't be used as it is",
            FailureKind::Damaged => "a row of the store is damaged, so restore or forget it",
            FailureKind::NotReplicated => {
                "a commit is not confirmed by the standbys, so look at the replication"
            }
            FailureKind::Refused => "the store refused the statement",
        };
        write!(f, "{what}: {}", self.0.message)
    }
}

impl Error for StoreFailure {}

/// Why a call to the shared store gave no answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SharedError {
    /// The key can't be used.
    Key(KeyError),
    /// The key was used before, with another fingerprint.
    KeyReused,
    /// The last attempt ended without an outcome, and the scope's policy grants no other.
    Unresolved(Interruption),
    /// The operation has run, but its result is no longer kept.
    Expired(Tombstone),
    /// The claim is not the current one for its key: this is the key's state now.
    Superseded(Box<Status>),
    /// The key is not interrupted, so there is nothing to resolve.
    NotInterrupted(Box<Status>),
    /// A claim on the key is in flight, so it can't be forgotten.
    InFlight,
    /// An option, a policy or a completion is out of range, or not for a shared store.
    Option(OptionError),
    /// The body, or the progress, is longer than the limit.
    BodyTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// As many calls wait for the store as may.
    Busy {
        /// The limit.
        max: usize,
    },
    /// The store gave no answer. Nothing was granted, ended or changed, or will be.
    Unavailable(StoreFailure),
    /// The store's answer got lost, and until the end of the call's time nothing could be found
    /// out. The change may have happened, or not. The same call again finds out.
    Unknown(StoreFailure),
    /// The session of this process is not known to live, and could not be renewed in time.
    NoSession(Duration),
    /// Another process started with this one's instance name.
    Replaced,
    /// The store is closed.
    Closed,
    /// This process is a forked child of the one that connected.
    Forked,
}

impl SharedError {
    /// Whether the same call can succeed later, with no change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unavailable(_) | Self::Unknown(_) | Self::NoSession(_))
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => error.fmt(f),
            Self::KeyReused => f.write_str(
                "the idempotency key was used for another request; send a new key with a new request",
            ),
            Self::Unresolved(interruption) => write!(
                f,
                "the operation was interrupted, so its effect may have happened ({interruption}); \
                 find out, then say so with `resolve`"
            ),
            Self::Expired(tombstone) => {
                write!(f, "the operation has run and its result is no longer kept ({tombstone})")
            }
            Self::Superseded(now) => write!(f, "the claim is over, and its key is {now}; look before acting"),
            Self::NotInterrupted(now) => {
                write!(f, "the key is not interrupted but {now}; nothing to resolve")
            }
            Self::InFlight => f.write_str("the key is in flight; wait until its claim has ended"),
            Self::Option(error) => error.fmt(f),
            Self::BodyTooLarge { len, max } => write!(f, "{len} bytes are too many, the limit is {max}"),
            Self::Busy { max } => write!(f, "{max} calls wait for the store, which is the limit; try later"),
            Self::Unavailable(failure) => write!(f, "nothing was done: {failure}"),
            Self::Unknown(failure) => {
                write!(f, "whether it was done is unknown, and the same call again finds out: {failure}")
            }
            Self::NoSession(waited) => write!(
                f,
                "the session of this process could not be renewed within {} ms; look at the store",
                waited.as_millis()
            ),
            Self::Replaced => f.write_str(
                "another process started with the instance name of this one; give each process its own",
            ),
            Self::Closed => f.write_str(CLOSED_STORE),
            Self::Forked => f.write_str(FORKED_STORE),
        }
    }
}

impl Error for SharedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Key(error) => Some(error),
            Self::Option(error) => Some(error),
            Self::Unavailable(failure) | Self::Unknown(failure) => Some(failure),
            Self::KeyReused
            | Self::Unresolved(_)
            | Self::Expired(_)
            | Self::Superseded(_)
            | Self::NotInterrupted(_)
            | Self::InFlight
            | Self::BodyTooLarge { .. }
            | Self::Busy { .. }
            | Self::NoSession(_)
            | Self::Replaced
            | Self::Closed
            | Self::Forked => None,
        }
    }
}

impl From<KeyError> for SharedError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}
