//! What a completed key holds.

use std::fmt;
use std::ops::Deref;

use triomphe::ThinArc;

use crate::key::Digest;
use crate::state::{Facts, Fence, Lifetime};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::{Fingerprint, Timestamp};

/// How an operation ended. Both kinds are replayed alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Outcome {
    /// [`Claim::complete`](crate::Claim::complete).
    Success,
    /// [`Claim::fail`](crate::Claim::fail): a failure that a retry must get again.
    Failure,
}

/// Where a record lies in the store: the number of its block, and its offset there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place(u64);

impl Place {
    const OFFSET_BITS: u32 = 16;
    /// Offsets in a block lie below this; only a block's first entry may be larger than that.
    pub(crate) const OFFSET_LIMIT: usize = 1 << Self::OFFSET_BITS;
    /// Blocks are numbered below this.
    pub(crate) const BLOCK_LIMIT: u64 = 1 << (64 - Self::OFFSET_BITS);

    pub(crate) fn new(block: u64, offset: u16) -> Self {
        Self(block << Self::OFFSET_BITS | u64::from(offset))
    }

    pub(crate) fn block(self) -> u64 {
        self.0 >> Self::OFFSET_BITS
    }

    #[expect(clippy::cast_possible_truncation, reason = "the mask leaves 16 bits")]
    pub(crate) fn offset(self) -> usize {
        usize::from((self.0 & (Self::OFFSET_LIMIT as u64 - 1)) as u16)
    }
}

/// The fixed part of a record. What a lookup needs comes first, so that it shares a cache line with the
/// reference count.
#[repr(C)]
struct Header {
    expires: Timestamp,
    fingerprint: Fingerprint,
    remembered_until: Timestamp,
    /// Set by lookups, cleared by the eviction hand as it passes.
    touched: AtomicBool,
    /// Whether it would survive a crash.
    durable: AtomicBool,
    outcome: Outcome,
    body_kept: bool,
    scope_len: u16,
    key_len: u16,
    /// `Place` in the store, or `NOT_STORED`. Written once, by the checkpoint that stored it.
    place: AtomicU64,
    attempt: u32,
    fence: Fence,
    digest: Digest,
    started: Timestamp,
    completed: Timestamp,
}

const NOT_STORED: u64 = u64::MAX;

/// The stored result of an operation. Cheap to clone: all clones share one allocation.
///
/// ```
/// # use idemkv::{Begin, Engine, Fingerprint, Outcome};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// # if let Begin::Fresh(claim) = engine.begin("key", Fingerprint::of("request"))? {
/// let record = claim.complete("reply")?;
/// assert_eq!(record.outcome(), Outcome::Success);
/// assert_eq!(record.body(), b"reply");
/// assert_eq!(record.attempt(), 1);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Record(ThinArc<Header, u8>);

/// All that makes a record, by name.
pub(crate) struct RecordParts<'a> {
    pub(crate) digest: Digest,
    pub(crate) scope: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) fingerprint: Fingerprint,
    pub(crate) fence: Fence,
    pub(crate) attempt: u32,
    pub(crate) outcome: Outcome,
    pub(crate) started: Timestamp,
    pub(crate) completed: Timestamp,
    pub(crate) lifetime: Lifetime,
    /// Whether `body` is the reply, and not the nothing that is left of it.
    pub(crate) body_kept: bool,
    pub(crate) body: &'a [u8],
}

impl Record {
    /// # Panics
    ///
    /// Where scope or key are longer than 65,535 bytes; callers have checked both.
    pub(crate) fn new(parts: &RecordParts<'_>, place: Option<Place>) -> Self {
        let short =
            |len: usize| u16::try_from(len).unwrap_or_else(|_| unreachable!("names are at most 4,096 bytes"));
        let header = Header {
            expires: parts.lifetime.expires,
            fingerprint: parts.fingerprint,
            remembered_until: parts.lifetime.remembered_until,
            place: AtomicU64::new(place.map_or(NOT_STORED, |place| place.0)),
            touched: AtomicBool::new(true),
            durable: AtomicBool::new(place.is_some()),
            outcome: parts.outcome,
            body_kept: parts.body_kept,
            scope_len: short(parts.scope.len()),
            key_len: short(parts.key.len()),
            attempt: parts.attempt,
            fence: parts.fence,
            digest: parts.digest,
            started: parts.started,
            completed: parts.completed,
        };
        // Body first: it is what a replay reads.
        let mut tail = Vec::with_capacity(parts.body.len() + parts.scope.len() + parts.key.len());
        tail.extend_from_slice(parts.body);
        tail.extend_from_slice(parts.scope);
        tail.extend_from_slice(parts.key);
        Self(ThinArc::from_header_and_slice(header, &tail))
    }

