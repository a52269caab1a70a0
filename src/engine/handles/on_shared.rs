//! Calls that only an engine on a shared store has: to connect, and to begin or complete in a
//! transaction of the caller's on that store.

use tokio_postgres::{Client, Transaction};

use super::claim::{Claim, ClaimInner};
use super::engine::Engine;
use super::handle::Handle;
use super::scope::Scope;
use crate::error::{BeginError, ClaimError, EndError, FailureKind, OpenError, SharedError, StoreFailure};
use crate::shared::client_thread;
use crate::shared::refusal::{carry, check_caller};
use crate::shared::{HasTx, Tx};
use crate::task::caller::{Caller, block};
use crate::{
    BeginInTx, CompletedInTx, Fingerprint, Migrated, OpenTx, SharedOptions, SharedStats, TxStatements,
};

impl SharedOptions {
    /// Connects to the store, makes its tables if need be, and starts a session of this process.
    ///
    /// # Errors
    ///
    /// When an option is out of range ([`OpenError::Option`]); when the server does not answer in
    /// time or refuses the role, or when the tables are missing and can't be made, or have another
    /// version ([`OpenError::Shared`]).
    pub fn connect(self) -> Result<Engine, OpenError> {
        block(self.connect_as(Caller::Thread))
    }

    /// [`connect`](Self::connect) for tasks, on any executor.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub async fn connect_async(self) -> Result<Engine, OpenError> {
        self.connect_as(Caller::Task).await
    }

    /// Makes the tables where there are none, and brings those of the version before up to this
    /// library's, as [`connect`](Self::connect) does, but starts no session. For a role that owns
    /// the tables, where the service's role may not change them.
    ///
    /// It adds to the tables, so processes of the library before go on meanwhile. One that starts
    /// again is refused.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub fn migrate(self) -> Result<Migrated, OpenError> {
        check_caller(Caller::Thread)?;
        block(carry(Caller::Thread, Box::pin(client_thread::migrate(self))))
    }

    async fn connect_as(self, caller: Caller) -> Result<Engine, OpenError> {
        check_caller(caller)?;
        let shared = carry(caller, Box::pin(client_thread::start(self))).await?;
        Ok(Engine::new(Handle::Shared(shared)))
    }
}

impl Engine {
    /// Connects to a store that several processes share, in the `PostgreSQL` database at this
    /// address, with default options; see [`SharedOptions`].
    ///
    /// # Errors
    ///
    /// As for [`SharedOptions::connect`].
    pub fn connect(url: impl Into<String>) -> Result<Self, OpenError> {
        SharedOptions::new(url).connect()
    }

    /// [`connect`](Self::connect) for tasks, on any executor.
    ///
    /// # Errors
    ///
    /// As for [`SharedOptions::connect`].
    pub async fn connect_async(url: impl Into<String>) -> Result<Self, OpenError> {
        SharedOptions::new(url).connect_async().await
    }

    /// Prepares the statements of [`Scope::begin_in_tx_with`] and [`Claim::complete_in_tx_with`]
    /// on a connection of yours to the shared store's database.
    ///
    /// Don't prepare behind a pooler in transaction mode: its next server connection may not know
    /// the statements. If yours have the engine's address, [`SharedStats::is_pooled`] tells.
    ///
    /// # Errors
    ///
    /// When the server refuses them or does not answer, or the engine is on a file.
    pub async fn prepare_for_tx(&self, client: &Client) -> Result<TxStatements, SharedError> {
        match &self.handle {
            Handle::File(_) => Err(on_a_file()),
            Handle::Shared(shared) => shared.prepare_for_tx(client).await,
        }
    }

    /// What this process sends to its shared store; `None` of an engine on a file.
    #[must_use]
    pub fn shared_stats(&self) -> Option<SharedStats> {
        match &self.handle {
            Handle::File(_) => None,
            Handle::Shared(shared) => Some(shared.shared_stats()),
        }
    }
}

