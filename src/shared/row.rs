//! `KeyRow`: a key's row as it came back, and what it is to the state machine.

use std::time::Duration;

use tokio_postgres::types::FromSql;

use super::any_row::RowRef;
use super::columns::Id;
use crate::attempt::interruption::{AttemptInfo, Earlier, Interruption};
use crate::attempt::progress::{Budget, Progress};
use crate::error::{FailureKind, StoreFailure};
use crate::key::Digest;
use crate::record::retention::Retention;
use crate::record::tombstone::Tombstone;
use crate::record::{Outcome, Record, RecordParts};
use crate::state::{Facts, Fence, Lifetime, State};
use crate::status::Status;
use crate::sync::Arc;
use crate::{Fingerprint, Timestamp};

/// The state of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowState {
    InFlight = 1,
    Interrupted = 2,
    Done = 3,
    /// Released or forgotten. The row stays for a while, so that a repeated statement finds out
    /// what became of the first.
    Vacated = 4,
}

impl RowState {
    pub(super) fn code(self) -> i16 {
        match self {
            Self::InFlight => 1,
            Self::Interrupted => 2,
            Self::Done => 3,
            Self::Vacated => 4,
        }
    }
}

/// A key's row.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column")]
pub(super) struct KeyRow {
    pub(super) state: RowState,
    /// Of the begin that granted the claim.
    pub(super) nonce: u128,
    pub(super) fence: Fence,
    pub(super) attempt: u32,
    pub(super) fingerprint: Fingerprint,
    /// The end of the claim's lease, or of its session.
    pub(super) lease: Timestamp,
    pub(super) started: Timestamp,
    /// When the row is no longer remembered; `None` if never.
    pub(super) gone: Option<Timestamp>,
    completed: Timestamp,
    expires: Timestamp,
    interrupted: Option<Timestamp>,
    pub(super) retention: Retention,
    pub(super) unresolved: Option<Duration>,
    pub(super) lease_for: Option<Duration>,
    earlier: Option<Earlier>,
    outcome: Outcome,
    /// Another process waits for the claim.
    pub(super) wanted: bool,
    /// The claim was released, but an earlier attempt may have had an effect.
    returned: bool,
    /// It is being forgotten, so no process takes it into its memory.
    pub(super) is_leaving: bool,
    body_kept: bool,
    scope: Vec<u8>,
    key: Vec<u8>,
    /// The claim belongs to no session: it was handed over.
    pub(super) is_free: bool,
    pub(super) progress: Option<Vec<u8>>,
    body: Option<Vec<u8>>,
    /// Progress and body were left out, because others filled the answer.
    pub(super) is_cut: bool,
}

/// Reads columns one after the other.
pub(super) struct Columns<'a> {
    row: RowRef<'a>,
    at: usize,
}

impl<'a> Columns<'a> {
    pub(super) fn new(row: impl Into<RowRef<'a>>) -> Self {
        Self { row: row.into(), at: 0 }
    }

