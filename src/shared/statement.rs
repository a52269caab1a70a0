//! `Statement`: calls that go to the store many at a time, in one statement.

use tokio_postgres::Row;

use super::columns::Params;
use super::row::{Columns, damaged};
use super::sql::{Kind, Shape};
use crate::clock::Deadline;
use crate::error::StoreFailure;
use crate::key::Digest;
use crate::task::reply::ReplySender;

/// Why a call has no answer.
#[derive(Clone, Debug)]
pub(super) enum Miss {
    /// It certainly did nothing, and will do nothing.
    NotDone(StoreFailure),
    /// It may have happened, or may happen yet.
    Unknown(StoreFailure),
    /// Its answer got lost, and it changes nothing.
    Unread(StoreFailure),
    /// The queue is full.
    Busy(usize),
    Closed,
}

impl Miss {
    /// The same of a statement that changes nothing.
    pub(super) fn of_a_read(self) -> Self {
        match self {
            Self::Unknown(failure) => Self::Unread(failure),
            Self::NotDone(_) | Self::Unread(_) | Self::Busy(_) | Self::Closed => self,
        }
    }
}

/// One call of a group.
pub(super) struct Ask<S: Statement> {
    pub(super) what: S,
    /// After that it is not sent any more.
    pub(super) deadline: Deadline,
    pub(super) reply: ReplySender<Result<S::Answer, Miss>>,
}

/// A kind of call.
pub(super) trait Statement: Send + Sized + 'static {
    type Answer: Send + 'static;

    /// Whether two calls for one key must not share a group.
    const IS_ONE_A_KEY: bool;

    const KIND: Kind;

    fn digest(&self) -> Digest;

    /// About how many bytes it sends.
    fn bytes(&self) -> usize;

    /// All calls of a group, in its order.
    fn params(group: &[Ask<Self>], shape: Shape) -> Params<'_>;

    /// Whether it changes rows on which an answer depends.
    const CHANGES: bool = true;

    /// What a miss of its statement says.
    fn missed(miss: Miss) -> Miss {
        if Self::CHANGES { miss } else { miss.of_a_read() }
    }

    /// The most calls in a group, besides the limit of the options.
    const GROUP_MAX: usize = usize::MAX;

    /// Whether it waits for a transaction of a caller's that has inserted the key's row and is
    /// still open. Such calls are found after a failure, and sent no more with others.
    const WAITS_FOR_INSERTS: bool = false;

    /// Whether other processes are to be told of the change.
    fn is_wanted(_answer: &Self::Answer) -> bool {
        false
    }

    /// Whether the answer is not whole, so that the call goes into another group.
    fn is_cut(_answer: &Self::Answer) -> bool {
        false
    }

    /// The answer to one call. Its place in the group has been read.
    fn answer(columns: &mut Columns<'_>) -> Result<Self::Answer, StoreFailure>;

    /// The answer to a call that has no row.
    fn no_answer() -> Result<Self::Answer, StoreFailure> {
        Err(damaged("an answer has no row"))
    }

    /// The places in the group that the rows answer, and the answers.
    fn placed(
        rows: &[Row],
        _group: &[Ask<Self>],
        _shape: Shape,
    ) -> Vec<(usize, Result<Self::Answer, StoreFailure>)> {
        let placed = rows.iter().filter_map(|row| {
            let mut columns = Columns::new(row);
            let place = usize::try_from(columns.number().ok()?).ok()?;
            Some((place.checked_sub(1)?, Self::answer(&mut columns)))
        });
        placed.collect()
    }
}
