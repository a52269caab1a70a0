//! A group of grants on keys that have a row: takeovers, later attempts, and keys used again.

use super::begin::Terms;
use crate::attempt::interruption::Earlier;
use crate::error::StoreFailure;
use crate::key::Digest;
use crate::shared::columns::{Params, signed};
use crate::shared::row::{Columns, RowState};
use crate::shared::sql::{Kind, Shape};
use crate::shared::statement::{Ask, Statement};
use crate::state::Fence;
use crate::{Fingerprint, Timestamp};

/// A grant. It happens if the row still has the fence and the state that the caller saw; and, of
/// a row in flight, if its lease is over by the server's clock.
pub(in crate::shared) struct GrantAsk {
    pub(in crate::shared) digest: Digest,
    pub(in crate::shared) nonce: u128,
    pub(in crate::shared) fingerprint: Fingerprint,
    pub(in crate::shared) terms: Terms,
    pub(in crate::shared) seen: (Fence, RowState),
    pub(in crate::shared) attempt: u32,
    pub(in crate::shared) earlier: Option<Earlier>,
}

/// What came of it.
pub(in crate::shared) struct Granted {
    pub(in crate::shared) now: Timestamp,
    pub(in crate::shared) is_alive: bool,
    pub(in crate::shared) policies: i64,
    pub(in crate::shared) fence: Option<Fence>,
    /// Other processes waited for the claim that was over.
    pub(in crate::shared) is_wanted: bool,
    /// As many claims of the scope are in flight as may be.
    pub(in crate::shared) is_full: bool,
}

fn number(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

impl Statement for GrantAsk {
    type Answer = Granted;

    /// Of twins the update takes one: it changes a row once, and says for which call.
    const IS_ONE_A_KEY: bool = false;

    const KIND: Kind = Kind::Grant;

    fn digest(&self) -> Digest {
        self.digest
    }

    fn bytes(&self) -> usize {
        192
    }

    fn params(group: &[Ask<Self>], shape: Shape) -> Params<'_> {
        Self::params_of(&group.iter().map(|ask| &ask.what), shape)
    }

    fn answer(columns: &mut Columns<'_>) -> Result<Granted, StoreFailure> {
        Ok(Granted {
            now: columns.time()?,
            is_alive: columns.take()?,
            policies: columns.take()?,
            fence: columns.number_or_none()?.map(Fence::new),
            is_wanted: columns.take()?,
            is_full: false,
        })
    }

    fn is_wanted(granted: &Granted) -> bool {
        granted.is_wanted
    }
}

impl GrantAsk {
    pub(in crate::shared) fn params_of<'a>(
        asks: &(impl Iterator<Item = &'a Self> + Clone),
        shape: Shape,
    ) -> Params<'a> {
        let numbers = |of: fn(&Self) -> i64| asks.clone().map(move |ask| Some(of(ask)));
        let earlier =
            |of: fn(&Earlier) -> u64| asks.clone().map(move |ask| ask.earlier.as_ref().map(of).map(signed));
        Params::of(shape)
            .numbers(numbers(|ask| ask.terms.session))
            .numbers(numbers(|ask| ask.terms.policies))
            .ids(asks.clone().map(|ask| ask.digest.as_u128()))
            .ids(asks.clone().map(|ask| ask.nonce))
            .bytes(asks.clone().map(|ask| Some(&ask.fingerprint.as_bytes()[..])))
            .numbers(numbers(|ask| ask.terms.ttl_ms()))
            .numbers(numbers(|ask| ask.terms.remembered_ms()))
            .numbers(asks.clone().map(|ask| ask.terms.unresolved_ms()))
            .numbers(asks.clone().map(|ask| ask.terms.lease_ms()))
            .numbers(numbers(|ask| signed(ask.seen.0.get())))
            .smalls(asks.clone().map(|ask| Some(ask.seen.1.code())))
            .ints(asks.clone().map(|ask| Some(number(ask.attempt))))
            .numbers(earlier(|earlier| earlier.info.fence().get()))
            .ints(asks.clone().map(|ask| ask.earlier.map(|earlier| number(earlier.info.attempt()))))
            .numbers(earlier(|earlier| earlier.info.started().as_millis()))
            .numbers(earlier(|earlier| earlier.interrupted_at.as_millis()))
    }
}
