//! A group of begins: keys without a row are claimed, the rows of others come back.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Row;

use crate::clock::millis;
use crate::error::StoreFailure;
use crate::key::Digest;
use crate::policy::Policy;
use crate::shared::columns::{Id, Params, signed};
use crate::shared::row::{Columns, KeyRow, damaged};
use crate::shared::sql::{Kind, Shape};
use crate::shared::statement::{Ask, Statement};
use crate::state::Fence;
use crate::sync::Arc;
use crate::{Fingerprint, Timestamp};

/// On what terms a claim is to be granted.
#[derive(Clone, Copy, Debug)]
pub(in crate::shared) struct Terms {
    pub(in crate::shared) session: i64,
    pub(in crate::shared) policy: Policy,
    /// The version of the policies that it is from.
    pub(in crate::shared) policies: i64,
}

impl Terms {
    pub(in crate::shared) fn ttl_ms(&self) -> i64 {
        signed(self.policy.retention().ttl_ms())
    }

    pub(in crate::shared) fn remembered_ms(&self) -> i64 {
        signed(self.policy.retention().remembered_ms())
    }

    pub(in crate::shared) fn unresolved_ms(&self) -> Option<i64> {
        self.policy.get_unresolved_ttl().map(span)
    }

    pub(in crate::shared) fn lease_ms(&self) -> Option<i64> {
        self.policy.get_lease().map(span)
    }

    pub(in crate::shared) fn most(&self) -> Option<i64> {
        self.policy.get_max_in_flight().map(i64::from)
    }
}

pub(in crate::shared) fn span(time: Duration) -> i64 {
    signed(millis(time))
}

/// A begin.
pub(in crate::shared) struct BeginAsk {
    pub(in crate::shared) digest: Digest,
    pub(in crate::shared) nonce: u128,
    pub(in crate::shared) fingerprint: Fingerprint,
    pub(in crate::shared) scope: Arc<[u8]>,
    pub(in crate::shared) key: Arc<[u8]>,
    pub(in crate::shared) terms: Terms,
}

/// What came back.
pub(in crate::shared) struct Begun {
    pub(in crate::shared) now: Timestamp,
    /// `false` if the session may be over, without which nothing is granted.
    pub(in crate::shared) is_alive: bool,
    /// The version of the policies; nothing is granted under another one.
    pub(in crate::shared) policies: i64,
    pub(in crate::shared) granted: Option<Fence>,
    pub(in crate::shared) seen: Option<KeyRow>,
    /// As many claims of the scope are in flight as may be.
    pub(in crate::shared) is_full: bool,
}

impl Begun {
    fn is_nothing(&self) -> bool {
        self.granted.is_none() && self.seen.is_none()
    }
}

impl Statement for BeginAsk {
    type Answer = Begun;

    const IS_ONE_A_KEY: bool = false;

    const KIND: Kind = Kind::Begin;

    const WAITS_FOR_INSERTS: bool = true;

    fn digest(&self) -> Digest {
        self.digest
    }

    fn bytes(&self) -> usize {
        128 + self.scope.len() + self.key.len()
    }

    fn params(group: &[Ask<Self>], shape: Shape) -> Params<'_> {
        Self::params_of(group.iter().map(|ask| &ask.what), shape)
    }

    fn answer(columns: &mut Columns<'_>) -> Result<Begun, StoreFailure> {
        Ok(Begun {
            now: columns.time()?,
            is_alive: true,
            policies: columns.take()?,
            granted: {
                let granted = columns.number_or_none()?.map(Fence::new);
                columns.skip();
                granted
            },
            seen: KeyRow::read(columns)?,
            is_full: false,
        })
    }

    fn is_cut(begun: &Begun) -> bool {
        begun.seen.as_ref().is_some_and(|row| row.is_cut)
    }

    /// Nothing was seen or granted, and the session may be over.
    fn no_answer() -> Result<Begun, StoreFailure> {
        let now = Timestamp::default();
        Ok(Begun { now, is_alive: false, policies: 0, granted: None, seen: None, is_full: false })
    }

    fn placed(rows: &[Row], group: &[Ask<Self>], shape: Shape) -> Vec<(usize, Result<Begun, StoreFailure>)> {
        if let (Shape::One, Some(row)) = (shape, rows.first()) {
            return vec![(0, Self::answer_to_one(row))];
        }
        Self::many_placed(rows, &group.iter().map(|ask| &ask.what))
    }
}

