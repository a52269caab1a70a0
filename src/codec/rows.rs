//! Rows: the fields of log entries and of the store's rows.

use bincode::enc::Encoder;
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use bincode::{BorrowDecode, Encode};

use super::bad_bytes::BadBytes;
use super::names::check_names;
use super::run::Run;
use crate::key::Digest;
use crate::record::{Outcome, Record, RecordParts};
use crate::state::{Fence, Lifetime};
use crate::{Fingerprint, Timestamp};

/// A claim as it was granted.
#[derive(Clone, Debug, PartialEq, BorrowDecode)]
pub(crate) struct IntentRow<'a> {
    pub(crate) digest: u128,
    pub(crate) scope: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) fingerprint: [u8; 32],
    pub(crate) fence: u64,
    pub(crate) attempt: u32,
    pub(crate) started_ms: u64,
    pub(crate) ttl_ms: u64,
    pub(crate) remembered_ms: u64,
    /// The attempt before this one, if it was interrupted.
    pub(crate) earlier: Option<EarlierRow>,
    pub(crate) lease_ms: Option<u64>,
    /// How long it is remembered once interrupted; `None` until it is resolved or forgotten.
    pub(crate) unresolved_ms: Option<u64>,
}

/// A claim in the store: its intent, and the facts since. The log has an entry for each of these
/// facts.
#[derive(Clone, Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct ClaimRow<'a> {
    pub(crate) intent: IntentRow<'a>,
    /// When the claim died, if it did.
    pub(crate) interrupted_ms: Option<u64>,
    /// The claim was released without an effect; only the earlier attempt may have had one.
    pub(crate) returned: bool,
    /// The claim was handed over as a token: until when it is good although no process holds it,
    /// and the opening in which that was done.
    pub(crate) detached: Option<(u64, u64)>,
    pub(crate) progress: Option<&'a [u8]>,
}

/// The progress of a claim.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct ProgressRow<'a> {
    pub(crate) digest: u128,
    pub(crate) fence: u64,
    pub(crate) bytes: &'a [u8],
}

/// A claim that was handed over as a token.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct DetachedRow {
    pub(crate) digest: u128,
    pub(crate) fence: u64,
    /// Until when it is good; zero once it was resumed and dropped.
    pub(crate) until_ms: u64,
    /// The salt of the opening in which it was handed over.
    pub(crate) opening: u64,
}

/// A claim, as a token names it.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct TokenRow<'a> {
    pub(crate) file_id: [u8; 16],
    pub(crate) digest: u128,
    pub(crate) fence: u64,
    /// The salt of the opening in which the claim was handed over.
    pub(crate) opening: u64,
    pub(crate) scope: &'a [u8],
}

/// A scope and its policy.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct ScopeRow<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) policy: PolicyRow,
}

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub(crate) struct PolicyRow {
    pub(crate) ttl_ms: u64,
    pub(crate) tombstone_ms: Option<u64>,
    pub(crate) refuse: bool,
    pub(crate) unresolved_ms: Option<u64>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) lease_ms: Option<u64>,
    pub(crate) intents: bool,
    pub(crate) relaxed_ms: Option<u64>,
    pub(crate) max_in_flight: Option<u32>,
}

/// An earlier attempt that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, BorrowDecode)]
pub(crate) struct EarlierRow {
    pub(crate) fence: u64,
    pub(crate) attempt: u32,
    pub(crate) started_ms: u64,
    pub(crate) interrupted_ms: u64,
}

/// A record without the digest of its key. Every lookup of it has the digest already.
///
/// Each time is a span from the one before, which needs few bytes. Spans wrap, so a row can hold
/// any times, even senseless ones.
#[derive(Debug, PartialEq, BorrowDecode)]
pub(crate) struct CompletionRow<'a> {
    pub(crate) scope: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) fingerprint: [u8; 32],
    pub(crate) fence: u64,
    pub(crate) attempt: u32,
    pub(crate) failed: bool,
    pub(crate) started_ms: u64,
    /// From the start to the completion.
    pub(crate) took_ms: u64,
    /// From the completion until the body expires.
    pub(crate) ttl_ms: u64,
    /// From then until the key is no longer remembered.
    pub(crate) tombstone_ms: u64,
    pub(crate) body_kept: bool,
    pub(crate) body: &'a [u8],
}