impl Claim {
    /// Completes the claim within a transaction of yours, on the database of the shared store: your
    /// rows and the result are committed together, or not at all.
    ///
    /// Other callers see the result when the transaction is committed. While it is open the key
    /// can't be taken over, even if its lease or its session ends. Keep it short, and say what
    /// became of it with the value that this returns.
    ///
    /// # Errors
    ///
    /// When the body is too long, the claim is no longer good, the statement fails, or the
    /// transaction can't see the claim: because it is on another database, or has a snapshot from
    /// before the begin. The claim comes back unless it is no longer good. A claim on a key of a
    /// file is refused with [`ClaimError::NotShared`], and comes back.
    ///
    /// ```no_run
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # async fn pay(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = Engine::connect_async("postgres://service@db.internal/payments").await?;
    /// let Begin::Fresh(claim) = engine.scope("transfers").begin_async("key", Fingerprint::of("a to b")).await? else {
    ///     return Ok(());
    /// };
    /// let mut transaction = client.transaction().await?;
    /// transaction.execute("UPDATE accounts SET cents = cents - 10 WHERE name = 'a'", &[]).await?;
    /// let completed = claim.complete_in_tx(&mut transaction, "paid").await?;
    /// transaction.commit().await?;
    /// let record = completed.committed();
    /// # drop(record);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn complete_in_tx(
        self,
        transaction: &mut impl OpenTx,
        body: impl AsRef<[u8]>,
    ) -> Result<CompletedInTx, EndError> {
        self.complete_on(transaction.tx(), body.as_ref()).await
    }

    /// [`complete_in_tx`](Self::complete_in_tx) with statements that were prepared on the
    /// transaction's connection.
    ///
    /// # Errors
    ///
    /// As for [`complete_in_tx`](Self::complete_in_tx), and if the statements are those of another
    /// connection.
    pub async fn complete_in_tx_with(
        self,
        statements: &TxStatements,
        transaction: &mut Transaction<'_>,
        body: impl AsRef<[u8]>,
    ) -> Result<CompletedInTx, EndError> {
        self.complete_on(transaction.tx().with(Some(statements)), body.as_ref()).await
    }

    async fn complete_on(self, transaction: Tx<'_>, body: &[u8]) -> Result<CompletedInTx, EndError> {
        match self.inner {
            ClaimInner::File(_) => Err(EndError::new(ClaimError::NotShared, Some(self))),
            ClaimInner::Shared(claim) => claim.complete_in_tx(transaction, body).await,
        }
    }
}

impl Scope {
    /// Asks whether to run the operation with this key, within a transaction of yours on the
    /// database of the shared store. Claim, effect and result are committed together: if the
    /// process dies, or the transaction is rolled back, nothing has happened and the key is as it
    /// was.
    ///
    /// So the effect must be in the transaction, and nowhere else. For anything that a rollback
    /// does not undo, use [`begin`](Self::begin).
    ///
    /// No row of the key is written before [`complete`](crate::ClaimInTx::complete). Until then
    /// another transaction that begins the key is told so; a caller of [`begin`](Self::begin) may
    /// be granted a claim, and then `complete` is refused. Keep the transaction short. It should
    /// read what is committed, as is the default: with a snapshot from its start, a policy set
    /// since is not seen, and a conflict may be an error of serialization.
    ///
    /// # Errors
    ///
    /// As for [`begin`](Self::begin). When another transaction has begun the key, with
    /// [`FailureKind::Locked`](crate::FailureKind::Locked). When the transaction is on another
    /// store, or the engine is on a file. Roll back then, and after every answer but
    /// [`BeginInTx::Fresh`].
    ///
    /// ```no_run
    /// # use idemkv::{BeginInTx, Engine, Fingerprint, Record};
    /// # async fn pay(engine: &Engine, client: &mut tokio_postgres::Client) -> Result<Record, Box<dyn std::error::Error>> {
    /// let mut transaction = client.transaction().await?;
    /// match engine.scope("transfers").begin_in_tx(&mut transaction, "key", Fingerprint::of("a to b")).await? {
    ///     BeginInTx::Fresh(claim) => {
    ///         transaction.execute("UPDATE accounts SET cents = cents - 10 WHERE name = 'a'", &[]).await?;
    ///         transaction.execute("UPDATE accounts SET cents = cents + 10 WHERE name = 'b'", &[]).await?;
    ///         let stored = claim.complete(&mut transaction, "paid").await?;
    ///         transaction.commit().await?;
    ///         Ok(stored.committed())
    ///     }
    ///     BeginInTx::InFlight(_) => Err("another caller has this key: 409".into()),
    ///     BeginInTx::Done(record) => Ok(record),
    /// }
    /// # }
    /// ```
    pub async fn begin_in_tx(
        &self,
        transaction: &mut impl OpenTx,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
    ) -> Result<BeginInTx, BeginError> {
        self.begin_on(transaction.tx(), key.as_ref(), fingerprint).await
    }

