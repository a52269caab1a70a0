//! This crate's statements, as a caller has prepared them on a connection of its own.

use tokio_postgres::{Client, Statement};

use super::core::{Core, SharedHandle};
use crate::error::{SharedError, StoreFailure};

/// This crate's statements, prepared on one connection of yours.
///
/// If a transaction on that connection uses them, the server spends about a third of the time on
/// our statements, because it does not plan them anew. Keep them beside the connection, and make
/// them again for each new one. Cloning is cheap.
///
/// On another connection, and behind a pooler in transaction mode, they don't exist: the call
/// fails, and with it the transaction.
#[derive(Clone)]
pub struct TxStatements {
    pub(super) look: Statement,
    pub(super) row: Statement,
    pub(super) insert: Statement,
    pub(super) end: Statement,
}

impl SharedHandle {
    pub(crate) async fn prepare_for_tx(&self, client: &Client) -> Result<TxStatements, SharedError> {
        let Core { tx_sql: sql, .. } = &*self.0;
        let prepared = async {
            Ok(TxStatements {
                look: client.prepare(&sql.look).await?,
                row: client.prepare(&sql.row).await?,
                insert: client.prepare(&sql.insert).await?,
                end: client.prepare(&sql.end).await?,
            })
        };
        prepared
            .await
            .map_err(|error: tokio_postgres::Error| SharedError::Unavailable(StoreFailure::of(&error)))
    }
}

/// In short.
impl std::fmt::Debug for TxStatements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxStatements").finish_non_exhaustive()
    }
}
