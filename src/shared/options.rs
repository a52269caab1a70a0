//! Options of a connection to a shared store.

use std::time::Duration;

use tokio_postgres::config::TargetSessionAttrs;

use super::address::Address;
use super::schema;
use super::sql::{NOW, SERVER, Sql};
use super::tls::{Tls, for_address};
use crate::clock::millis;
use crate::error::{FailureKind, OpenError, OptionError, SharedError, StoreFailure};
use crate::observer::{Hooks, Observer};
use crate::policy::{Durability, Policy};
use crate::sync::Arc;

/// What stands between this process and the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooling {
    /// Finds out when it connects. Any pooler that it finds counts as one in transaction mode.
    #[default]
    Detect,
    /// Nothing, or a pooler that gives each client a server connection of its own.
    Session,
    /// A pooler in transaction mode, as `PgBouncer` has one: statements are not prepared, and
    /// waiters poll because notifications do not arrive.
    Transaction,
}

/// How to connect to a store that several processes share, in `PostgreSQL`. See `docs/shared.md`
/// for what works.
///
/// ```no_run
/// # use idemkv::{Begin, Fingerprint, SharedOptions};
/// let engine = SharedOptions::new("postgres://service@db.internal/payments").instance("worker-1").connect()?;
/// match engine.scope("charges").begin("key", Fingerprint::of("request"))? {
///     Begin::Fresh(claim) => drop(claim.complete("reply")?),
///     Begin::InFlight(pending) => drop(pending.wait()?), // in this process or in another
///     Begin::Done(record) => println!("{:?}", record.body()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "options do nothing until `connect`"]
pub struct SharedOptions {
    pub(super) url: String,
    pub(super) schema: String,
    pub(super) instance: Option<String>,
    pub(super) connections: usize,
    pub(super) connect_timeout: Duration,
    pub(super) statement_timeout: Duration,
    pub(super) call_timeout: Duration,
    pub(super) session: Duration,
    pub(super) makes_tables: bool,
    pub(super) pooling: Pooling,
    pub(super) policy: Policy,
    pub(super) cache_bytes: usize,
    pub(super) max_body_bytes: usize,
    pub(super) max_key_bytes: usize,
    pub(super) max_queued: usize,
    pub(super) max_waiters: usize,
    pub(super) sweep_every: Option<Duration>,
    pub(super) count_every: Option<Duration>,
    pub(super) group_max: usize,
    pub(super) clock: String,
    pub(super) server: String,
    pub(super) one_call_plans: bool,
    pub(super) hooks: Hooks,
}

