//! `AttemptParts`: the fields of an attempt.

use std::time::Duration;

use super::interruption::Earlier;
use super::progress::Progress;
use super::{Attempt, ReplacedInterruption};
use crate::key::Digest;
use crate::record::retention::Retention;
use crate::state::Fence;
use crate::{Fingerprint, Timestamp};

/// The fields of an attempt, by name.
pub(crate) struct AttemptParts<'a> {
    pub(crate) digest: Digest,
    pub(crate) scope: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) fence: Fence,
    pub(crate) number: u32,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) started: Timestamp,
    pub(crate) retention: Retention,
    pub(crate) lease: Option<Duration>,
    pub(crate) unresolved_ttl: Option<Duration>,
    pub(crate) earlier: Option<Earlier>,
    pub(crate) progress: Option<Progress>,
    /// The interruption that the key gets back if the grant is withdrawn.
    pub(crate) replaced: Option<ReplacedInterruption>,
    /// Bytes of log that are reserved for the end of a claim that its caller does not have yet.
    pub(crate) undelivered_bytes: u64,
}

impl AttemptParts<'static> {
    /// A bare attempt, for a claim of which only key and fence matter.
    pub(crate) fn bare(digest: Digest, fence: Fence) -> Self {
        Self {
            digest,
            scope: &[],
            key: &[],
            fence,
            number: 0,
            fingerprint: Fingerprint::from_bytes([0; 32]),
            started: Timestamp::default(),
            retention: Retention::NONE,
            lease: None,
            unresolved_ttl: None,
            earlier: None,
            progress: None,
            replaced: None,
            undelivered_bytes: 0,
        }
    }

    /// A simple attempt for tests: the first claim of the key "key".
    #[cfg(test)]
    pub(crate) fn example(fence: u64) -> Self {
        let bare = Self::bare(Digest::from_u128(7), Fence::new(fence));
        Self { key: b"key", number: 1, fingerprint: Fingerprint::of(""), ..bare }
    }
}

/// In short, and without the key.
impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt")
            .field("key", &self.digest.key_hash())
            .field("number", &self.number)
            .field("fence", &self.fence.get())
            .finish_non_exhaustive()
    }
}
