//! A group of ends: holders complete, fail, release, give up, renew or note on their claims.

use crate::clock::Timestamp;
use crate::error::StoreFailure;
use crate::key::Digest;
use crate::record::Outcome;
use crate::record::retention::Retention;
use crate::shared::columns::{Params, signed};
use crate::shared::row::{Columns, RowState};
use crate::shared::sql::{Kind, Shape};
use crate::shared::statement::{Ask, Statement};
use crate::state::Fence;
use crate::sync::Arc;

/// A change of a claim's row by its holder. It happens if the row still has nonce and fence and is
/// in flight.
#[derive(Clone, Debug)]
pub(in crate::shared) struct EndAsk {
    pub(in crate::shared) digest: Digest,
    pub(in crate::shared) nonce: u128,
    /// `None` for a grant of which only the nonce is known.
    pub(in crate::shared) fence: Option<Fence>,
    to: RowState,
    /// Whether it is refused once the lease is over.
    is_checked: bool,
    result: Option<(Outcome, Arc<[u8]>, bool)>,
    ttl_ms: i64,
    gone_after_ms: Option<i64>,
    gone_at_ms: Option<i64>,
    interrupted_at_ms: Option<i64>,
    returned: bool,
    attempt: Option<i32>,
    progress: Option<Arc<[u8]>>,
    hold: Hold,
}

/// What becomes of the hold on a claim that stays in flight.
#[derive(Clone, Copy, Debug)]
enum Hold {
    Stays = 0,
    /// The lease starts again.
    Renewed = 1,
    /// The claim stands by its lease alone, as one that was handed over.
    HandedBack = 2,
}

/// An interruption that a claim stands on, which its withdrawal restores.
#[derive(Clone, Copy, Debug)]
pub(in crate::shared) struct Standing {
    /// The number of the attempt before.
    pub(in crate::shared) attempt: u32,
    pub(in crate::shared) interrupted_at: Timestamp,
    pub(in crate::shared) gone: Option<Timestamp>,
}

impl EndAsk {
    fn new(digest: Digest, nonce: u128, fence: Option<Fence>, to: RowState) -> Self {
        Self {
            digest,
            nonce,
            fence,
            to,
            is_checked: true,
            result: None,
            ttl_ms: 0,
            gone_after_ms: None,
            gone_at_ms: None,
            interrupted_at_ms: None,
            returned: false,
            attempt: None,
            progress: None,
            hold: Hold::Stays,
        }
    }

    pub(in crate::shared) fn complete(
        (digest, nonce, fence): (Digest, u128, Fence),
        outcome: Outcome,
        body: Arc<[u8]>,
        keeps_body: bool,
        retention: Retention,
    ) -> Self {
        Self {
            result: Some((outcome, body, keeps_body)),
            ttl_ms: signed(retention.ttl_ms()),
            gone_after_ms: Some(signed(retention.remembered_ms())),
            ..Self::new(digest, nonce, Some(fence), RowState::Done)
        }
    }

    /// The operation certainly did not happen, in this attempt or any other.
    pub(in crate::shared) fn vacate((digest, nonce, fence): (Digest, u128, Fence), gone_ms: i64) -> Self {
        Self { gone_after_ms: Some(gone_ms), ..Self::new(digest, nonce, Some(fence), RowState::Vacated) }
    }

    /// This attempt certainly had no effect, but one before it may have had one.
    pub(in crate::shared) fn give_back(
        (digest, nonce, fence): (Digest, u128, Fence),
        unresolved_ms: Option<i64>,
    ) -> Self {
        Self {
            gone_after_ms: unresolved_ms,
            returned: true,
            ..Self::new(digest, nonce, Some(fence), RowState::Interrupted)
        }
    }

    /// The claim ended without an outcome.
    pub(in crate::shared) fn abandon(
        (digest, nonce, fence): (Digest, u128, Fence),
        unresolved_ms: Option<i64>,
    ) -> Self {
        Self {
            is_checked: false,
            gone_after_ms: unresolved_ms,
            ..Self::new(digest, nonce, Some(fence), RowState::Interrupted)
        }
    }

    /// The claim never reached its caller: the key becomes what it was.
    pub(in crate::shared) fn withdraw(
        digest: Digest,
        nonce: u128,
        standing: Option<Standing>,
        gone_ms: i64,
    ) -> Self {
        let Some(standing) = standing else {
            return Self {
                is_checked: false,
                gone_after_ms: Some(gone_ms),
                ..Self::new(digest, nonce, None, RowState::Vacated)
            };
        };
        Self {
            is_checked: false,
            returned: true,
            attempt: i32::try_from(standing.attempt).ok(),
            interrupted_at_ms: Some(signed(standing.interrupted_at.as_millis())),
            gone_at_ms: standing.gone.map(|gone| signed(gone.as_millis())),
            ..Self::new(digest, nonce, None, RowState::Interrupted)
        }
    }

    /// Nothing was done with the claim: the key is interrupted as before.
    pub(in crate::shared) fn put_back(
        (digest, nonce, fence): (Digest, u128, Fence),
        standing: Standing,
    ) -> Self {
        let back = Self::withdraw(digest, nonce, Some(standing), 0);
        Self { fence: Some(fence), is_checked: true, ..back }
    }