    pub(super) fn take<T: FromSql<'a>>(&mut self) -> Result<T, StoreFailure> {
        let value = self.row.value(self.at).map_err(|error| damaged(&error))?;
        self.at += 1;
        Ok(value)
    }

    /// Passes over a column.
    pub(super) fn skip(&mut self) {
        self.at += 1;
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreFailure> {
        let value: i64 = self.take()?;
        u64::try_from(value).or(Err(damaged("a number is below zero")))
    }

    pub(super) fn number_or_none(&mut self) -> Result<Option<u64>, StoreFailure> {
        let value: Option<i64> = self.take()?;
        value.map(u64::try_from).transpose().or(Err(damaged("a number is below zero")))
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, StoreFailure> {
        self.number().map(Timestamp::from_millis)
    }

    fn time_or_none(&mut self) -> Result<Option<Timestamp>, StoreFailure> {
        Ok(self.number_or_none()?.map(Timestamp::from_millis))
    }

    fn span_or_none(&mut self) -> Result<Option<Duration>, StoreFailure> {
        Ok(self.number_or_none()?.map(Duration::from_millis))
    }
}

pub(super) fn damaged(what: &str) -> StoreFailure {
    StoreFailure::new(FailureKind::Damaged, what)
}

const NO_END: Timestamp = Timestamp::from_millis(u64::MAX);

impl KeyRow {
    /// `None` if there is no row.
    pub(super) fn read(columns: &mut Columns<'_>) -> Result<Option<Self>, StoreFailure> {
        let state: Option<i16> = columns.take()?;
        let Some(state) = state else { return Ok(None) };
        let state = match state {
            1 => RowState::InFlight,
            2 => RowState::Interrupted,
            3 => RowState::Done,
            4 => RowState::Vacated,
            other => return Err(damaged(&format!("the state {other} is unknown"))),
        };
        let Id(nonce) = columns.take()?;
        let fence = Fence::new(columns.number()?);
        let attempt = attempt(columns.take()?)?;
        let fingerprint: &[u8] = columns.take()?;
        let fingerprint = fingerprint.try_into().or(Err(damaged("a fingerprint has not 32 bytes")))?;
        let (lease, started) = (columns.time()?, columns.time()?);
        let gone = columns.time_or_none()?;
        let completed = columns.time_or_none()?.unwrap_or_default();
        let expires = columns.time_or_none()?.unwrap_or_default();
        let interrupted = columns.time_or_none()?;
        let retention = Retention::from_millis(columns.number()?, columns.number()?);
        let (unresolved, lease_for) = (columns.span_or_none()?, columns.span_or_none()?);
        let earlier = Self::read_earlier(columns)?;
        let outcome: Option<i16> = columns.take()?;
        Ok(Some(Self {
            state,
            nonce,
            fence,
            attempt,
            fingerprint: Fingerprint::from_bytes(fingerprint),
            lease,
            started,
            gone,
            completed,
            expires,
            interrupted,
            retention,
            unresolved,
            lease_for,
            earlier,
            outcome: if outcome == Some(2) { Outcome::Failure } else { Outcome::Success },
            wanted: columns.take()?,
            returned: columns.take()?,
            is_leaving: columns.take()?,
            body_kept: columns.take()?,
            scope: columns.take()?,
            key: columns.take()?,
            is_free: columns.take()?,
            progress: columns.take()?,
            body: columns.take()?,
            is_cut: columns.take()?,
        }))
    }

    fn read_earlier(columns: &mut Columns<'_>) -> Result<Option<Earlier>, StoreFailure> {
        let fence = columns.number_or_none()?;
        let number: Option<i32> = columns.take()?;
        let (started, interrupted) = (columns.time_or_none()?, columns.time_or_none()?);
        let (Some(fence), Some(number), Some(started), Some(interrupted_at)) =
            (fence, number, started, interrupted)
        else {
            return Ok(None);
        };
        let info = AttemptInfo { fence: Fence::new(fence), attempt: attempt(number)?, started };
        Ok(Some(Earlier { info, interrupted_at }))
    }

    /// Refuses the row of another key with the same digest.
    pub(super) fn check_names(&self, scope: &[u8], key: &[u8]) -> Result<(), StoreFailure> {
        if self.scope == scope && self.key == key {
            return Ok(());
        }
        Err(damaged("the row belongs to another key"))
    }

    fn facts(&self) -> Facts<'_> {
        Facts { fence: self.fence, attempt: self.attempt, fingerprint: &self.fingerprint }
    }

    /// What the row is to the state machine.
    pub(super) fn state(&self) -> State<'_> {
        match self.state {
            RowState::InFlight => State::InFlight(self.facts(), self.lease),
            RowState::Interrupted => State::Interrupted(self.facts(), self.gone.unwrap_or(NO_END)),
            RowState::Done => State::Done(self.facts(), self.lifetime()),
            RowState::Vacated => State::Vacant,
        }
    }

    /// What the row will be once the lease that is over has made it interrupted.
    pub(super) fn lapsed(&self, now: Timestamp) -> State<'_> {
        State::Interrupted(self.facts(), self.remembered_until(now).unwrap_or(NO_END))
    }

    /// Until when the interruption is remembered; of a claim whose lease is over, if it is found
    /// now. `None` without an end.
    pub(super) fn remembered_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state {
            RowState::InFlight => self.unresolved.map(|time| now.saturating_add(time)),
            RowState::Interrupted | RowState::Done | RowState::Vacated => self.gone,
        }
    }

    pub(super) fn info(&self) -> AttemptInfo {
        AttemptInfo { fence: self.fence, attempt: self.attempt, started: self.started }
    }

    /// The attempt that may have had an effect. A claim whose lease is over counts as interrupted
    /// since the end of its lease.
    pub(super) fn as_earlier(&self) -> Earlier {
        self.earlier.filter(|_| self.returned).unwrap_or_else(|| Earlier {
            info: self.info(),
            interrupted_at: self.interrupted.unwrap_or(self.lease),
        })
    }

    pub(super) fn interruption(&self, budget: &Arc<Budget>) -> Interruption {
        Interruption {
            earlier: self.as_earlier(),
            fingerprint: self.fingerprint,
            progress: self.progress.as_deref().map(|bytes| Progress::new(bytes, budget)),
        }
    }

    /// How many bytes progress and body have.
    pub(super) fn bytes(&self) -> usize {
        let of = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        of(&self.progress) + of(&self.body)
    }

    /// Scope and key.
    pub(super) fn names(&self) -> (&[u8], &[u8]) {
        (&self.scope, &self.key)
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.state == RowState::InFlight
    }

    /// Whether it shows how the attempt with this fence ended: it was interrupted, or completed by
    /// its holder. A row of another first attempt does not, nor one that was vacated.
    pub(super) fn shows_end_of(&self, fence: Fence) -> bool {
        match self.state {
            _ if self.fence != fence => self.earlier.is_some_and(|earlier| earlier.info.fence() == fence),
            RowState::Done | RowState::Interrupted => true,
            RowState::InFlight | RowState::Vacated => false,
        }
    }

    /// Whether its attempt is the first of a key that was vacant.
    pub(super) fn is_of_vacant_key(&self) -> bool {
        self.attempt == 1 && self.earlier.is_none()
    }

    /// Whether its claim was given back, rather than lost.
    pub(super) fn was_returned(&self) -> bool {
        self.returned
    }

    /// When the interruption that stands was, for a claim that may be withdrawn.
    pub(super) fn interrupted_at(&self) -> Timestamp {
        self.interrupted.unwrap_or(self.lease)
    }

    fn lifetime(&self) -> Lifetime {
        let remembered_until = self.gone.unwrap_or(NO_END).max(self.expires);
        Lifetime { expires: self.expires, remembered_until }
    }

    /// The earlier attempt that the claim in this row stands on.
    pub(super) fn stands_on(&self) -> Option<Earlier> {
        self.earlier
    }

    pub(super) fn record(&self, digest: Digest) -> Record {
        let record = Record::new(
            &RecordParts {
                digest,
                scope: &self.scope,
                key: &self.key,
                fingerprint: self.fingerprint,
                fence: self.fence,
                attempt: self.attempt,
                outcome: self.outcome,
                started: self.started,
                completed: self.completed,
                lifetime: self.lifetime(),
                body_kept: self.body_kept,
                body: self.body.as_deref().unwrap_or_default(),
            },
            None,
        );
        record.set_durable();
        record
    }

    pub(super) fn status(&self, digest: Digest, now: Timestamp, budget: &Arc<Budget>) -> Status {
        let is_over = |at: Option<Timestamp>| at.is_some_and(|at| now >= at);
        match self.state {
            RowState::InFlight if now >= self.lease => Status::Interrupted(self.interruption(budget)),
            RowState::InFlight => Status::InFlight(self.info()),
            RowState::Interrupted | RowState::Done if is_over(self.gone) => Status::Vacant,
            RowState::Interrupted => Status::Interrupted(self.interruption(budget)),
            RowState::Done if now >= self.expires => Status::Expired(Tombstone::of(&self.record(digest))),
            RowState::Done => Status::Done(self.record(digest)),
            RowState::Vacated => Status::Vacant,
        }
    }
}

fn attempt(number: i32) -> Result<u32, StoreFailure> {
    u32::try_from(number).or(Err(damaged("an attempt's number is below zero")))
}