    /// Success or failure.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.header.header.outcome
    }

    /// The same record without its body, not stored anywhere yet: all that is left of it when it is no longer replayed.
    pub(crate) fn without_body(&self) -> Self {
        Self::new(&RecordParts { body_kept: false, body: &[], ..self.parts() }, None)
    }

    /// The stored reply; empty where it was [not kept](Self::is_body_kept).
    #[must_use]
    #[inline]
    pub fn body(&self) -> &[u8] {
        self.split().0
    }

    /// Whether the reply was stored. `false` where the claim was ended with
    /// [`Completion::discard_body`](crate::Completion::discard_body).
    #[must_use]
    pub fn is_body_kept(&self) -> bool {
        self.0.header.header.body_kept
    }

    /// The stored reply as an owned buffer that shares this record's memory; see [`Body`].
    #[must_use]
    pub fn into_body(self) -> Body {
        Body(self)
    }

    /// The fingerprint of the request that ran.
    #[must_use]
    #[inline]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.0.header.header.fingerprint
    }

    /// Which attempt completed: 1 unless earlier ones were interrupted.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.header.header.attempt
    }

    /// The fence of the claim that completed.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.0.header.header.fence
    }

    /// Whether the record is durable by now, in the way the file was opened for. Always, but for one that was acknowledged early; see
    /// [`Durability::Relaxed`](crate::Durability::Relaxed).
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.0.header.header.durable.load(Ordering::Acquire)
    }

    pub(crate) fn set_durable(&self) {
        self.0.header.header.durable.store(true, Ordering::Release);
    }

    /// When the claim was granted.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.0.header.header.started
    }

    /// When the claim was completed or failed.
    #[must_use]
    pub fn completed(&self) -> Timestamp {
        self.0.header.header.completed
    }

    /// When the record stops being replayed: completion plus the TTL.
    #[must_use]
    #[inline]
    pub fn expires(&self) -> Timestamp {
        self.0.header.header.expires
    }

    /// Until when the key is remembered: not before [`expires`](Self::expires), and later where a
    /// [tombstone](crate::Options::tombstone_ttl) stays behind.
    #[must_use]
    #[inline]
    pub fn remembered_until(&self) -> Timestamp {
        self.0.header.header.remembered_until
    }

    #[inline]
    pub(crate) fn lifetime(&self) -> Lifetime {
        let header = &self.0.header.header;
        Lifetime { expires: header.expires, remembered_until: header.remembered_until }
    }

    /// The idempotency key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.split().2
    }

    /// The name of the key's scope; empty for the default scope.
    #[must_use]
    pub fn scope(&self) -> &[u8] {
        self.split().1
    }

    /// Body, scope, key.
    fn split(&self) -> (&[u8], &[u8], &[u8]) {
        let header = &self.0.header.header;
        let names = usize::from(header.scope_len) + usize::from(header.key_len);
        let (body, names) = self.0.slice.split_at(self.0.slice.len() - names);
        let (scope, key) = names.split_at(usize::from(header.scope_len));
        (body, scope, key)
    }

    pub(crate) fn digest(&self) -> Digest {
        self.0.header.header.digest
    }

    #[inline]
    pub(crate) fn facts(&self) -> Facts<'_> {
        let header = &self.0.header.header;
        Facts { fence: header.fence, attempt: header.attempt, fingerprint: &header.fingerprint }
    }

    pub(crate) fn parts(&self) -> RecordParts<'_> {
        let header = &self.0.header.header;
        let (body, scope, key) = self.split();
        RecordParts {
            digest: header.digest,
            scope,
            key,
            fingerprint: header.fingerprint,
            fence: header.fence,
            attempt: header.attempt,
            outcome: header.outcome,
            started: header.started,
            completed: header.completed,
            lifetime: self.lifetime(),
            body_kept: header.body_kept,
            body,
        }
    }

    /// Bytes of memory this record holds.
    pub(crate) fn footprint(&self) -> usize {
        size_of::<Header>() + 2 * size_of::<usize>() + self.0.slice.len()
    }

    /// Where the store holds this record; `None` until a checkpoint has stored it.
    pub(crate) fn place(&self) -> Option<Place> {
        match self.0.header.header.place.load(Ordering::Acquire) {
            NOT_STORED => None,
            place => Some(Place(place)),
        }
    }

    pub(crate) fn set_place(&self, place: Place) {
        self.0.header.header.place.store(place.0, Ordering::Release);
    }

    /// Reads from the lines that a replay needs, for nothing but to have them in the cache.
    #[inline]
    pub(crate) fn warm(&self) -> u64 {
        let header = &self.0.header.header;
        let body = self.0.slice.first().copied().unwrap_or_default();
        header.expires.as_millis() ^ u64::from(header.touched.load(Ordering::Relaxed)) ^ u64::from(body)
    }

    /// Notes that a lookup wanted this record.
    #[inline]
    pub(crate) fn touch(&self) {
        let touched = &self.0.header.header.touched;
        // Read first: a line that is only read can be shared between processors.
        if !touched.load(Ordering::Relaxed) {
            touched.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a lookup wanted this record since the last call.
    pub(crate) fn take_touch(&self) -> bool {
        self.0.header.header.touched.swap(false, Ordering::Relaxed)
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("outcome", &self.outcome())
            .field("body_len", &self.body().len())
            .field("body_kept", &self.is_body_kept())
            .field("fingerprint", self.fingerprint())
            .field("attempt", &self.attempt())
            .field("started", &self.started())
            .field("completed", &self.completed())
            .field("expires", &self.expires())
            .field("remembered_until", &self.remembered_until())
            .finish_non_exhaustive()
    }
}

/// A record's body as an owned, shared buffer: no copy is made on the way into a response.
///
/// It is `AsRef<[u8]> + Send + 'static`, which is all that `bytes::Bytes` asks of an owner:
///
/// ```
/// # use idemkv::{Begin, Engine, Fingerprint};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// # let Begin::Fresh(claim) = engine.begin("key", Fingerprint::of("request"))? else { panic!() };
/// let record = claim.complete("reply")?;
/// let at = record.body().as_ptr();
/// let bytes = bytes::Bytes::from_owner(record.into_body());
/// assert_eq!(bytes, "reply");
/// assert_eq!(bytes.as_ptr(), at); // the same memory
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Body(Record);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.body()
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.body()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_what_went_in() {
        let parts = RecordParts {
            digest: Digest::from_u128(9),
            scope: b"scope",
            key: b"key",
            fingerprint: Fingerprint::of("request"),
            fence: Fence::new(4),
            attempt: 2,
            outcome: Outcome::Failure,
            started: Timestamp::from_millis(1),
            completed: Timestamp::from_millis(2),
            lifetime: Lifetime {
                expires: Timestamp::from_millis(3),
                remembered_until: Timestamp::from_millis(4),
            },
            body_kept: true,
            body: b"body",
        };
        let record = Record::new(&parts, None);
        assert_eq!((record.body(), record.scope(), record.key()), (&b"body"[..], &b"scope"[..], &b"key"[..]));
        assert_eq!(
            (record.outcome(), record.attempt(), record.fence()),
            (Outcome::Failure, 2, Fence::new(4))
        );
        assert_eq!((record.expires().as_millis(), record.remembered_until().as_millis()), (3, 4));
        assert_eq!(record.place(), None);
        record.set_place(Place::new(77, 65_535));
        let place = record.place().unwrap();
        assert_eq!((place.block(), place.offset()), (77, 65_535));
        assert!(record.take_touch() && !record.take_touch());

        let small = record.without_body();
        assert_eq!((small.body(), small.scope(), small.key()), (&b""[..], &b"scope"[..], &b"key"[..]));
        assert!(record.is_body_kept() && !small.is_body_kept());
        assert_eq!((small.facts(), small.lifetime()), (record.facts(), record.lifetime()));
        assert_eq!(small.place(), None);
    }

    #[test]
    fn what_a_lookup_needs_lies_in_the_first_cache_line() {
        // The reference count takes the first eight bytes of the allocation.
        assert!(8 + std::mem::offset_of!(Header, remembered_until) + 8 <= 64);
        assert!(8 + std::mem::offset_of!(Header, touched) < 64);
    }
}