    pub(in crate::shared) fn save_progress(
        (digest, nonce, fence): (Digest, u128, Fence),
        progress: Arc<[u8]>,
    ) -> Self {
        Self { progress: Some(progress), ..Self::new(digest, nonce, Some(fence), RowState::InFlight) }
    }

    /// Starts the lease again.
    pub(in crate::shared) fn renew((digest, nonce, fence): (Digest, u128, Fence)) -> Self {
        Self { hold: Hold::Renewed, ..Self::new(digest, nonce, Some(fence), RowState::InFlight) }
    }

    /// The claim was resumed, but did not reach its caller: any holder of its token may resume it.
    pub(in crate::shared) fn hand_back((digest, nonce, fence): (Digest, u128, Fence)) -> Self {
        Self {
            is_checked: false,
            hold: Hold::HandedBack,
            ..Self::new(digest, nonce, Some(fence), RowState::InFlight)
        }
    }

    pub(in crate::shared) fn params<'a>(
        asks: impl Iterator<Item = &'a Self> + Clone,
        shape: Shape,
    ) -> Params<'a> {
        let result = || asks.clone().map(|ask| ask.result.as_ref());
        Params::of(shape)
            .ids(asks.clone().map(|ask| ask.digest.as_u128()))
            .ids(asks.clone().map(|ask| ask.nonce))
            .numbers(asks.clone().map(|ask| ask.fence.map(|fence| signed(fence.get()))))
            .smalls(asks.clone().map(|ask| Some(ask.to.code())))
            .bools(asks.clone().map(|ask| ask.is_checked))
            .smalls(result().map(|result| result.map(|(outcome, _, _)| code(*outcome))))
            .bytes(result().map(|result| result.map(|(_, body, _)| &**body)))
            .bools(result().map(|result| result.is_some_and(|(_, _, keeps)| *keeps)))
            .numbers(asks.clone().map(|ask| Some(ask.ttl_ms)))
            .numbers(asks.clone().map(|ask| ask.gone_after_ms))
            .numbers(asks.clone().map(|ask| ask.gone_at_ms))
            .numbers(asks.clone().map(|ask| ask.interrupted_at_ms))
            .bools(asks.clone().map(|ask| ask.returned))
            .ints(asks.clone().map(|ask| ask.attempt))
            .bytes(asks.clone().map(|ask| ask.progress.as_deref()))
            .smalls(asks.map(|ask| Some(ask.hold as i16)))
    }

    fn size(&self) -> usize {
        let body = self.result.as_ref().map_or(0, |(_, body, _)| body.len());
        128 + body + self.progress.as_ref().map_or(0, |progress| progress.len())
    }
}

pub(in crate::shared) fn code(outcome: Outcome) -> i16 {
    match outcome {
        Outcome::Success => 1,
        Outcome::Failure => 2,
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column")]
pub(in crate::shared) struct Ended {
    pub(in crate::shared) now: Timestamp,
    pub(in crate::shared) is_done: bool,
    /// Another process waits for the claim.
    pub(in crate::shared) is_wanted: bool,
    /// A transaction has the row, so that it was passed over.
    pub(in crate::shared) is_locked: bool,
    /// The key has a row.
    pub(in crate::shared) is_there: bool,
}

impl Ended {
    pub(in crate::shared) fn read(columns: &mut Columns<'_>) -> Result<Self, StoreFailure> {
        Ok(Self {
            now: columns.time()?,
            is_done: columns.take()?,
            is_wanted: columns.take()?,
            is_locked: columns.take()?,
            is_there: columns.take()?,
        })
    }
}

impl Statement for EndAsk {
    type Answer = Ended;

    const IS_ONE_A_KEY: bool = true;

    const KIND: Kind = Kind::End;

    fn digest(&self) -> Digest {
        self.digest
    }

    fn bytes(&self) -> usize {
        self.size()
    }

    fn no_answer() -> Result<Ended, StoreFailure> {
        let now = Timestamp::default();
        Ok(Ended { now, is_done: false, is_wanted: false, is_locked: false, is_there: true })
    }

    fn params(group: &[Ask<Self>], shape: Shape) -> Params<'_> {
        Self::params(group.iter().map(|ask| &ask.what), shape)
    }

    fn is_wanted(answer: &Ended) -> bool {
        answer.is_done && answer.is_wanted
    }

    fn answer(columns: &mut Columns<'_>) -> Result<Ended, StoreFailure> {
        Ended::read(columns)
    }
}

/// The same, but it passes over a row that a transaction has locked.
#[derive(Clone, Debug)]
pub(in crate::shared) struct GentleEnd(pub(in crate::shared) EndAsk);

impl Statement for GentleEnd {
    type Answer = Ended;

    const IS_ONE_A_KEY: bool = true;

    const KIND: Kind = Kind::GentleEnd;

    fn digest(&self) -> Digest {
        self.0.digest
    }

    fn bytes(&self) -> usize {
        self.0.size()
    }

    fn params(group: &[Ask<Self>], shape: Shape) -> Params<'_> {
        EndAsk::params(group.iter().map(|ask| &ask.what.0), shape)
    }

    fn is_wanted(answer: &Ended) -> bool {
        answer.is_done && answer.is_wanted
    }

    fn answer(columns: &mut Columns<'_>) -> Result<Ended, StoreFailure> {
        Ended::read(columns)
    }
}
