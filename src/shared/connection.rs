//! `Link`: one connection, with its timeout and its prepared statements. It carries one statement
//! at a time, so that each notice certainly belongs to that statement.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, Client, Config, Row, Statement};

use super::columns::Params;
use super::confirm::CONFIRM;
use super::servers::{self, Last};
use super::sql::{Kind, Shape};
use super::statement::Miss;
use super::tls::Tls;
use crate::error::{FailureKind, StoreFailure};
use crate::sync::{Arc, Ordering, UnseenU64};

/// How a connection gets the settings that the statements need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settings {
    /// With its start. No pooler passes them on, so they reach no connection of others.
    AtStart,
    /// By statements: a pooler gives this client a connection of its own.
    ByStatements,
    /// Not at all: behind a pooler in transaction mode they would stay with connections of others.
    None,
}

/// How a link is made.
#[derive(Clone)]
pub(super) struct LinkOptions {
    pub(super) config: Config,
    pub(super) tls: Tls,
    /// For each server of the address.
    pub(super) connect_timeout: Duration,
    pub(super) statement_timeout: Duration,
    /// So much longer than a statement may take, its answer is waited for.
    pub(super) margin: Duration,
    pub(super) settings: Settings,
    pub(super) last: Arc<Last>,
    /// Statements sent so far, for statistics.
    pub(super) trips: Arc<UnseenU64>,
}

/// A setting that nothing else has. What a role or a server sets could be what is wanted by chance.
const MARK: &str = "idemkv.connection";

/// A server that does not even confirm what was sent is dead, however long a statement may take.
const DEAD_AFTER: Duration = Duration::from_secs(60);
/// A connection over a long way takes several round trips, however short a session is.
const CONNECT_MIN: Duration = Duration::from_secs(1);

impl LinkOptions {
    /// Whether a pooler in transaction mode is in between.
    pub(super) fn is_pooled(&self) -> bool {
        self.settings == Settings::None
    }

    /// The same for the connection that keeps a session. Whatever others may take: it is given up
    /// soon enough for another one to renew the session in time.
    pub(super) fn for_session(self, session: Duration) -> Self {
        Self {
            connect_timeout: self.connect_timeout.min((session / 5).max(CONNECT_MIN)),
            statement_timeout: self.statement_timeout.min(session / 5),
            margin: self.margin.min(session / 10),
            ..self
        }
    }

    /// Names and values. One plan for every size of the table: an index scan for each call, in
    /// their order.
    fn wanted(&self) -> [(&'static str, String); 9] {
        let limit = self.statement_timeout.as_millis().to_string();
        let off = || "off".to_owned();
        [
            ("statement_timeout", limit.clone()),
            ("lock_timeout", limit),
            ("search_path", "pg_catalog".to_owned()),
            ("jit", off()),
            ("enable_seqscan", off()),
            ("enable_hashjoin", off()),
            ("enable_mergejoin", off()),
            ("default_transaction_isolation", "read committed".to_owned()),
            ("plan_cache_mode", "force_generic_plan".to_owned()),
        ]
    }

    /// The words that a connection starts with. The mark is its own.
    fn config(&self, mark: u64) -> Config {
        let mut config = self.config.clone();
        config.tcp_user_timeout(self.statement_timeout.min(DEAD_AFTER));
        if self.settings == Settings::AtStart {
            let wanted =
                self.wanted().map(|(name, value)| format!("-c {name}={}", value.replace(' ', "\\ ")));
            let before = config.get_options().unwrap_or_default();
            let words = format!("{before} {} -c {MARK}={mark}", wanted.join(" "));
            config.options(words);
        }
        config
    }
}

/// One connection.
pub(super) struct Link {
    client: Client,
    options: LinkOptions,
    /// The value of [`MARK`] that it was started with.
    mark: u64,
    prepared: RefCell<HashMap<(Kind, Shape), Statement>>,
    /// The statement under way brought a warning.
    warned: Rc<Cell<bool>>,
    is_broken: Cell<bool>,
    /// A statement failed as behind a pooler that was not detected.
    suspects_pooler: Cell<bool>,
    gone: Rc<Notify>,
    reader: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // A stalled connection would keep its reader for ever.
        if self.is_broken.get() {
            self.reader.abort();
        }
    }
}

impl Link {
    /// Connects, and makes the connection ready for statements.
    pub(super) async fn open(
        options: LinkOptions,
        told: impl Fn(&str) + 'static,
    ) -> Result<Self, StoreFailure> {
        let link = Self::connect(options, told).await?;
        link.set_up().await?;
        link.confirm().await?;
        Ok(link)
    }

