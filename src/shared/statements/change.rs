//! A group of changes to rows without a holder: a lease that is over, a key that is forgotten.

use crate::error::StoreFailure;
use crate::key::Digest;
use crate::shared::columns::{Params, signed};
use crate::shared::row::{Columns, RowState};
use crate::shared::sql::{Kind, Shape};
use crate::shared::statement::{Ask, Statement};
use crate::state::Fence;

/// A change. It happens if the row still has the fence and the state that the caller saw; and, of
/// a row in flight, if its lease is over by the server's clock. A record that is to stay one is
/// marked as leaving: no process takes it into its memory any more.
pub(in crate::shared) struct ChangeAsk {
    pub(in crate::shared) digest: Digest,
    pub(in crate::shared) seen: (Fence, RowState),
    pub(in crate::shared) to: RowState,
}

/// What came of it.
pub(in crate::shared) struct Changed {
    pub(in crate::shared) is_done: bool,
    /// Another process waits for the claim.
    pub(in crate::shared) is_wanted: bool,
    /// Of a record that is leaving: the number under which processes say that they have dropped it.
    pub(in crate::shared) number: Option<i64>,
}

impl Statement for ChangeAsk {
    type Answer = Changed;

    const IS_ONE_A_KEY: bool = true;

    const KIND: Kind = Kind::Change;

    fn digest(&self) -> Digest {
        self.digest
    }

    fn bytes(&self) -> usize {
        32
    }

    fn params(group: &[Ask<Self>], shape: Shape) -> Params<'_> {
        let asks = || group.iter().map(|ask| &ask.what);
        Params::of(shape)
            .ids(asks().map(|ask| ask.digest.as_u128()))
            .numbers(asks().map(|ask| Some(signed(ask.seen.0.get()))))
            .smalls(asks().map(|ask| Some(ask.seen.1.code())))
            .smalls(asks().map(|ask| Some(ask.to.code())))
    }

    fn is_wanted(answer: &Changed) -> bool {
        answer.is_done && answer.is_wanted
    }

    fn answer(columns: &mut Columns<'_>) -> Result<Changed, StoreFailure> {
        columns.skip();
        Ok(Changed { is_done: columns.take()?, is_wanted: columns.take()?, number: columns.take()? })
    }
}
