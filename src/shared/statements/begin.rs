//! A group of begins: keys without a row are claimed, the rows of others come back.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::clock::millis;
use crate::key::Digest;
use crate::policy::Policy;
use crate::shared::columns::{Params, signed};
use crate::shared::error::StoreFailure;
use crate::shared::row::{Columns, KeyRow};
use crate::shared::sql::Kind;
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
    /// Whether the session lives, without which nothing is granted.
    pub(in crate::shared) is_alive: bool,
    /// The version of the policies; nothing is granted under another one.
    pub(in crate::shared) policies: i64,
    pub(in crate::shared) granted: Option<Fence>,
    pub(in crate::shared) seen: Option<KeyRow>,
}

impl Statement for BeginAsk {
    type Answer = Begun;

    const IS_ONE_A_KEY: bool = false;

    const KIND: Kind = Kind::Begin;

    fn digest(&self) -> Digest {
        self.digest
    }

    fn bytes(&self) -> usize {
        128 + self.scope.len() + self.key.len()
    }

    fn params(group: &[Ask<Self>]) -> Params<'_> {
        let asks = || group.iter().map(|ask| &ask.what);
        let numbers = |of: fn(&Self) -> i64| asks().map(of).collect::<Vec<_>>();
        Params::default()
            .with(numbers(|ask| ask.terms.session), Type::INT8_ARRAY)
            .with(numbers(|ask| ask.terms.policies), Type::INT8_ARRAY)
            .ids(asks().map(|ask| ask.digest.as_u128()))
            .ids(asks().map(|ask| ask.nonce))
            .bytes(asks().map(|ask| Some(&ask.fingerprint.as_bytes()[..])))
            .bytes(asks().map(|ask| Some(&*ask.scope)))
            .bytes(asks().map(|ask| Some(&*ask.key)))
            .with(numbers(|ask| ask.terms.ttl_ms()), Type::INT8_ARRAY)
            .with(numbers(|ask| ask.terms.remembered_ms()), Type::INT8_ARRAY)
            .numbers(asks().map(|ask| ask.terms.unresolved_ms()))
            .numbers(asks().map(|ask| ask.terms.lease_ms()))
    }

    fn answer(columns: &mut Columns<'_>) -> Result<Begun, StoreFailure> {
        Ok(Begun {
            now: columns.time()?,
            is_alive: columns.take()?,
            policies: columns.take()?,
            granted: columns.number_or_none()?.map(Fence::new),
            seen: {
                columns.skip();
                KeyRow::read(columns)?
            },
        })
    }
}
