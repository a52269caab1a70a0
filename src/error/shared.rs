//! Why a shared store gave no answer.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::StoreFailure;

/// Why a shared store gave no answer. Only calls on an engine over a shared store have this error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SharedError {
    /// The store gave no answer in time. Nothing was granted, ended or changed, and will not be.
    Unavailable(StoreFailure),
    /// The store's answer got lost, and could not be found out in time. The change may have
    /// happened. The same call again is safe, and finds out, unless the key was used again since. No
    /// begin has this error.
    Unknown(StoreFailure),
    /// The session of this process is not known to live, and could not be renewed in this time.
    /// Nothing was granted.
    NoSession(Duration),
    /// Another process connected with this one's instance name, which ended the session and the
    /// claims of this one. This engine grants nothing any more; connect again.
    Replaced,
    /// The tables are not those that this engine connected to: they were made anew, or are from a
    /// backup of another store. This engine grants nothing any more; connect again.
    OtherStore,
    /// As many calls wait for the store as may. Nothing was done.
    Busy {
        /// The limit.
        max: usize,
    },
}

impl SharedError {
    /// Whether the same call can succeed later, with no change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Unknown(_) | Self::NoSession(_) | Self::Busy { .. } => true,
            Self::Replaced | Self::OtherStore => false,
        }
    }
}

#[cfg(any(feature = "http", feature = "queue"))]
impl SharedError {
    /// Whether the store gave no answer, which is no word on what it was asked to store.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Self::Unavailable(failure) => failure.kind() != super::FailureKind::Full,
            Self::Unknown(_) | Self::NoSession(_) | Self::Replaced | Self::OtherStore | Self::Busy { .. } => {
                true
            }
        }
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(failure) => write!(f, "nothing was done: {failure}"),
            Self::Unknown(failure) => {
                write!(f, "whether it was done is unknown, look at the key, or call again: {failure}")
            }
            Self::NoSession(waited) => write!(
                f,
                "the session of this process could not be renewed within {} ms; look at the store",
                waited.as_millis()
            ),
            Self::Replaced => f.write_str(
                "another process connected with the instance name of this one; give each process its own, and connect again",
            ),
            Self::OtherStore => f.write_str(
                "the tables are not those that this process connected to: they were made anew, or restored from another store; connect again",
            ),
            Self::Busy { max } => write!(f, "{max} calls wait for the store, which is the limit; try later"),
        }
    }
}

impl Error for SharedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unavailable(failure) | Self::Unknown(failure) => Some(failure),
            Self::NoSession(_) | Self::Replaced | Self::OtherStore | Self::Busy { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{BeginError, CommitError, CopyError, FailureKind, OpenError, OptionError, ReadError};

    #[track_caller]
    fn says(error: &dyn Error, words: &[&str], source: Option<&str>) {
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
        let found = error.source().map(ToString::to_string);
        assert_eq!(found.is_some(), source.is_some(), "{text}");
        assert!(source.is_none_or(|source| found.is_some_and(|found| found.contains(source))), "{text}");
    }

    #[test]
    fn a_failure_of_the_store_says_where_to_look() {
        for (kind, words) in [
            (FailureKind::Unreachable, "look at the server and the network"),
            (FailureKind::TimedOut, "look at its load and its locks"),
            (FailureKind::ReadOnly, "connect to the primary"),
            (FailureKind::Full, "free disk, memory or connections"),
            (FailureKind::Forbidden, "look at its password and its rights"),
            (FailureKind::Schema, "can't be used as it is"),
            (FailureKind::Options, "can't be used as it is"),
            (FailureKind::Tls, "`sslrootcert`"),
            (FailureKind::Damaged, "restore or forget it"),
            (FailureKind::NotReplicated, "look at the replication"),
            (FailureKind::Locked, "the key is not free"),
            (FailureKind::Refused, "the store refused the statement"),
        ] {
            let failure = StoreFailure::new(kind, "the server's words");
            says(&failure, &[words, "the server's words"], None);
            assert_eq!((failure.kind(), failure.code()), (kind, None));
        }
    }

    #[test]
    fn an_error_of_a_shared_store_says_whether_something_was_done() {
        let failure = StoreFailure::new(FailureKind::Unreachable, "reset");
        let errors = [
            (SharedError::Unavailable(failure.clone()), &["nothing was done", "reset"][..], true, true),
            (SharedError::Unknown(failure), &["unknown", "look at the key, or call again"], true, true),
            (SharedError::NoSession(Duration::from_millis(7)), &["7 ms", "look at the store"], false, true),
            (SharedError::Replaced, &["give each process its own", "connect again"], false, false),
            (SharedError::OtherStore, &["made anew, or restored", "connect again"], false, false),
            (SharedError::Busy { max: 9 }, &["9 calls", "try later"], false, true),
        ];
        for (error, words, has_source, is_retryable) in errors {
            says(&error, words, has_source.then_some("reset"));
            assert_eq!(error.is_retryable(), is_retryable, "{error}");
            let word = words.first().copied();
            says(&ReadError::from(error.clone()), words, word);
            says(&BeginError::from(ReadError::from(error.clone())), words, word);
            says(&CommitError::from(error.clone()), words, word);
            says(&BeginError::from(CommitError::from(error.clone())), words, word);
            says(&OpenError::from(error), words, word);
        }
        says(&ReadError::NoFile, &["works on a file"], None);
    }

    #[test]
    fn an_error_of_a_copy_says_what_to_do_with_file_and_tables() {
        let key = crate::key::Digest::from_u128(1).key_hash();
        let option = OptionError::new("ttl", Duration::ZERO, "1ms");
        for (error, words, source) in [
            (CopyError::NotReadOnly, &["`Options::read_only`"][..], None),
            (CopyError::InFlight { keys: 3 }, &["3 claims", "wait for their ends"], None),
            (CopyError::AlreadyCopied, &["copied into these tables before", "Start no service"], None),
            (CopyError::InUse, &["a schema of another name"], None),
            (
                CopyError::Clocks { apart: Duration::from_secs(12) },
                &["differ by 12 s", "set them right"],
                None,
            ),
            (CopyError::KeyTooLong { key, len: 9, max: 8 }, &["9 bytes", "takes 8", "forget it"], None),
            (
                CopyError::Policy { scope: (*b"jobs\xff").into(), error: option },
                &[r"jobs\xff", "can't be copied", "ttl"],
                Some("ttl"),
            ),
            (CopyError::Read(ReadError::Closed), &["closed"], Some("closed")),
            (CopyError::from(SharedError::Busy { max: 9 }), &["9 calls"], Some("9 calls")),
        ] {
            says(&error, words, source);
        }
    }
}
