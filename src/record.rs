//! `Record`: the stored result of an operation, with its times.

mod body;
mod location;
mod outcome;
mod rest;
pub(crate) mod retention;
pub(crate) mod tombstone;

pub use body::Body;
pub(crate) use location::{RecordLocation, Relocation};
pub use outcome::Outcome;

use std::fmt;

use triomphe::ThinArc;

use crate::key::Digest;
use crate::state::{Facts, Fence, Lifetime, is_replayed};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::{Fingerprint, KeyHash, Timestamp};
use rest::{REST, Rest};

/// The fields of a record that lookups read, and those that change. With the reference count in
/// front they fill one cache line. The length and the body follow, so a replay of a short body
/// reads two neighbouring lines.
#[repr(C)]
struct Header {
    expires: Timestamp,
    fingerprint: Fingerprint,
    /// Set by lookups, cleared by the eviction hand as it passes.
    touched: AtomicBool,
    /// Whether the record would survive a crash.
    durable: AtomicBool,
    outcome: Outcome,
    body_kept: bool,
    scope_len: u16,
    key_len: u16,
    /// `Place` in the store, or `NOT_STORED`. Written once, by the checkpoint that stored it.
    place: AtomicU64,
}

const NOT_STORED: u64 = u64::MAX;

/// The stored result of an operation. Cheap to clone: all clones share one allocation.
///
/// ```
/// # use idemkv::{Begin, Engine, Fingerprint, Outcome};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// # if let Begin::Fresh(claim) = engine.default_scope().begin("key", Fingerprint::of("request"))? {
/// let record = claim.complete("reply")?;
/// assert_eq!(record.outcome(), Outcome::Success);
/// assert_eq!(record.body(), b"reply");
/// assert_eq!(record.attempt(), 1);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Record(ThinArc<Header, u8>);

/// Joins the parts and passes them to `then`; short ones without an allocation.
fn joined<R>(parts: &[&[u8]], then: impl FnOnce(&[u8]) -> R) -> R {
    let mut short = [0; 512];
    let mut free = short.as_mut_slice();
    for part in parts {
        let Some((to, rest)) = free.split_at_mut_checked(part.len()) else { return then(&parts.concat()) };
        to.copy_from_slice(part);
        free = rest;
    }
    let left = free.len();
    then(short.split_at(short.len() - left).0)
}

/// The parts of a record, by name.
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
    /// Whether `body` is the reply; `false` if it was not kept and `body` is empty.
    pub(crate) body_kept: bool,
    pub(crate) body: &'a [u8],
}

#[cfg(test)]
impl RecordParts<'static> {
    /// A simple record for tests: a success of the key "key", replayed until 9,000 ms.
    pub(crate) fn example(fence: u64) -> Self {
        let end = Timestamp::from_millis(9_000);
        Self {
            digest: Digest::from_u128(7),
            scope: b"",
            key: b"key",
            fingerprint: Fingerprint::of(""),
            fence: Fence::new(fence),
            attempt: 1,
            outcome: Outcome::Success,
            started: Timestamp::default(),
            completed: Timestamp::default(),
            lifetime: Lifetime { expires: end, remembered_until: end },
            body_kept: true,
            body: b"body",
        }
    }
}

impl Record {
    /// # Panics
    ///
    /// If scope or key are longer than 65,535 bytes; callers have checked both.
    pub(crate) fn new(parts: &RecordParts<'_>, place: Option<RecordLocation>) -> Self {
        let short =
            |len: usize| u16::try_from(len).unwrap_or_else(|_| unreachable!("names are at most 4,096 bytes"));
        let header = Header {
            expires: parts.lifetime.expires,
            fingerprint: parts.fingerprint,
            place: AtomicU64::new(place.map_or(NOT_STORED, |place| place.0)),
            touched: AtomicBool::new(true),
            durable: AtomicBool::new(place.is_some()),
            outcome: parts.outcome,
            body_kept: parts.body_kept,
            scope_len: short(parts.scope.len()),
            key_len: short(parts.key.len()),
        };
        let rest = Rest {
            remembered_until: parts.lifetime.remembered_until,
            digest: parts.digest,
            fence: parts.fence,
            attempt: parts.attempt,
            started: parts.started,
            completed: parts.completed,
        };
        let tail = [parts.body, parts.scope, parts.key, &rest.to_bytes()];
        Self(joined(&tail, |tail| ThinArc::from_header_and_slice(header, tail)))
    }

