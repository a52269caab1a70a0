//! The scope and key of a live key, in the memory that has them already.

use crate::attempt::Attempt;
use crate::key::Digest;
use crate::record::Record;
use crate::sync::Arc;

/// Where the scope and key of a live key are kept.
#[derive(Debug)]
pub(crate) enum KeyNames {
    Record(Record),
    Attempt(Arc<Attempt>),
}

impl KeyNames {
    pub(crate) fn scope(&self) -> &[u8] {
        match self {
            Self::Record(record) => record.scope(),
            Self::Attempt(attempt) => attempt.scope(),
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Record(record) => record.key(),
            Self::Attempt(attempt) => attempt.key(),
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Record(record) => record.digest(),
            Self::Attempt(attempt) => attempt.digest,
        }
    }
}
