//! `BeginRequest`: one begin of a batch.

use crate::Fingerprint;

/// The most calls in one batch.
pub(crate) const CALLS_MAX: usize = 16_384;

/// One begin of a batch. The key's `as_ref` was called once, before anything else, because it is
/// application code. Later in the batch it could panic while claims exist, or return other bytes.
#[derive(Clone, Copy)]
pub(crate) struct BeginRequest<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) fingerprint: &'a Fingerprint,
}

impl<'a> BeginRequest<'a> {
    pub(crate) fn all<K: AsRef<[u8]>>(requests: &'a [(K, Fingerprint)]) -> Vec<Self> {
        requests.iter().map(|(key, fingerprint)| Self { key: key.as_ref(), fingerprint }).collect()
    }
}