    /// Connects. `told` gets the payload of every notification.
    pub(super) async fn connect(
        options: LinkOptions,
        told: impl Fn(&str) + 'static,
    ) -> Result<Self, StoreFailure> {
        let mark = drawn_mark()?;
        let (config, tls) = (options.config(mark), &options.tls);
        let connecting = servers::connect(&config, tls, options.connect_timeout, &options.last);
        let (client, mut connection) = connecting.await?;
        let (warned, gone) = (Rc::new(Cell::new(false)), Rc::new(Notify::new()));
        let (has_warned, is_gone) = (Rc::clone(&warned), Rc::clone(&gone));
        let reader = spawn_local(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(note) = &message {
                    told(note.payload());
                }
                if let AsyncMessage::Notice(notice) = &message
                    && notice.parsed_severity() == Some(Severity::Warning)
                    && !is_of_numbers(notice.routine())
                {
                    has_warned.set(true);
                }
            }
            is_gone.notify_one();
        });
        let link = Self {
            client,
            options,
            mark,
            prepared: RefCell::default(),
            warned,
            is_broken: Cell::new(false),
            suspects_pooler: Cell::new(false),
            gone,
            reader,
        };
        Ok(link)
    }

    /// Sets what the statements need, unless the connection started with it. Behind a pooler in
    /// transaction mode they must be right already.
    async fn set_up(&self) -> Result<(), StoreFailure> {
        // After a failover it may be another one, and settings can be changed.
        self.check_server().await?;
        match self.options.settings {
            Settings::AtStart if !self.has_settings().await? => {
                let message = "the connection has other settings than it was started with, as behind a pooler; \
                               connect again, with `Pooling`";
                return Err(StoreFailure::new(FailureKind::Options, message));
            }
            Settings::AtStart | Settings::None => {}
            Settings::ByStatements => {
                let wanted = self.options.wanted().map(|(name, value)| format!("SET {name} = '{value}'"));
                self.script(&wanted.join("; ")).await?;
            }
        }
        let sql = "SELECT current_setting('synchronous_commit'), current_setting('default_transaction_isolation'), \
                   current_setting('server_version_num')::int";
        let row = self.bounded(self.client.query_typed_one(sql, &[])).await?;
        let of = |at| row.try_get::<_, &str>(at).map_err(|error| StoreFailure::of(&error));
        let version: i32 = row.try_get(2).map_err(|error| StoreFailure::of(&error))?;
        let refused = |message: String| Err(StoreFailure::new(FailureKind::Options, message));
        if version < 140_000 {
            return refused(format!("the server has version {version}, PostgreSQL 14 is needed"));
        }
        if of(1)? != "read committed" {
            return refused(
                "set `default_transaction_isolation` of this role to `read committed`".to_owned(),
            );
        }
        // As each statement does. What is set here stays when the server's setting is changed.
        match of(0)? {
            "off" | "local" | "remote_write" if self.options.is_pooled() => {
                refused("set `synchronous_commit` of this role to `on`: results must be durable".to_owned())
            }
            _ if self.options.is_pooled() => Ok(()),
            "off" | "local" | "remote_write" => self.script("SET synchronous_commit = on").await,
            stronger => self.script(&format!("SET synchronous_commit = {stronger}")).await,
        }
    }

    /// Whether the connection has the settings that it was started with: a pooler may drop them.
    pub(super) async fn has_settings(&self) -> Result<bool, StoreFailure> {
        let sql = format!("SELECT pg_catalog.current_setting('{MARK}', true)");
        let row = self.bounded(self.client.query_typed_one(&sql, &[])).await?;
        let set: Option<&str> = row.try_get(0).map_err(|error| StoreFailure::of(&error))?;
        Ok(set == Some(&self.mark.to_string()))
    }

    /// Refuses a server that may lose what it has synced.
    pub(super) async fn check_server(&self) -> Result<(), StoreFailure> {
        let sql = "SELECT current_setting('fsync'), current_setting('full_page_writes')";
        let row = self.bounded(self.client.query_typed_one(sql, &[])).await?;
        for (at, name) in ["fsync", "full_page_writes"].into_iter().enumerate() {
            let value: &str = row.try_get(at).map_err(|error| StoreFailure::of(&error))?;
            if value != "on" {
                let message = format!(
                    "the server runs with `{name} = {value}`, so a crash can lose results that were \
                     acknowledged; set it to `on`"
                );
                return Err(StoreFailure::new(FailureKind::Options, message));
            }
        }
        Ok(())
    }

    /// Makes sure that what this connection can see is as durable as an acknowledged commit. After
    /// a crash the server shows all that is in its log, whether or not a standby has it.
    async fn confirm(&self) -> Result<(), StoreFailure> {
        match self.once(CONFIRM, &Params::default()).await {
            Ok(_) => Ok(()),
            Err(Miss::NotDone(failure) | Miss::Unknown(failure) | Miss::Unread(failure)) => Err(failure),
            Err(Miss::Busy(_) | Miss::Closed) => unreachable!("a connection refuses no statement"),
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.get() || self.client.is_closed()
    }

    pub(super) fn suspects_pooler(&self) -> bool {
        self.suspects_pooler.get()
    }

    pub(super) fn is_pooled(&self) -> bool {
        self.options.is_pooled()
    }

    /// Waits until the connection has ended.
    pub(super) async fn gone(&self) {
        self.gone.notified().await;
    }

    /// Statements without parameters and answers.
    pub(super) async fn script(&self, script: &str) -> Result<(), StoreFailure> {
        self.bounded(self.client.batch_execute(script)).await
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreFailure> {
        match timeout(self.patience(), call).await {
            Ok(answer) => answer.map_err(|error| StoreFailure::of(&error)),
            Err(_) => Err(self.no_answer()),
        }
    }

    /// A little longer than the server's own limit, whose answer says that nothing happened.
    fn patience(&self) -> Duration {
        self.options.statement_timeout.saturating_add(self.options.margin)
    }

    fn no_answer(&self) -> StoreFailure {
        self.is_broken.set(true);
        let message = format!("no answer within {} ms", self.patience().as_millis());
        StoreFailure::new(FailureKind::TimedOut, message)
    }

    /// A group's statement.
    pub(super) async fn query(
        &self,
        name: (Kind, Shape),
        text: &str,
        params: &Params<'_>,
    ) -> Result<Vec<Row>, Miss> {
        self.run(text, params, (!self.options.is_pooled()).then_some(name)).await
    }

    /// A statement by itself, never prepared.
    pub(super) async fn once(&self, text: &str, params: &Params<'_>) -> Result<Vec<Row>, Miss> {
        self.run(text, params, None).await
    }

    async fn run(
        &self,
        text: &str,
        params: &Params<'_>,
        name: Option<(Kind, Shape)>,
    ) -> Result<Vec<Row>, Miss> {
        self.warned.set(false);
        self.options.trips.fetch_add(1, Ordering::Relaxed);
        let sent = async {
            let Some(name) = name else {
                return self.client.query_typed(text, &params.typed()).await;
            };
            let known = self.prepared.borrow().get(&name).cloned();
            let statement = if let Some(statement) = known {
                statement
            } else {
                let statement = self.client.prepare_typed(text, &params.types()).await?;
                self.prepared.borrow_mut().insert(name, statement.clone());
                statement
            };
            self.client.query(&statement, &params.values()).await
        };
        match timeout(self.patience(), sent).await {
            Err(_) => Err(Miss::Unknown(self.no_answer())),
            Ok(Err(error)) => Err(self.missed(&error)),
            Ok(Ok(rows)) => self.confirmed(rows).await,
        }
    }

    fn missed(&self, error: &tokio_postgres::Error) -> Miss {
        let failure = StoreFailure::of(error);
        if failure.code() == Some("0A000") {
            // A plan that does not fit the tables any more stays with the connection.
            self.is_broken.set(true);
        }
        if failure.is_of_a_stray_statement() {
            self.suspects_pooler.set(true);
            self.is_broken.set(true);
        }
        if failure.was_aborted() {
            // The primary is elsewhere now.
            if failure.kind() == FailureKind::ReadOnly {
                self.is_broken.set(true);
            }
            return Miss::NotDone(failure);
        }
        self.is_broken.set(true);
        Miss::Unknown(failure)
    }

    /// A cancelled wait for a synchronous standby is told as success with a warning. The commit of
    /// a later change waits for the same standbys, and so confirms the one before it.
    async fn confirmed(&self, rows: Vec<Row>) -> Result<Vec<Row>, Miss> {
        if !self.warned.replace(false) {
            return Ok(rows);
        }
        let confirming = self.bounded(self.client.query_typed(CONFIRM, &[])).await;
        match confirming {
            Ok(_) if !self.warned.get() => Ok(rows),
            Ok(_) => {
                let message = "the commit is durable on the server that answered, but not on its standbys";
                Err(Miss::Unknown(StoreFailure::new(FailureKind::NotReplicated, message)))
            }
            Err(failure) => Err(Miss::Unknown(failure)),
        }
    }
}

fn drawn_mark() -> Result<u64, StoreFailure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| {
        StoreFailure::new(FailureKind::Options, format!("the system gave no random bytes: {error}"))
    })?;
    Ok(u64::from_be_bytes(bytes))
}

/// Whether a warning comes from the parts of the server that number transactions. Short of numbers
/// they warn with each change, and say nothing of its commit.
fn is_of_numbers(routine: Option<&str>) -> bool {
    matches!(routine, Some("GetNewTransactionId" | "GetNewMultiXactId"))
}

/// The first of two futures that is ready; the other is dropped.
pub(super) async fn race<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> Result<A, B> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|context| match a.as_mut().poll(context) {
        Poll::Ready(a) => Poll::Ready(Ok(a)),
        Poll::Pending => b.as_mut().poll(context).map(Err),
    })
    .await
}

/// Waits until one of two futures is ready; the other is dropped.
pub(super) async fn first(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    race(a, b).await.unwrap_or_default();
}