impl BeginAsk {
    pub(in crate::shared) fn params_of<'a>(
        asks: impl Iterator<Item = &'a Self> + Clone,
        shape: Shape,
    ) -> Params<'a> {
        let numbers = |of: fn(&Self) -> i64| asks.clone().map(move |ask| Some(of(ask)));
        Params::of(shape)
            .numbers(numbers(|ask| ask.terms.session))
            .numbers(numbers(|ask| ask.terms.policies))
            .ids(asks.clone().map(|ask| ask.digest.as_u128()))
            .ids(asks.clone().map(|ask| ask.nonce))
            .bytes(asks.clone().map(|ask| Some(&ask.fingerprint.as_bytes()[..])))
            .bytes(asks.clone().map(|ask| Some(&*ask.scope)))
            .bytes(asks.clone().map(|ask| Some(&*ask.key)))
            .numbers(numbers(|ask| ask.terms.ttl_ms()))
            .numbers(numbers(|ask| ask.terms.remembered_ms()))
            .numbers(asks.clone().map(|ask| ask.terms.unresolved_ms()))
            .numbers(asks.map(|ask| ask.terms.lease_ms()))
    }

    /// The places in the group that the rows answer, and the answers.
    ///
    /// A grant is told by its nonce: of twins in the group one has it. A call of a session that
    /// lives, but without a row, had a twin that was faster, lost its place in the scope, or named
    /// other policies. A row with nothing in it says that the scope has no place.
    pub(in crate::shared) fn many_placed<'a>(
        rows: &[Row],
        group: &(impl Iterator<Item = &'a Self> + Clone),
    ) -> Vec<(usize, Result<Begun, StoreFailure>)> {
        let nonces: HashMap<u128, usize> =
            group.clone().enumerate().map(|(place, ask)| (ask.nonce, place)).collect();
        let unseen = rows.iter().filter_map(Alive::read).flat_map(|alive| {
            let calls = group.clone().enumerate();
            let of_session = calls.filter(move |(_, ask)| ask.terms.session == alive.session);
            of_session.map(move |(place, _)| (place, Ok(alive.no_row())))
        });
        let placed = rows.iter().filter_map(|row| {
            let mut columns = Columns::new(row);
            let place = match columns.number_or_none().ok()? {
                Some(0) => return None,
                Some(place) => usize::try_from(place).ok()?.checked_sub(1)?,
                None => *nonces.get(&row.try_get::<_, Id>(NONCE).ok()?.0)?,
            };
            let begun = Self::answer(&mut columns);
            Some((place, begun.map(|begun| Begun { is_full: begun.is_nothing(), ..begun })))
        });
        // Later ones count.
        unseen.chain(placed).collect()
    }

    fn answer_to_one(row: &Row) -> Result<Begun, StoreFailure> {
        let mut columns = Columns::new(row);
        columns.skip();
        let begun = Self::answer(&mut columns)?;
        let lives = row.try_get(NONCE).map_err(|error| damaged(&error.to_string()))?;
        // A row is an answer also without a session.
        Ok(Begun { is_alive: lives || begun.seen.is_some(), ..begun })
    }
}

/// A session of the group's calls that lives.
#[derive(Clone, Copy)]
struct Alive {
    session: i64,
    now: Timestamp,
    policies: i64,
}

impl Alive {
    fn read(row: &Row) -> Option<Self> {
        let mut columns = Columns::new(row);
        if columns.number_or_none().ok()? != Some(0) {
            return None;
        }
        Some(Self {
            now: columns.time().ok()?,
            policies: columns.take().ok()?,
            session: columns.take().ok()?,
        })
    }

    fn no_row(self) -> Begun {
        let Self { now, policies, .. } = self;
        Begun { now, is_alive: true, policies, granted: None, seen: None, is_full: false }
    }
}

/// The column with the nonce of what was inserted; in the answer to one call, with whether its
/// session lives.
const NONCE: usize = 4;
