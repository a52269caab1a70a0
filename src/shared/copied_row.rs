//! `CopiedRow`: a key of a file as a row of a shared store.

use super::columns::{Params, signed};
use super::row::RowState;
use crate::attempt::Attempt;
use crate::attempt::progress::Progress;
use crate::clock::millis;
use crate::engine::common::names::KeyNames;
use crate::record::{Outcome, Record};
use crate::sync::Arc;
use crate::{KeyHash, Timestamp};

/// The columns in the order of [`params`].
pub(super) const INSERT: &str = "INSERT INTO {S}.keys (digest, nonce, fence, attempt, state, started_ms, ttl_ms, \
      remembered_ms, unresolved_ms, lease_ms, gone_ms, completed_ms, expires_ms, interrupted_ms, e_fence, e_attempt, \
      e_started_ms, e_interrupted_ms, outcome, returned, body_kept, fingerprint, scope, key, progress, body) \
    SELECT r.digest, gen_random_uuid(), r.fence, r.attempt, r.state, r.started_ms, r.ttl_ms, r.remembered_ms, \
      r.unresolved_ms, r.lease_ms, r.gone_ms, r.completed_ms, r.expires_ms, r.interrupted_ms, r.e_fence, r.e_attempt, \
      r.e_started_ms, r.e_interrupted_ms, r.outcome, r.returned, r.body_kept, r.fingerprint, r.scope, r.key, r.progress, \
      r.body \
    FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::smallint[], $5::bigint[], $6::bigint[], $7::bigint[], \
      $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::int[], \
      $16::bigint[], $17::bigint[], $18::smallint[], $19::bool[], $20::bool[], $21::bytea[], $22::bytea[], $23::bytea[], \
      $24::bytea[], $25::bytea[]) \
    r(digest, fence, attempt, state, started_ms, ttl_ms, remembered_ms, unresolved_ms, lease_ms, gone_ms, completed_ms, \
      expires_ms, interrupted_ms, e_fence, e_attempt, e_started_ms, e_interrupted_ms, outcome, returned, body_kept, \
      fingerprint, scope, key, progress, body)";

/// What is added to times of the file's clock, in ms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shift(pub(super) i64);

impl Shift {
    fn time(self, at: Timestamp) -> i64 {
        signed(at.as_millis()).saturating_add(self.0).max(0)
    }
}

/// A key with its result, its tombstone, or its interruption.
#[derive(Debug)]
pub(super) struct CopiedRow {
    names: KeyNames,
    state: RowState,
    fence: i64,
    attempt: i32,
    started: i64,
    ttl: i64,
    remembered: i64,
    unresolved: Option<i64>,
    lease: Option<i64>,
    gone: Option<i64>,
    completed: Option<i64>,
    expires: Option<i64>,
    interrupted: Option<i64>,
    earlier: Option<EarlierColumns>,
    outcome: Option<i16>,
    returned: bool,
    has_body: bool,
    progress: Option<Progress>,
}

#[derive(Debug)]
struct EarlierColumns {
    fence: i64,
    attempt: i32,
    started: i64,
    interrupted: i64,
}

impl CopiedRow {
    /// A result, or what is remembered of it once it is no longer replayed.
    pub(super) fn of_record(record: Record, is_replayed: bool, shift: Shift) -> Self {
        let since = |at: Timestamp| signed(millis(at.saturating_since(record.completed())));
        Self {
            state: RowState::Done,
            fence: signed(record.fence().get()),
            attempt: small(record.attempt()),
            started: shift.time(record.started()),
            ttl: since(record.expires()),
            remembered: since(record.remembered_until()),
            unresolved: None,
            lease: None,
            gone: Some(shift.time(record.remembered_until())),
            completed: Some(shift.time(record.completed())),
            expires: Some(shift.time(record.expires())),
            interrupted: None,
            earlier: None,
            outcome: Some(match record.outcome() {
                Outcome::Success => 1,
                Outcome::Failure => 2,
            }),
            returned: false,
            has_body: is_replayed && record.is_body_kept(),
            progress: None,
            names: KeyNames::Record(record),
        }
    }

