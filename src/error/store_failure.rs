//! `StoreFailure`: what went wrong with a shared store.

use std::error::Error;
use std::fmt;

use tokio_postgres::error::{Severity, SqlState};

use crate::sync::Arc;

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
    /// The connection can't be secured as the address demands: the server has no TLS, or not the
    /// certificate that it should have.
    Tls,
    /// A row is not as this library writes it.
    Damaged,
    /// The commit waits for a standby that did not confirm it.
    NotReplicated,
    /// A transaction of another caller is about to store a result for the key.
    Locked,
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
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), aborted: false, code: None }))
    }

    pub(crate) fn locked() -> Self {
        let message =
            "a transaction of another caller has begun this key; roll back, and begin again in a moment";
        Self::new(FailureKind::Locked, message)
    }

    /// Of a row that a transaction of another caller has changed and not committed.
    pub(crate) fn held() -> Self {
        Self::new(FailureKind::Locked, "a transaction that is still open has the key; end it, and try again")
    }

    /// Of a call that went with others, of which one had to wait for a row.
    pub(crate) fn behind() -> Self {
        let message = "the time was over before the call's turn came: another one waited for a locked row";
        Self::new(FailureKind::TimedOut, message)
    }

    /// Of a key whose row says nothing of an earlier claim any more.
    pub(crate) fn used_since() -> Self {
        let message = "the answer got lost, and the key was used again since: this claim is over";
        Self::new(FailureKind::TimedOut, message)
    }

    pub(crate) fn closed_meanwhile() -> Self {
        Self::new(FailureKind::Unreachable, "the engine was closed before the answer came")
    }

    pub(crate) fn of(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            // The client has no other word for it.
            let is_tls = message.starts_with("error performing TLS handshake");
            return Self::new(if is_tls { FailureKind::Tls } else { FailureKind::Unreachable }, message);
        };
        let is_fatal = db.parsed_severity() != Some(Severity::Error);
        Self::of_server(db.code().code(), (db.message(), db.detail()), is_fatal)
    }

    /// An error that the server gave, by whatever client.
    pub(crate) fn of_server(code: &str, (message, detail): (&str, Option<&str>), is_fatal: bool) -> Self {
        // A fatal error may come after the commit: the server was shut down while it waited for a
        // standby, or before it could answer.
        // Some poolers tell of a server's connection that broke as an error.
        let may_have_happened = code.starts_with("08")
            || matches!(code, "57P01" | "57P02" | "57P03")
            || code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN.code();
        let aborted = !is_fatal && !may_have_happened;
        // The detail of a constraint that is violated shows the row: key and result of a client.
        let message = match detail.filter(|_| !code.starts_with("23")) {
            Some(detail) => format!("{message} ({detail})"),
            None => message.to_owned(),
        };
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

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn was_aborted(&self) -> bool {
        self.0.aborted
    }

    /// Whether the same statement may succeed at once on another try.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self.code(), Some("40001" | "40P01" | "57014" | "26000" | "42P05" | "55P03" | "0A000"))
    }

    /// Whether the store may take the statement in a moment: it can't be reached, or a standby has
    /// its address while it fails over.
    pub(crate) fn is_of_an_absence(&self) -> bool {
        matches!(
            self.kind(),
            FailureKind::Unreachable | FailureKind::TimedOut | FailureKind::ReadOnly | FailureKind::Tls
        )
    }

    /// Whether a prepared statement went astray, as behind a pooler that was not detected.
    pub(crate) fn is_of_a_stray_statement(&self) -> bool {
        matches!(self.code(), Some("26000" | "42P05"))
    }

    /// Whether a connection that was being made met a pooler. Once it stands, the third code says
    /// no more than that it broke.
    pub(crate) fn is_of_a_pooler(&self) -> bool {
        self.is_of_a_stray_statement() || self.code() == Some("08P01")
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
            FailureKind::Tls => {
                "the connection can't be secured, so look at the server's certificate, `sslmode` and `sslrootcert`"
            }
            FailureKind::Damaged => "a row of the store is damaged, so restore or forget it",
            FailureKind::NotReplicated => {
                "a commit is not confirmed by the standbys, so look at the replication"
            }
            FailureKind::Locked => "the key is not free",
            FailureKind::Refused => "the store refused the statement",
        };
        write!(f, "{what}: {}", self.0.message)
    }
}

impl Error for StoreFailure {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pooler gives 08P01 for a server's connection that broke, too.
    #[test]
    fn a_connection_that_broke_says_that_a_pooler_is_in_between_only_while_it_is_made() {
        let failed = |code| StoreFailure::of_server(code, ("", None), true);
        assert!(failed("08P01").is_of_a_pooler() && !failed("08P01").is_of_a_stray_statement());
        assert!(["26000", "42P05"].into_iter().all(|code| failed(code).is_of_a_stray_statement()));
        assert!(!failed("08006").is_of_a_pooler());
    }
}
