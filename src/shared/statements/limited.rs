//! Begins and grants in scopes that limit their claims. They have statements of their own, so that
//! claims of other scopes cost no more.

use tokio_postgres::Row;

use super::begin::{BeginAsk, Begun};
use super::grant::{GrantAsk, Granted};
use crate::error::StoreFailure;
use crate::key::Digest;
use crate::shared::columns::Params;
use crate::shared::row::Columns;
use crate::shared::sql::{Kind, Shape};
use crate::shared::statement::{Ask, Statement};

/// The calls of such a group are compared with each other.
const GROUP_MAX: usize = 64;

/// A begin that needs one of the places of its scope.
pub(in crate::shared) struct LimitedBegin(pub(in crate::shared) BeginAsk);

impl Statement for LimitedBegin {
    type Answer = Begun;

    /// A twin would take a place for nothing.
    const IS_ONE_A_KEY: bool = true;

    const KIND: Kind = Kind::LimitedBegin;

    const GROUP_MAX: usize = GROUP_MAX;

    const WAITS_FOR_INSERTS: bool = true;

    fn digest(&self) -> Digest {
        self.0.digest()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn params(group: &[Ask<Self>], shape: Shape) -> Params<'_> {
        let asks = group.iter().map(|ask| &ask.what.0);
        BeginAsk::params_of(asks.clone(), shape).numbers(asks.map(|ask| ask.terms.most()))
    }

    fn answer(columns: &mut Columns<'_>) -> Result<Begun, StoreFailure> {
        BeginAsk::answer(columns)
    }

    fn is_cut(begun: &Begun) -> bool {
        BeginAsk::is_cut(begun)
    }

    fn no_answer() -> Result<Begun, StoreFailure> {
        BeginAsk::no_answer()
    }

    fn placed(rows: &[Row], group: &[Ask<Self>], _shape: Shape) -> Vec<(usize, Result<Begun, StoreFailure>)> {
        BeginAsk::many_placed(rows, &group.iter().map(|ask| &ask.what.0))
    }
}

/// A grant that needs one.
pub(in crate::shared) struct LimitedGrant(pub(in crate::shared) GrantAsk);

impl Statement for LimitedGrant {
    type Answer = Granted;

    const IS_ONE_A_KEY: bool = true;

    const KIND: Kind = Kind::LimitedGrant;

    const GROUP_MAX: usize = GROUP_MAX;

    fn digest(&self) -> Digest {
        self.0.digest()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn params(group: &[Ask<Self>], shape: Shape) -> Params<'_> {
        let asks = group.iter().map(|ask| &ask.what.0);
        GrantAsk::params_of(&asks, shape).numbers(asks.map(|ask| ask.terms.most()))
    }

    fn answer(columns: &mut Columns<'_>) -> Result<Granted, StoreFailure> {
        let granted = GrantAsk::answer(columns)?;
        Ok(Granted { is_full: columns.take()?, ..granted })
    }

    fn is_wanted(granted: &Granted) -> bool {
        GrantAsk::is_wanted(granted)
    }
}