    /// An interruption; `None` while it has no date. A claim that was handed over has none for a
    /// moment after its lease.
    pub(super) fn of_attempt(attempt: Arc<Attempt>, shift: Shift) -> Option<Self> {
        let interrupted = shift.time(attempt.interrupted()?);
        let gone = attempt.remembered_until();
        Some(Self {
            state: RowState::Interrupted,
            fence: signed(attempt.fence.get()),
            attempt: small(attempt.number),
            started: shift.time(attempt.started),
            ttl: signed(attempt.retention.ttl_ms()),
            remembered: signed(attempt.retention.remembered_ms()),
            unresolved: attempt.unresolved_ttl.map(millis).map(signed),
            lease: attempt.lease.map(millis).map(signed),
            gone: (gone.as_millis() < u64::MAX).then(|| shift.time(gone)),
            completed: None,
            expires: None,
            interrupted: Some(interrupted),
            earlier: attempt.earlier.map(|earlier| EarlierColumns {
                fence: signed(earlier.info.fence.get()),
                attempt: small(earlier.info.attempt),
                started: shift.time(earlier.info.started),
                interrupted: shift.time(earlier.interrupted_at),
            }),
            outcome: None,
            returned: attempt.is_returned(),
            has_body: false,
            progress: attempt.progress(),
            names: KeyNames::Attempt(attempt),
        })
    }

    pub(super) fn is_result(&self) -> bool {
        matches!(self.names, KeyNames::Record(_))
    }

    pub(super) fn key(&self) -> &[u8] {
        self.names.key()
    }

    pub(super) fn key_hash(&self) -> KeyHash {
        self.names.digest().key_hash()
    }

    /// How many bytes progress and body have.
    pub(super) fn bytes(&self) -> usize {
        self.body().or(self.progress.as_deref()).map_or(0, <[u8]>::len)
    }

    fn body(&self) -> Option<&[u8]> {
        match &self.names {
            KeyNames::Record(record) => self.has_body.then(|| record.body()),
            KeyNames::Attempt(_) => None,
        }
    }

    fn fingerprint(&self) -> &[u8] {
        match &self.names {
            KeyNames::Attempt(attempt) => attempt.fingerprint.as_bytes(),
            KeyNames::Record(record) => record.fingerprint().as_bytes(),
        }
    }
}

fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The parameters of [`INSERT`].
pub(super) fn params(rows: &[CopiedRow]) -> Params<'_> {
    let earlier = |of: fn(&EarlierColumns) -> i64| rows.iter().map(move |row| row.earlier.as_ref().map(of));
    Params::default()
        .ids(rows.iter().map(|row| row.names.digest().as_u128()))
        .numbers(rows.iter().map(|row| Some(row.fence)))
        .ints(rows.iter().map(|row| Some(row.attempt)))
        .smalls(rows.iter().map(|row| Some(row.state.code())))
        .numbers(rows.iter().map(|row| Some(row.started)))
        .numbers(rows.iter().map(|row| Some(row.ttl)))
        .numbers(rows.iter().map(|row| Some(row.remembered)))
        .numbers(rows.iter().map(|row| row.unresolved))
        .numbers(rows.iter().map(|row| row.lease))
        .numbers(rows.iter().map(|row| row.gone))
        .numbers(rows.iter().map(|row| row.completed))
        .numbers(rows.iter().map(|row| row.expires))
        .numbers(rows.iter().map(|row| row.interrupted))
        .numbers(earlier(|of| of.fence))
        .ints(rows.iter().map(|row| row.earlier.as_ref().map(|of| of.attempt)))
        .numbers(earlier(|of| of.started))
        .numbers(earlier(|of| of.interrupted))
        .smalls(rows.iter().map(|row| row.outcome))
        .bools(rows.iter().map(|row| row.returned))
        .bools(rows.iter().map(|row| row.has_body))
        .bytes(rows.iter().map(|row| Some(row.fingerprint())))
        .bytes(rows.iter().map(|row| Some(row.names.scope())))
        .bytes(rows.iter().map(|row| Some(row.key())))
        .bytes(rows.iter().map(|row| row.progress.as_deref()))
        .bytes(rows.iter().map(CopiedRow::body))
}
