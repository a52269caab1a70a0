//! `CopiedRow`: a key of a file as a row of a shared store.

use super::columns::{Params, signed};
use super::row::RowState;
use crate::Timestamp;
use crate::attempt::Attempt;
use crate::attempt::interruption::Earlier;
use crate::attempt::progress::Progress;
use crate::clock::millis;
use crate::engine::common::names::KeyNames;
use crate::record::Outcome;

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

/// A key with its result, its tombstone, or its interruption.
#[derive(Debug)]
pub(super) struct CopiedRow {
    names: KeyNames,
    /// A result with a body that is still replayed.
    has_body: bool,
    /// Of an interruption.
    progress: Option<Progress>,
}

impl CopiedRow {
    pub(super) fn new(names: KeyNames, is_replayed: bool) -> Self {
        let (has_body, progress) = match &names {
            KeyNames::Attempt(attempt) => (false, attempt.progress()),
            KeyNames::Record(record) => (is_replayed && record.is_body_kept(), None),
        };
        Self { names, has_body, progress }
    }

    pub(super) fn is_result(&self) -> bool {
        matches!(self.names, KeyNames::Record(_))
    }

    pub(super) fn key(&self) -> &[u8] {
        self.names.key()
    }

    /// How many bytes progress and body have.
    pub(super) fn bytes(&self) -> usize {
        self.body().or(self.progress()).map_or(0, <[u8]>::len)
    }

    fn body(&self) -> Option<&[u8]> {
        match &self.names {
            KeyNames::Record(record) => self.has_body.then(|| record.body()),
            KeyNames::Attempt(_) => None,
        }
    }

    fn progress(&self) -> Option<&[u8]> {
        self.progress.as_deref()
    }

    fn attempt(&self) -> Option<&Attempt> {
        match &self.names {
            KeyNames::Attempt(attempt) => Some(attempt),
            KeyNames::Record(_) => None,
        }
    }

    fn earlier(&self) -> Option<&Earlier> {
        self.attempt()?.earlier.as_ref()
    }

    /// How long the key's record is replayed and remembered, counted from its completion.
    fn retention_ms(&self) -> (u64, u64) {
        match &self.names {
            KeyNames::Attempt(attempt) => (attempt.retention.ttl_ms(), attempt.retention.remembered_ms()),
            KeyNames::Record(record) => {
                let since = |at: Timestamp| millis(at.saturating_since(record.completed()));
                (since(record.expires()), since(record.remembered_until()))
            }
        }
    }

    fn fence(&self) -> u64 {
        match &self.names {
            KeyNames::Attempt(attempt) => attempt.fence.get(),
            KeyNames::Record(record) => record.fence().get(),
        }
    }

    fn number(&self) -> u32 {
        match &self.names {
            KeyNames::Attempt(attempt) => attempt.number,
            KeyNames::Record(record) => record.attempt(),
        }
    }

    fn started(&self) -> Timestamp {
        match &self.names {
            KeyNames::Attempt(attempt) => attempt.started,
            KeyNames::Record(record) => record.started(),
        }
    }

    fn fingerprint(&self) -> &[u8] {
        match &self.names {
            KeyNames::Attempt(attempt) => attempt.fingerprint.as_bytes(),
            KeyNames::Record(record) => record.fingerprint().as_bytes(),
        }
    }

    fn of_record<T>(&self, of: impl FnOnce(&crate::Record) -> T) -> Option<T> {
        match &self.names {
            KeyNames::Record(record) => Some(of(record)),
            KeyNames::Attempt(_) => None,
        }
    }

    /// Until when the key is remembered; `None` without an end.
    fn gone(&self) -> Option<i64> {
        let until = match &self.names {
            KeyNames::Attempt(attempt) => attempt.remembered_until(),
            KeyNames::Record(record) => record.remembered_until(),
        };
        (until.as_millis() < u64::MAX).then(|| time(until))
    }
}

fn time(at: Timestamp) -> i64 {
    signed(at.as_millis())
}

fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The parameters of [`INSERT`].
pub(super) fn params(rows: &[CopiedRow]) -> Params<'_> {
    let of_attempt = |row: &CopiedRow, of: fn(&Attempt) -> Option<i64>| row.attempt().and_then(of);
    let of_earlier = |row: &CopiedRow, of: fn(&Earlier) -> i64| row.earlier().map(of);
    let state = |row: &CopiedRow| if row.is_result() { RowState::Done } else { RowState::Interrupted };
    let outcome = |row: &CopiedRow| {
        row.of_record(|record| match record.outcome() {
            Outcome::Success => 1,
            Outcome::Failure => 2,
        })
    };
    Params::default()
        .ids(rows.iter().map(|row| row.names.digest().as_u128()))
        .numbers(rows.iter().map(|row| Some(signed(row.fence()))))
        .ints(rows.iter().map(|row| Some(small(row.number()))))
        .smalls(rows.iter().map(|row| Some(state(row).code())))
        .numbers(rows.iter().map(|row| Some(time(row.started()))))
        .numbers(rows.iter().map(|row| Some(signed(row.retention_ms().0))))
        .numbers(rows.iter().map(|row| Some(signed(row.retention_ms().1))))
        .numbers(rows.iter().map(|row| of_attempt(row, |of| of.unresolved_ttl.map(millis).map(signed))))
        .numbers(rows.iter().map(|row| of_attempt(row, |of| of.lease.map(millis).map(signed))))
        .numbers(rows.iter().map(CopiedRow::gone))
        .numbers(rows.iter().map(|row| row.of_record(|record| time(record.completed()))))
        .numbers(rows.iter().map(|row| row.of_record(|record| time(record.expires()))))
        .numbers(rows.iter().map(|row| of_attempt(row, |of| of.interrupted().map(time))))
        .numbers(rows.iter().map(|row| of_earlier(row, |of| signed(of.info.fence.get()))))
        .ints(rows.iter().map(|row| row.earlier().map(|of| small(of.info.attempt))))
        .numbers(rows.iter().map(|row| of_earlier(row, |of| time(of.info.started))))
        .numbers(rows.iter().map(|row| of_earlier(row, |of| time(of.interrupted_at))))
        .smalls(rows.iter().map(outcome))
        .bools(rows.iter().map(|row| row.attempt().is_some_and(Attempt::is_returned)))
        .bools(rows.iter().map(|row| row.body().is_some()))
        .bytes(rows.iter().map(|row| Some(row.fingerprint())))
        .bytes(rows.iter().map(|row| Some(row.names.scope())))
        .bytes(rows.iter().map(|row| Some(row.key())))
        .bytes(rows.iter().map(CopiedRow::progress))
        .bytes(rows.iter().map(CopiedRow::body))
}
