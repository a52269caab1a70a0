//! `Completion`: what the end of a claim may say about its record.

use std::time::Duration;

use crate::error::OptionError;
use crate::record::retention::Retention;

/// Says whether the body of a result is kept, and for how long the record is kept; for
/// [`Claim::complete_with`](crate::Claim::complete_with) and
/// [`Claim::fail_with`](crate::Claim::fail_with). The scope's policy decides the rest.
///
/// ```
/// # use idemkv::{Begin, Completion, Engine, Fingerprint};
/// # use std::time::Duration;
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// # let Begin::Fresh(claim) = engine.default_scope().begin("key", Fingerprint::of("request"))? else { panic!() };
/// let minute = Duration::from_secs(60);
/// // Try again in a minute, though the engine's TTL is longer.
/// let record = claim.fail_with("overloaded", Completion::new().ttl(minute))?;
/// assert_eq!(record.expires().saturating_since(record.completed()), minute);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it says something to `complete_with` or `fail_with` only"]
pub struct Completion {
    ttl: Option<Duration>,
    tombstone_ttl: Option<Duration>,
    discard_body: bool,
}

impl Completion {
    /// Everything as the policy says under which the claim was granted.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long this record is replayed. 1 ms to 100 years. The key is remembered for at least as
    /// long. A [tombstone](crate::Options::tombstone_ttl) follows if the policy has tombstones.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How long the key of this record is remembered, also counted from its completion. At least
    /// the record's TTL, which means no tombstone; at most 100 years.
    pub fn tombstone_ttl(mut self, ttl: Duration) -> Self {
        self.tombstone_ttl = Some(ttl);
        self
    }

    /// Stores no body. Retries learn that the operation has run and how it ended, and
    /// [`Record::is_body_kept`](crate::Record::is_body_kept) is `false`. For replies that are too
    /// large, that must not be stored, or that are available elsewhere.
    pub fn discard_body(mut self) -> Self {
        self.discard_body = true;
        self
    }

    pub(crate) fn keeps_body(self) -> bool {
        !self.discard_body
    }

    /// How long the record is kept; `otherwise` is the default.
    pub(crate) fn retention(self, otherwise: Retention) -> Result<Retention, OptionError> {
        otherwise.with(self.ttl, self.tombstone_ttl)
    }
}