impl SharedOptions {
    /// For the server at this address: a URL, or words as libpq takes them.
    ///
    /// Its `sslmode` says how the way to the server is secured. Its `sslrootcert` names the file
    /// with the certificate of the authority that vouches for the server. Without `sslmode` a
    /// server on another machine is verified as with `verify-full`, and one on this machine is
    /// spoken to in clear. That needs the feature `postgres-tls`; without it only
    /// `sslmode=disable` and `prefer` reach other machines, in clear.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            schema: "idemkv".to_owned(),
            instance: None,
            connections: 2,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            session: Duration::from_secs(15),
            makes_tables: true,
            pooling: Pooling::Detect,
            policy: Policy::default(),
            cache_bytes: 64 << 20,
            max_body_bytes: 1 << 20,
            max_key_bytes: 255,
            max_queued: 10_000,
            max_waiters: 65_536,
            sweep_every: Some(Duration::from_secs(1)),
            count_every: Some(Duration::from_secs(10)),
            group_max: 512,
            clock: NOW.to_owned(),
            server: SERVER.to_owned(),
            one_call_plans: true,
            hooks: Hooks::default(),
        }
    }

    /// The schema of the tables. Default `idemkv`.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = name.into();
        self
    }

    /// A name of this process. A process that starts with the name of one before it ends the
    /// claims of that one at once. Default none: they end with its session.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = Some(name.into());
        self
    }

    /// Connections for statements. Default 2; 1 to 4. One more keeps the session.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// How long connecting to one server may take, until it answers. Default 5 s; 100 ms to 60 s.
    /// Of several hosts, and of several addresses of a name, each has this time; the one that
    /// worked last is tried first.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a statement may take. After that its connection is given up. Default 5 s; 100 ms
    /// to 60 s.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// How long a call may take, all its statements and repetitions together. A statement under
    /// way then still ends. Default 10 s; 100 ms to 10 minutes.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// The length of a session: how long the claims of this process stand after it was last heard
    /// of. The session is renewed three times in that time, on a connection of its own. Each of
    /// its steps may take a fifth of it at most, whatever the other limits say. Default 15 s; 1 s
    /// to 10 minutes.
    pub fn session(mut self, time: Duration) -> Self {
        self.session = time;
        self
    }

    /// Whether tables are made where there are none, and those of the version before are brought
    /// up to this library's. Default yes.
    pub fn make_tables(mut self, makes: bool) -> Self {
        self.makes_tables = makes;
        self
    }

    /// What stands between this process and the server. Default: it finds out.
    pub fn pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = pooling;
        self
    }

    /// The policy of scopes that have none of their own. It can't have a
    /// [`max_in_flight`](Policy::max_in_flight), for it is known to this process alone.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How often expired keys are swept, by one of the processes; `None` for never. Default 1 s;
    /// 10 ms to 1 day.
    pub fn sweep_every(mut self, every: Option<Duration>) -> Self {
        self.sweep_every = every;
        self
    }

    /// How often this process counts the interrupted keys of the store, for
    /// [`Stats`](crate::Stats); `None` for never: then `Stats` shows none. Default 10 s; 10 ms
    /// to 1 day. A count that takes long is made less often.
    pub fn count_every(mut self, every: Option<Duration>) -> Self {
        self.count_every = every;
        self
    }

    /// The most calls of one kind that wait for a connection, and the most grants that are still
    /// to be withdrawn. Beyond, calls are refused with [`SharedError::Busy`]. Default 10,000; 1 to
    /// 1,000,000.
    pub fn max_queued(mut self, calls: usize) -> Self {
        self.max_queued = calls;
        self
    }

    /// The most calls that wait for claims of other callers at once. Default 65,536; any number.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.max_waiters = waiters;
        self
    }

    /// Memory for results that are replayed without a round trip, in bytes. Default 64 MiB; 0 turns
    /// it off. A result is kept when it is replayed for the first time.
    ///
    /// A [`forget`](crate::Scope::forget) waits until every process has dropped the record: some
    /// milliseconds, or for a process that does not answer, the rest of its session. No process
    /// waits for one that keeps no results.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// The longest result and the longest progress, in bytes. Default 1 MiB; at most 16 MiB.
    /// Longer results of other processes, or of a file that was copied, are replayed all the same.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// The most calls in one statement. Default 512; 1 to 2,000.
    pub fn group_max(mut self, calls: usize) -> Self {
        self.group_max = calls;
        self
    }

    /// The observer of replays and other [events](crate::Event). Default none.
    ///
    /// Each process tells of what it does. Events that no call waits for come on the thread that
    /// carries all statements: that a claim was dropped, or was found over, and the close. A slow
    /// observer delays every call there, so hand longer work to another thread.
    pub fn observer(mut self, observer: Arc<impl Observer + 'static>) -> Self {
        self.hooks = Hooks::new(observer);
        self
    }

    /// The server's time in milliseconds as an SQL expression, for tests that set it.
    #[doc(hidden)]
    pub fn clock(mut self, sql: impl Into<String>) -> Self {
        self.clock = sql.into();
        self
    }

    /// What tells one server from another, as an SQL expression, for tests that have only one
    /// server.
    #[doc(hidden)]
    pub fn server(mut self, sql: impl Into<String>) -> Self {
        self.server = sql.into();
        self
    }

    /// Whether a call that goes alone has a statement of its own. Tests send it as a group of one.
    #[doc(hidden)]
    pub fn one_call_plans(mut self, has: bool) -> Self {
        self.one_call_plans = has;
        self
    }

    /// The server and the database of the address, for a person to agree to: as
    /// `db.internal:5432/payments`, without the role and its password.
    ///
    /// # Errors
    ///
    /// When the address can't be read.
    pub fn target(&self) -> Result<String, OpenError> {
        let address = Address::read(&self.url).map_err(|message| -> OpenError {
            SharedError::Unavailable(StoreFailure::new(FailureKind::Options, message)).into()
        })?;
        Ok(address.target())
    }

    /// The SQL that makes the tables, for a role that may: for stores whose services may not.
    ///
    /// # Errors
    ///
    /// When the name of the schema can't be used.
    pub fn plain_sql(&self) -> Result<String, OpenError> {
        schema::plain_sql(&self.schema).map_err(|failure| SharedError::Unavailable(failure).into())
    }

    /// The SQL that brings tables of the version before up to this library's, for the role that
    /// owns them. It adds to them, so processes of the library before go on meanwhile.
    ///
    /// # Errors
    ///
    /// When the name of the schema can't be used.
    pub fn migration_sql(&self) -> Result<String, OpenError> {
        schema::migration_sql(&self.schema).map_err(|failure| SharedError::Unavailable(failure).into())
    }

    /// The statements for this schema, whose name is quoted.
    pub(super) fn sql(&self, schema: &str) -> Sql {
        Sql::new(schema, &self.clock, &self.server, self.call_timeout)
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let short = Duration::from_millis(100);
        let (minute, long) = (Duration::from_secs(60), Duration::from_secs(600));
        OptionError::unless_within("connections", self.connections, 1, 4)
            .and_then(|()| OptionError::unless_within("connect_timeout", self.connect_timeout, short, minute))
            .and_then(|()| {
                OptionError::unless_within("statement_timeout", self.statement_timeout, short, minute)
            })
            .and_then(|()| OptionError::unless_within("call_timeout", self.call_timeout, short, long))
            .and_then(|()| OptionError::unless_within("session", self.session, Duration::from_secs(1), long))
            .and_then(|()| check_every("sweep_every", self.sweep_every))
            .and_then(|()| check_every("count_every", self.count_every))
            .and_then(|()| OptionError::unless_within("max_queued", self.max_queued, 1, 1_000_000))
            .and_then(|()| OptionError::unless_within("max_body_bytes", self.max_body_bytes, 0, 16 << 20))
            .and_then(|()| OptionError::unless_within("group_max", self.group_max, 1, 2_000))
            .and_then(|()| check_instance(self.instance.as_deref()))
            .and_then(|()| check_default(&self.policy))
            .map_err(OpenError::Option)
    }

    /// Where the server is, and what secures the way to it.
    pub(super) fn config(&self) -> Result<(tokio_postgres::Config, Tls), OpenError> {
        let refused = |message: String| -> OpenError {
            SharedError::Unavailable(StoreFailure::new(FailureKind::Options, message)).into()
        };
        let address = Address::read(&self.url).map_err(refused)?;
        let tls = for_address(&address).map_err(refused)?;
        let mut config = address.config;
        config.ssl_mode(address.mode.for_client());
        // A standby is refused when it is connected to, and of several hosts the primary is found.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_application_name().is_none() {
            config.application_name("idemkv");
        }
        Ok((config, tls))
    }

    /// How long a session lasts, in the server's milliseconds.
    pub(super) fn session_ms(&self) -> i64 {
        i64::try_from(millis(self.session)).unwrap_or(i64::MAX)
    }
}