    /// A copy in its own allocation. If the original gets a location later, the copy does not
    /// learn it.
    pub(crate) fn to_copy(&self) -> Self {
        let copy = Self::new(&self.parts(), self.location());
        if self.is_durable() {
            copy.set_durable();
        }
        copy
    }

    /// Whether the two share their memory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.as_ptr() == other.0.as_ptr()
    }

    /// Success or failure.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.header.header.outcome
    }

    /// The same record without its body, not stored anywhere yet: its tombstone.
    pub(crate) fn without_body(&self) -> Self {
        Self::new(&RecordParts { body_kept: false, body: &[], ..self.parts() }, None)
    }

    /// The same record without its body, which is only on disk.
    pub(crate) fn without_body_at(&self, place: RecordLocation) -> Self {
        let left = self.without_body();
        left.set_durable();
        left.set_location(place);
        left
    }

    /// A copy that is not stored anywhere yet, for a new block.
    pub(crate) fn to_be_moved(&self) -> Self {
        let copy = Self::new(&self.parts(), None);
        copy.set_durable();
        copy
    }

    /// The stored reply; empty where it was [not kept](Self::is_body_kept).
    #[must_use]
    #[inline]
    pub fn body(&self) -> &[u8] {
        self.split().0
    }

    /// Whether the reply was stored. `false` if the claim was ended with
    /// [`Completion::discard_body`](crate::Completion::discard_body).
    #[must_use]
    pub fn is_body_kept(&self) -> bool {
        self.0.header.header.body_kept
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
        self.rest().attempt
    }

    /// The fence of the claim that completed.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.rest().fence
    }

    /// Whether the record is durable by now. Only a record that was acknowledged early may not
    /// be; see [`Durability::Relaxed`](crate::Durability::Relaxed).
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
        self.rest().started
    }

    /// When the claim was completed or failed.
    #[must_use]
    pub fn completed(&self) -> Timestamp {
        self.rest().completed
    }

    /// When the record stops being replayed: completion plus the TTL.
    #[must_use]
    #[inline]
    pub fn expires(&self) -> Timestamp {
        self.0.header.header.expires
    }

    /// Until when the key is remembered: at or after [`expires`](Self::expires), later if there
    /// is a [tombstone](crate::Options::tombstone_ttl).
    #[must_use]
    #[inline]
    pub fn remembered_until(&self) -> Timestamp {
        self.rest().remembered_until
    }

    #[inline]
    pub(crate) fn lifetime(&self) -> Lifetime {
        Lifetime { expires: self.expires(), remembered_until: self.remembered_until() }
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

    /// A short name of the key for logs.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        self.digest().key_hash()
    }

    /// Body, scope, key.
    fn split(&self) -> (&[u8], &[u8], &[u8]) {
        let header = &self.0.header.header;
        let names = usize::from(header.scope_len) + usize::from(header.key_len);
        let (body, behind) = self.0.slice.split_at(self.0.slice.len() - REST - names);
        let (scope, behind) = behind.split_at(usize::from(header.scope_len));
        (body, scope, behind.split_at(usize::from(header.key_len)).0)
    }

    fn rest(&self) -> Rest {
        let Some(bytes) = self.0.slice.last_chunk() else {
            unreachable!("every record is made with its rest")
        };
        Rest::from_bytes(bytes)
    }

    /// Whether it answers this request now: see [`is_replayed`].
    #[inline]
    pub(crate) fn is_replayed(&self, asked: &Fingerprint, now: Timestamp) -> bool {
        let header = &self.0.header.header;
        is_replayed(&header.fingerprint, header.expires, asked, now)
    }

    pub(crate) fn digest(&self) -> Digest {
        self.rest().digest
    }

    #[inline]
    pub(crate) fn facts(&self) -> Facts<'_> {
        let rest = self.rest();
        Facts { fence: rest.fence, attempt: rest.attempt, fingerprint: self.fingerprint() }
    }

    pub(crate) fn parts(&self) -> RecordParts<'_> {
        let (header, rest) = (&self.0.header.header, self.rest());
        let (body, scope, key) = self.split();
        RecordParts {
            digest: rest.digest,
            scope,
            key,
            fingerprint: header.fingerprint,
            fence: rest.fence,
            attempt: rest.attempt,
            outcome: header.outcome,
            started: rest.started,
            completed: rest.completed,
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
    pub(crate) fn location(&self) -> Option<RecordLocation> {
        match self.0.header.header.place.load(Ordering::Acquire) {
            NOT_STORED => None,
            place => Some(RecordLocation(place)),
        }
    }

    pub(crate) fn set_location(&self, place: RecordLocation) {
        self.0.header.header.place.store(place.0, Ordering::Release);
    }

    /// Reads the cache lines that a replay needs, only to bring them into the cache.
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

/// In short, and without key and body.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.digest().key_hash())
            .field("outcome", &self.outcome())
            .field("body_len", &self.body().len())
            .field("attempt", &self.attempt())
            .field("completed_ms", &self.completed().as_millis())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> RecordParts<'static> {
        RecordParts {
            scope: b"scope",
            attempt: 2,
            outcome: Outcome::Failure,
            started: Timestamp::from_millis(1),
            completed: Timestamp::from_millis(2),
            lifetime: Lifetime {
                expires: Timestamp::from_millis(3),
                remembered_until: Timestamp::from_millis(4),
            },
            ..RecordParts::example(4)
        }
    }

    #[test]
    fn a_record_gives_back_what_went_in() {
        let record = Record::new(&parts(), None);
        assert_eq!((record.body(), record.scope(), record.key()), (&b"body"[..], &b"scope"[..], &b"key"[..]));
        assert_eq!(
            (record.outcome(), record.attempt(), record.fence()),
            (Outcome::Failure, 2, Fence::new(4))
        );
        assert_eq!((record.expires().as_millis(), record.remembered_until().as_millis()), (3, 4));
        assert_eq!(record.location(), None);
        record.set_location(RecordLocation::new(77, 65_535));
        let place = record.location().unwrap();
        assert_eq!((place.block(), place.offset()), (77, 65_535));
        assert!(record.take_touch() && !record.take_touch());

        let small = record.without_body();
        assert_eq!((small.body(), small.scope(), small.key()), (&b""[..], &b"scope"[..], &b"key"[..]));
        assert!(record.is_body_kept() && !small.is_body_kept());
        assert_eq!((small.facts(), small.lifetime()), (record.facts(), record.lifetime()));
        assert_eq!(small.location(), None);
        let moved = record.to_be_moved();
        assert_eq!(
            (moved.body(), moved.lifetime(), moved.location()),
            (record.body(), record.lifetime(), None)
        );
        assert!(moved.is_durable());
    }

    #[test]
    fn what_a_lookup_needs_is_one_cache_line_and_the_body_follows() {
        assert_eq!((align_of::<Header>(), size_of::<Header>()), (8, 56));
        let record = Record::new(&parts(), None);
        let at = std::ptr::from_ref(&record.0.header.header).addr();
        assert_eq!(record.body().as_ptr().addr() - at, 56 + size_of::<usize>());
    }
}
