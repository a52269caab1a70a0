//! `OpenTx`: a transaction of the caller's, by whatever client, and how our statements go on it.

use tokio_postgres::{Statement, Transaction};

use super::any_row::AnyRow;
#[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
use super::by_sqlx::OtherClient;
use super::columns::Params;
use super::core::Core;
use super::tx_statements::TxStatements;
use crate::error::StoreFailure;

/// A transaction that is open on a connection of yours.
///
/// This crate implements it, and only this crate can:
///
/// | type | feature |
/// |---|---|
/// | `tokio_postgres::Transaction` | `postgres` |
/// | `sqlx::Transaction<'_, Postgres>` and `sqlx::PgConnection`, of `SQLx` 0.8 | `sqlx-0_8` |
/// | the same, of `SQLx` 0.9 | `sqlx-0_9` |
///
/// A `PgConnection` must be in a transaction that `SQLx` has begun, as `&mut *transaction` is. On any
/// other the call is refused: the result would be committed without your rows.
///
/// `SQLx` prepares our statements once for each connection, and keeps them as it keeps yours. If the
/// engine knows of a pooler in transaction mode, they are not kept
/// ([`Pooling`](crate::Pooling)).
///
/// ```no_run
/// # #[cfg(feature = "sqlx-0_9")]
/// # mod by_sqlx {
/// # use idemkv::{BeginInTx, Engine, Fingerprint, Record};
/// # use sqlx_0_9 as sqlx;
/// # async fn pay(engine: &Engine, pool: &sqlx::PgPool) -> Result<Record, Box<dyn std::error::Error>> {
/// let mut transaction = pool.begin().await?;
/// match engine.scope("transfers").begin_in_tx(&mut transaction, "key", Fingerprint::of("a to b")).await? {
///     BeginInTx::Fresh(claim) => {
///         let spend = sqlx::query("UPDATE accounts SET cents = cents - 10 WHERE name = 'a'");
///         spend.execute(&mut *transaction).await?;
///         let stored = claim.complete(&mut transaction, "paid").await?;
///         transaction.commit().await?;
///         Ok(stored.committed())
///     }
///     BeginInTx::InFlight(_) => Err("another caller has this key: 409".into()),
///     BeginInTx::Done(record) => Ok(record),
/// }
/// # }
/// # }
/// ```
pub trait OpenTx: HasTx {}

/// Gives the transaction to this crate.
#[doc(hidden)]
pub trait HasTx: Send {
    fn tx(&mut self) -> Tx<'_>;
}

/// A transaction, for the statements of this crate.
#[doc(hidden)]
pub struct Tx<'a> {
    client: Client<'a>,
    pub(super) prepared: Option<&'a TxStatements>,
}

enum Client<'a> {
    TokioPostgres(&'a Transaction<'a>),
    #[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
    Other(&'a mut (dyn OtherClient + 'static)),
}

impl OpenTx for Transaction<'_> {}

impl HasTx for Transaction<'_> {
    fn tx(&mut self) -> Tx<'_> {
        Tx { client: Client::TokioPostgres(self), prepared: None }
    }
}

impl<'a> Tx<'a> {
    /// With statements that were prepared on its connection.
    pub(crate) fn with<'b>(self, prepared: Option<&'b TxStatements>) -> Tx<'b>
    where
        'a: 'b,
    {
        Tx { client: self.client, prepared }
    }

    #[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
    pub(super) fn of(client: &'a mut (dyn OtherClient + 'static)) -> Self {
        Self { client: Client::Other(client), prepared: None }
    }
}

/// In short.
impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("is_prepared", &self.prepared.is_some()).finish_non_exhaustive()
    }
}

/// The row that a statement brings back, if it does.
pub(super) async fn asked(
    core: &Core,
    transaction: &mut Tx<'_>,
    (text, prepared): (&str, Option<&Statement>),
    params: &Params<'_>,
) -> Result<Option<AnyRow>, StoreFailure> {
    let transaction = match &mut transaction.client {
        Client::TokioPostgres(transaction) => &**transaction,
        #[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
        Client::Other(client) => return client.ask(text, params, core.keeps_statements()).await,
    };
    #[cfg(not(any(feature = "sqlx-0_8", feature = "sqlx-0_9")))]
    let _ = core;
    let asked = match prepared {
        Some(statement) => transaction.query_opt(statement, &params.values()).await,
        None => transaction.query_typed_opt(text, &params.typed()).await,
    };
    Ok(asked.map_err(|error| StoreFailure::of(&error))?.map(AnyRow::TokioPostgres))
}
