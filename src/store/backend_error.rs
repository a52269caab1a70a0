//! `BackendError`: any failure inside redb, panics included, before it becomes an error of this
//! crate.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::backend::{STOPPED, is_refused};
use crate::codec::BadBytes;
use crate::error::{Damage, Failure, IoFailure, OpenError, ReadError};
use crate::foreign::discard;
use crate::key::Digest;

/// Any failure inside redb.
pub(super) struct BackendError {
    /// Where, if it is known more exactly than the file.
    place: Option<String>,
    kind: TroubleKind,
}

enum TroubleKind {
    /// Caused by the disk.
    Io(io::Error),
    /// An earlier disk error stopped redb, or redb was closed.
    Stopped(&'static str),
    Damaged(String),
    /// redb undid a transaction instead of committing it.
    Poisoned,
    /// The store's own decision: another try is useless, or not safe.
    Final(io::Error),
}

impl BackendError {
    pub(super) fn at(place: String, bad: BadBytes) -> Self {
        Self { place: Some(place), kind: TroubleKind::Damaged(bad.0) }
    }

    pub(super) fn row(table: &str, digest: Digest, bad: BadBytes) -> Self {
        Self::at(format!("table `{table}`, row {:032x}", digest.as_u128()), bad)
    }

    /// The store's own decision. A reader may ask a newer database; no writer tries again.
    pub(super) fn last_word(what: &'static str) -> Self {
        Self { place: None, kind: TroubleKind::Final(io::Error::other(what)) }
    }

    pub(super) fn stopped() -> Self {
        Self { place: None, kind: TroubleKind::Stopped(STOPPED) }
    }

    /// Whether the disk caused it, as far as the error shows.
    pub(super) fn is_io(&self) -> bool {
        matches!(self.kind, TroubleKind::Io(_) | TroubleKind::Stopped(_))
    }

    /// The disk's error for this very operation.
    pub(super) fn is_answer_of_disk(&self) -> bool {
        matches!(self.kind, TroubleKind::Io(_))
    }

    /// Whether redb undid a transaction because of the code that used its tables.
    pub(super) fn is_poisoned(&self) -> bool {
        matches!(self.kind, TroubleKind::Poisoned)
    }

    pub(super) fn into_failure(self, path: &Path) -> Failure {
        self.told(path, Failure::Io, Failure::Damaged)
    }

    pub(super) fn into_open_error(self, path: &Path) -> OpenError {
        self.told(path, OpenError::Io, OpenError::Damaged)
    }

    pub(super) fn into_read_error(self, path: &Path) -> ReadError {
        self.told(path, ReadError::Io, ReadError::Damaged)
    }

    /// As an error of this crate.
    fn told<E>(self, path: &Path, io: impl FnOnce(IoFailure) -> E, damaged: impl FnOnce(Damage) -> E) -> E {
        let place = self.place.unwrap_or_else(|| "an unknown page".to_owned());
        match self.kind {
            TroubleKind::Io(error) | TroubleKind::Final(error) => {
                io(IoFailure::new(path, "accessing", error))
            }
            TroubleKind::Stopped(what) => io(IoFailure::new(path, "accessing", io::Error::other(what))),
            TroubleKind::Damaged(what) => damaged(Damage::new(path, place, what)),
            // Of the engine's own transactions none is.
            TroubleKind::Poisoned => {
                damaged(Damage::new(path, place, "a transaction was poisoned".to_owned()))
            }
        }
    }
}

impl<E: Into<redb::Error>> From<E> for BackendError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "redb's enum grows")]
    fn from(error: E) -> Self {
        let kind = match error.into() {
            redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                TroubleKind::Damaged("the file is cut off".to_owned())
            }
            redb::Error::Io(error) if is_refused(&error) => return Self::stopped(),
            redb::Error::Io(error) => TroubleKind::Io(error),
            redb::Error::PreviousIo => return Self::stopped(),
            redb::Error::DatabaseClosed => TroubleKind::Stopped("the store is closed"),
            redb::Error::TransactionPoisoned => TroubleKind::Poisoned,
            // Of all the rest, none happens to a file that is as redb left it.
            other => TroubleKind::Damaged(other.to_string()),
        };
        Self { place: None, kind }
    }
}

/// Runs code that calls redb. redb can panic on an altered file; this turns the panic into an
/// error.
pub(super) fn catch_backend_panic<T>(
    run: impl FnOnce() -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let what = format!("its pages make no sense: {}", said(&*panic));
        // The comparison of an application's keys may have panicked.
        discard(panic);
        Err(BackendError { place: None, kind: TroubleKind::Damaged(what) })
    })
}

/// The message of a panic.
pub(super) fn said(panic: &(dyn Any + Send)) -> &str {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_trouble() {
        let is_disk_full = |kind: io::ErrorKind| {
            let failure = BackendError::from(redb::Error::Io(kind.into())).into_failure(Path::new("f"));
            let Failure::Io(failure) = failure else { panic!("{failure}") };
            failure.is_disk_full()
        };
        assert!(is_disk_full(io::ErrorKind::StorageFull));
        assert!(!is_disk_full(io::ErrorKind::Other));
    }

    #[test]
    fn a_database_that_has_stopped_or_is_closed_is_not_damaged() {
        for error in [redb::Error::PreviousIo, redb::Error::DatabaseClosed] {
            assert!(BackendError::from(error).is_io());
        }
        assert!(!BackendError::from(redb::Error::Io(io::ErrorKind::UnexpectedEof.into())).is_io());
    }

    #[test]
    fn a_panic_inside_is_damage_with_its_words() {
        let caught: Result<(), _> = catch_backend_panic(|| panic!("page {} is odd", 7));
        let failure = caught.err().unwrap().into_failure(Path::new("f"));
        assert!(failure.to_string().contains("page 7 is odd"), "{failure}");
    }
}