/// A key that is vacant again.
#[derive(Clone, Copy, Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct VacatedRow {
    pub(crate) digest: u128,
    pub(crate) fence: u64,
    /// For a forgotten record: until when it would have been remembered.
    pub(crate) forgotten_until_ms: Option<u64>,
}

/// As derived, in fewer instructions: see [`Run`].
impl Encode for IntentRow<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        // Without `..`, so that a field that is added is not forgotten here.
        #[rustfmt::skip]
        let Self {
            digest, scope, key, fingerprint, fence, attempt, started_ms,
            ttl_ms, remembered_ms, earlier, lease_ms, unresolved_ms,
        } = *self;
        let (writer, mut run) = (encoder.writer(), Run::new());
        run.number(digest).length_of(scope).write(writer)?;
        writer.write(scope)?;
        run.length_of(key).write(writer)?;
        writer.write(key)?;
        run.put(&fingerprint).number(fence).number(attempt).number(started_ms);
        run.number(ttl_ms).number(remembered_ms).flag(earlier.is_some());
        if let Some(EarlierRow { fence, attempt, started_ms, interrupted_ms }) = earlier {
            run.number(fence).number(attempt).number(started_ms).number(interrupted_ms);
        }
        run.option(lease_ms).option(unresolved_ms).write(writer)
    }
}

/// As derived, in fewer instructions: see [`Run`].
impl Encode for CompletionRow<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        #[rustfmt::skip]
        let Self {
            scope, key, fingerprint, fence, attempt, failed,
            started_ms, took_ms, ttl_ms, tombstone_ms, body_kept, body,
        } = *self;
        let (writer, mut run) = (encoder.writer(), Run::new());
        run.length_of(scope).write(writer)?;
        writer.write(scope)?;
        run.length_of(key).write(writer)?;
        writer.write(key)?;
        run.put(&fingerprint).number(fence).number(attempt).flag(failed).number(started_ms);
        run.number(took_ms).number(ttl_ms).number(tombstone_ms).flag(body_kept);
        run.length_of(body).write(writer)?;
        writer.write(body)
    }
}

impl<'a> From<&'a Record> for CompletionRow<'a> {
    fn from(record: &'a Record) -> Self {
        let parts = record.parts();
        let [started, completed, expires, remembered_until] =
            [parts.started, parts.completed, parts.lifetime.expires, parts.lifetime.remembered_until]
                .map(Timestamp::as_millis);
        Self {
            scope: parts.scope,
            key: parts.key,
            fingerprint: *parts.fingerprint.as_bytes(),
            fence: parts.fence.get(),
            attempt: parts.attempt,
            failed: parts.outcome == Outcome::Failure,
            started_ms: started,
            took_ms: completed.wrapping_sub(started),
            ttl_ms: expires.wrapping_sub(completed),
            tombstone_ms: remembered_until.wrapping_sub(expires),
            body_kept: parts.body_kept,
            body: parts.body,
        }
    }
}

impl<'a> CompletionRow<'a> {
    /// The same record without its body.
    pub(crate) fn without_body(self) -> Self {
        Self { body_kept: false, body: &[], ..self }
    }

    pub(crate) fn parts(&self, digest: Digest) -> Result<RecordParts<'a>, BadBytes> {
        check_names(self.scope, self.key)?;
        let completed = self.started_ms.wrapping_add(self.took_ms);
        let expires = completed.wrapping_add(self.ttl_ms);
        let remembered_until = expires.wrapping_add(self.tombstone_ms);
        if remembered_until < expires || (!self.body_kept && !self.body.is_empty()) {
            return Err(BadBytes("a record that contradicts itself".to_owned()));
        }
        Ok(RecordParts {
            digest,
            scope: self.scope,
            key: self.key,
            fingerprint: Fingerprint::from_bytes(self.fingerprint),
            fence: Fence::new(self.fence),
            attempt: self.attempt,
            outcome: if self.failed { Outcome::Failure } else { Outcome::Success },
            started: Timestamp::from_millis(self.started_ms),
            completed: Timestamp::from_millis(completed),
            lifetime: Lifetime {
                expires: Timestamp::from_millis(expires),
                remembered_until: Timestamp::from_millis(remembered_until),
            },
            body_kept: self.body_kept,
            body: self.body,
        })
    }
}
