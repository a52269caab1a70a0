//! Groups of looks at rows, with or without a note that a process waits for the claim.

use crate::Timestamp;
use crate::error::StoreFailure;
use crate::key::Digest;
use crate::shared::columns::{Params, signed};
use crate::shared::row::{Columns, KeyRow};
use crate::shared::sql::{Kind, Shape};
use crate::shared::statement::{Ask, Statement};
use crate::state::Fence;

/// A look at a key.
pub(in crate::shared) struct LookAsk {
    pub(in crate::shared) digest: Digest,
}

/// A row as it is, at the server's time.
pub(in crate::shared) struct Looked {
    pub(in crate::shared) now: Timestamp,
    pub(in crate::shared) row: Option<KeyRow>,
}

impl Statement for LookAsk {
    type Answer = Looked;

    const IS_ONE_A_KEY: bool = false;

    const KIND: Kind = Kind::Look;

    const CHANGES: bool = false;

    fn digest(&self) -> Digest {
        self.digest
    }

    fn bytes(&self) -> usize {
        16
    }

    fn params(group: &[Ask<Self>], shape: Shape) -> Params<'_> {
        Params::of(shape).ids(group.iter().map(|ask| ask.what.digest.as_u128()))
    }

    fn is_cut(looked: &Looked) -> bool {
        looked.row.as_ref().is_some_and(|row| row.is_cut)
    }

    fn answer(columns: &mut Columns<'_>) -> Result<Looked, StoreFailure> {
        Ok(Looked { now: columns.time()?, row: KeyRow::read(columns)? })
    }
}

/// A look at a claim for which this process waits.
pub(in crate::shared) struct WantAsk {
    pub(in crate::shared) digest: Digest,
    pub(in crate::shared) fence: Fence,
}

/// The row, and whether the end of its claim will be told.
pub(in crate::shared) struct Wanted {
    pub(in crate::shared) now: Timestamp,
    pub(in crate::shared) is_flagged: bool,
    pub(in crate::shared) row: Option<KeyRow>,
}

impl Statement for WantAsk {
    type Answer = Wanted;

    const IS_ONE_A_KEY: bool = true;

    const KIND: Kind = Kind::Want;

    const CHANGES: bool = false;

    fn digest(&self) -> Digest {
        self.digest
    }

    fn bytes(&self) -> usize {
        24
    }

    fn params(group: &[Ask<Self>], shape: Shape) -> Params<'_> {
        let asks = || group.iter().map(|ask| &ask.what);
        Params::of(shape)
            .ids(asks().map(|ask| ask.digest.as_u128()))
            .numbers(asks().map(|ask| Some(signed(ask.fence.get()))))
    }

    fn is_cut(wanted: &Wanted) -> bool {
        wanted.row.as_ref().is_some_and(|row| row.is_cut)
    }

    fn answer(columns: &mut Columns<'_>) -> Result<Wanted, StoreFailure> {
        Ok(Wanted { now: columns.time()?, is_flagged: columns.take()?, row: KeyRow::read(columns)? })
    }
}
