//! A caller's transaction by way of `SQLx`. One file has the code for all versions of it; a version
//! says where the crate is, and what differs.

#[cfg(feature = "sqlx-0_8")]
mod v0_8;
#[cfg(feature = "sqlx-0_9")]
mod v0_9;

use std::pin::Pin;

use super::any_row::AnyRow;
use super::columns::Params;
use crate::error::StoreFailure;

/// A statement that is on its way.
pub(super) type Asking<'a> = Pin<Box<dyn Future<Output = Result<Option<AnyRow>, StoreFailure>> + Send + 'a>>;

/// A connection of another client than tokio-postgres, in a transaction.
pub(super) trait OtherClient: Send {
    /// The row that a statement brings back, if it does. The server keeps the statement for the
    /// next time, if `is_kept`.
    fn ask<'a>(&'a mut self, text: &'a str, params: &'a Params<'_>, is_kept: bool) -> Asking<'a>;
}