/// Without the address, which may have a password.
impl std::fmt::Debug for SharedOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedOptions")
            .field("schema", &self.schema)
            .field("instance", &self.instance)
            .field("connections", &self.connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("call_timeout", &self.call_timeout)
            .field("session", &self.session)
            .field("pooling", &self.pooling)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Refuses a span that would keep the server busy, or that it can't add to a time.
fn check_every(name: &'static str, every: Option<Duration>) -> Result<(), OptionError> {
    let (short, long) = (Duration::from_millis(10), Duration::from_secs(86_400));
    every.map_or(Ok(()), |every| OptionError::unless_within(name, every, short, long))
}

/// Refuses a name that the server can't keep.
fn check_instance(name: Option<&str>) -> Result<(), OptionError> {
    match name {
        Some(name) if name.is_empty() || name.len() > 255 || name.contains('\0') => {
            Err(OptionError::new("instance", name, "1 to 255 bytes without a zero byte"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Refuses parts of a policy that a shared store does not have.
pub(super) fn check_policy(policy: &Policy) -> Result<(), OptionError> {
    policy.check()?;
    if policy.get_durability() != Durability::Full {
        let allowed = "Durability::Full: a shared store makes every grant and every result durable";
        return Err(OptionError::new("durability", policy.get_durability(), allowed));
    }
    match policy.get_max_in_flight() {
        Some(max) => OptionError::unless_within("max_in_flight", max, 1, IN_FLIGHT_MAX),
        None => Ok(()),
    }
}

/// The highest limit of a scope. The server looks up each claim in flight of the scope for each
/// group of begins.
const IN_FLIGHT_MAX: u32 = 1_000;

/// Refuses what the policy of scopes without one of their own can't have.
fn check_default(policy: &Policy) -> Result<(), OptionError> {
    check_policy(policy)?;
    match policy.get_max_in_flight() {
        // Places of scopes stay in the store, so the number of such scopes must have an end.
        Some(max) => {
            let allowed =
                "none: a limit over all processes is in the store; set it with `Engine::set_policy`";
            Err(OptionError::new("max_in_flight", max, allowed))
        }
        None => Ok(()),
    }
}
