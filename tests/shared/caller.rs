//! A caller that has a connection of its own, by each client that a transaction may be of.

use std::pin::Pin;
use std::sync::OnceLock;

use idemkv::{
    BeginError, BeginInTx, Claim, ClaimError, ClaimInTx, CompletedInTx, EndError, Fingerprint, Scope,
    UncommittedRecord,
};
use tokio_postgres::NoTls;

use crate::server::{self, Server};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    TokioPostgres,
    #[cfg(feature = "sqlx-0_8")]
    Sqlx08,
    #[cfg(feature = "sqlx-0_9")]
    Sqlx09,
}

const CLIENTS: &[Client] = &[
    Client::TokioPostgres,
    #[cfg(feature = "sqlx-0_8")]
    Client::Sqlx08,
    #[cfg(feature = "sqlx-0_9")]
    Client::Sqlx09,
];

/// A client, and a database that its tests have to themselves: the names of their tables are the
/// same for each.
pub struct Caller {
    pub client: Client,
    pub server: Server,
}

/// Of every client; `None` without a server.
pub fn all() -> Option<&'static [Caller]> {
    static ALL: OnceLock<Option<Vec<Caller>>> = OnceLock::new();
    let make = || {
        let server = server::get()?;
        let caller = |&client: &Client| {
            let database = format!("by_{client:?}");
            Caller { client, server: server.database(&database) }
        };
        Some(CLIENTS.iter().map(caller).collect())
    };
    ALL.get_or_init(make).as_deref()
}

/// The futures of `SQLx` are `Send`, but the compiler sees it only where each is alone.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Caller {
    pub fn connect(&self) -> Boxed<'static, Connection> {
        self.client.connect(self.server.url())
    }
}

impl Client {
    pub fn connect(self, url: String) -> Boxed<'static, Connection> {
        Box::pin(async move { self.connected(&url).await })
    }

    async fn connected(self, url: &str) -> Connection {
        match self {
            Self::TokioPostgres => {
                let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
                tokio::spawn(connection);
                Connection::TokioPostgres(client)
            }
            #[cfg(feature = "sqlx-0_8")]
            Self::Sqlx08 => {
                use sqlx_0_8::Connection as _;
                Connection::Sqlx08(sqlx_0_8::PgConnection::connect(url).await.unwrap())
            }
            #[cfg(feature = "sqlx-0_9")]
            Self::Sqlx09 => {
                use sqlx_0_9::Connection as _;
                Connection::Sqlx09(sqlx_0_9::PgConnection::connect(url).await.unwrap())
            }
        }
    }
}

pub enum Connection {
    TokioPostgres(tokio_postgres::Client),
    #[cfg(feature = "sqlx-0_8")]
    Sqlx08(sqlx_0_8::PgConnection),
    #[cfg(feature = "sqlx-0_9")]
    Sqlx09(sqlx_0_9::PgConnection),
}

pub enum Tx<'a> {
    TokioPostgres(tokio_postgres::Transaction<'a>),
    #[cfg(feature = "sqlx-0_8")]
    Sqlx08(sqlx_0_8::Transaction<'a, sqlx_0_8::Postgres>),
    #[cfg(feature = "sqlx-0_9")]
    Sqlx09(sqlx_0_9::Transaction<'a, sqlx_0_9::Postgres>),
}

/// The same expression for each client, or one for both versions of `SQLx`.
macro_rules! by_client {
    ($of:expr, $it:ident => $do:expr) => {
        by_client!($of, $it => $do, $do)
    };
    ($of:expr, $it:ident => $tokio_postgres:expr, $sqlx:expr) => {
        match $of {
            Self::TokioPostgres($it) => $tokio_postgres,
            #[cfg(feature = "sqlx-0_8")]
            Self::Sqlx08($it) => {
                #[allow(unused_imports, reason = "not every expression needs it")]
                use sqlx_0_8::{self as sqlx, Connection as _};
                $sqlx
            }
            #[cfg(feature = "sqlx-0_9")]
            Self::Sqlx09($it) => {
                #[allow(unused_imports, reason = "not every expression needs it")]
                use sqlx_0_9::{self as sqlx, Connection as _};
                $sqlx
            }
        }
    };
}

/// With the transaction of that version.
macro_rules! begun {
    ($self:ident, $it:ident => $tokio_postgres:expr, $sqlx:expr) => {
        match $self {
            Self::TokioPostgres($it) => Tx::TokioPostgres($tokio_postgres),
            #[cfg(feature = "sqlx-0_8")]
            Self::Sqlx08($it) => {
                use sqlx_0_8::Connection as _;
                Tx::Sqlx08($sqlx)
            }
            #[cfg(feature = "sqlx-0_9")]
            Self::Sqlx09($it) => {
                use sqlx_0_9::Connection as _;
                Tx::Sqlx09($sqlx)
            }
        }
    };
}

impl Connection {
    pub fn transaction(&mut self) -> Boxed<'_, Tx<'_>> {
        Box::pin(
            async move { begun!(self, it => it.transaction().await.unwrap(), it.begin().await.unwrap()) },
        )
    }

    /// Its snapshot is that of its first statement.
    pub fn snapshot(&mut self) -> Boxed<'_, Tx<'_>> {
        Box::pin(async move {
            begun!(
                self,
                it => {
                    let serial = tokio_postgres::IsolationLevel::RepeatableRead;
                    it.build_transaction().isolation_level(serial).start().await.unwrap()
                },
                it.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap()
            )
        })
    }
}

type Done = Result<(), String>;

impl Tx<'_> {
    pub fn execute(&mut self, sql: &'static str) -> Boxed<'_, Done> {
        Box::pin(async move {
            by_client!(
                self,
                it => it.batch_execute(sql).await.map_err(|error| error.to_string()),
                sqlx::Executor::execute(&mut **it, sql).await.map(drop).map_err(|error| error.to_string())
            )
        })
    }

    /// A number.
    pub fn number(&mut self, sql: &'static str) -> Boxed<'_, i64> {
        Box::pin(async move {
            by_client!(
                self,
                it => it.query_typed_one(sql, &[]).await.unwrap().get(0),
                sqlx::query_scalar(sql).persistent(false).fetch_one(&mut **it).await.unwrap()
            )
        })
    }

    pub async fn commit(self) -> Done {
        by_client!(self, it => it.commit().await.map_err(|error| error.to_string()))
    }

    pub async fn rollback(self) -> Done {
        by_client!(self, it => it.rollback().await.map_err(|error| error.to_string()))
    }

    /// By `SQLx` on the connection, which is in the transaction.
    pub async fn begin(
        &mut self,
        scope: &Scope,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
    ) -> Result<BeginInTx, BeginError> {
        by_client!(
            self,
            it => scope.begin_in_tx(it, key, fingerprint).await,
            scope.begin_in_tx(&mut **it, key, fingerprint).await
        )
    }

    /// By `SQLx` on the transaction.
    pub async fn complete(
        &mut self,
        held: ClaimInTx,
        body: impl AsRef<[u8]>,
    ) -> Result<UncommittedRecord, ClaimError> {
        by_client!(self, it => held.complete(it, body).await)
    }

    pub async fn fail(
        &mut self,
        held: ClaimInTx,
        body: impl AsRef<[u8]>,
    ) -> Result<UncommittedRecord, ClaimError> {
        by_client!(self, it => held.fail(it, body).await)
    }

    /// Of a claim that was granted before.
    pub async fn complete_claim(&mut self, held: Claim, body: &str) -> Result<CompletedInTx, EndError> {
        by_client!(self, it => held.complete_in_tx(it, body).await)
    }
}