    /// [`begin_in_tx`](Self::begin_in_tx) with statements that were prepared on the transaction's
    /// connection. [`ClaimInTx::complete`](crate::ClaimInTx::complete) then goes by them as well.
    ///
    /// # Errors
    ///
    /// As for [`begin_in_tx`](Self::begin_in_tx), and if the statements are those of another
    /// connection.
    ///
    /// ```no_run
    /// # use idemkv::{BeginInTx, Engine, Fingerprint};
    /// # async fn pay(engine: &Engine, mut client: tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let statements = engine.prepare_for_tx(&client).await?; // once for each connection
    /// let mut transaction = client.transaction().await?;
    /// let scope = engine.scope("transfers");
    /// match scope.begin_in_tx_with(&statements, &mut transaction, "key", Fingerprint::of("a to b")).await? {
    ///     BeginInTx::Fresh(claim) => drop(claim.complete(&mut transaction, "paid").await?),
    ///     BeginInTx::InFlight(_) | BeginInTx::Done(_) => {}
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn begin_in_tx_with(
        &self,
        statements: &TxStatements,
        transaction: &mut Transaction<'_>,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
    ) -> Result<BeginInTx, BeginError> {
        self.begin_on(transaction.tx().with(Some(statements)), key.as_ref(), fingerprint).await
    }

    async fn begin_on(
        &self,
        transaction: Tx<'_>,
        key: &[u8],
        fingerprint: Fingerprint,
    ) -> Result<BeginInTx, BeginError> {
        match &self.handle {
            Handle::File(_) => Err(BeginError::Shared(on_a_file())),
            Handle::Shared(shared) => shared.begin_in_tx(transaction, &self.inner, key, fingerprint).await,
        }
    }
}

fn on_a_file() -> SharedError {
    let message = "the engine is on a file, where no transaction of another database can end";
    SharedError::Unavailable(StoreFailure::new(FailureKind::Options, message))
}

#[cfg(feature = "sim")]
impl Engine {
    /// Has the session on the shared store renewed, for tests that set the server's clock: what the
    /// engine keeps in memory goes by the last renewal. It does not keep the engine open.
    #[must_use]
    pub fn renews_shared(&self) -> Box<dyn Fn() + Send> {
        match &self.handle {
            Handle::File(_) => Box::new(|| ()),
            Handle::Shared(shared) => shared.renews(),
        }
    }

    /// Sweeps some pages of the shared store now, if that is due and no other process does it, for
    /// tests. `false` if it was not this process's turn.
    ///
    /// # Errors
    ///
    /// When the store does not answer in time, or the engine is on a file.
    pub fn sweep_shared(&self) -> Result<bool, crate::CommitError> {
        match &self.handle {
            Handle::File(_) => Ok(false),
            Handle::Shared(shared) => {
                block(crate::shared::refusal::carry_checked(Caller::Thread, shared.sweep()))
            }
        }
    }
}
