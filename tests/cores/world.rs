//! A world: engines on one store, its clock, and processes that die.

use std::sync::Arc;
use std::time::Duration;

use idemkv::sim::{ManualClock, SimDisk};
use idemkv::{Begin, Claim, Engine, Fingerprint, Pending, Policy, Record, Recovery, Scope};

use crate::events::Log;

pub const START_MS: u64 = 1_800_000_000_000;
pub const TTL: Duration = Duration::from_secs(3_600);
pub const LEASE: Duration = Duration::from_secs(10);
pub const MS: Duration = Duration::from_millis(1);

/// Of scopes that have none of their own.
pub fn policy() -> Policy {
    Policy::default().ttl(TTL).recovery(Recovery::Rerun)
}

pub trait World {
    /// Opens the store, as one process at a time does.
    fn open(&self) -> Engine;

    /// The same with an observer.
    fn open_told(&self, observer: &Arc<Log>) -> Engine;

    fn is_shared(&self) -> bool;

    /// Lets time pass, on the store's clock. It may stand still otherwise.
    fn advance(&self, span: Duration);

    /// The process dies, with its engine and what else it held, and starts again.
    fn kill(&self, engine: Engine, held: Vec<Claim>) -> Engine;
}

/// A file on a simulated disk, of a process with the engine's own threads.
pub struct File {
    disk: SimDisk,
    clock: ManualClock,
}

impl Default for File {
    fn default() -> Self {
        Self { disk: SimDisk::new(), clock: ManualClock::at_millis(START_MS) }
    }
}

impl File {
    fn options(&self) -> idemkv::Options {
        Engine::options().disk(&self.disk).clock(&self.clock).policy(policy())
    }
}

impl World for File {
    fn open(&self) -> Engine {
        self.options().open("x.idem").unwrap()
    }

    fn open_told(&self, observer: &Arc<Log>) -> Engine {
        self.options().observer(Arc::clone(observer)).open("x.idem").unwrap()
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn advance(&self, span: Duration) {
        self.clock.advance(span);
    }

    fn kill(&self, engine: Engine, held: Vec<Claim>) -> Engine {
        self.disk.crash_at(self.disk.operations());
        drop((engine, held));
        self.disk.restart_process();
        self.open()
    }
}

#[cfg(feature = "postgres")]
const SESSION: Duration = Duration::from_secs(600);

/// A schema of its own in a `PostgreSQL` database.
#[cfg(feature = "postgres")]
pub struct Shared {
    server: &'static crate::server::Server,
    schema: String,
    /// What engines may keep in memory.
    cache_bytes: usize,
    /// Renews the sessions of the engines that were opened.
    renewals: std::sync::Mutex<Vec<Box<dyn Fn() + Send>>>,
}

#[cfg(feature = "postgres")]
impl Shared {
    pub fn new(test: &str) -> Option<Self> {
        Self::with(test, 0)
    }

    /// The same with results in memory.
    pub fn with_memory(test: &str) -> Option<Self> {
        Self::with(test, 1 << 20)
    }

    fn with(test: &str, cache_bytes: usize) -> Option<Self> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let server = crate::server::get()?;
        let mut hasher = DefaultHasher::new();
        test.hash(&mut hasher);
        let schema = format!("cores_{:x}", hasher.finish());
        server.sql(&format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.clock (now_ms bigint); \
             INSERT INTO {schema}.clock VALUES ({START_MS})"
        ));
        Some(Self { server, schema, cache_bytes, renewals: std::sync::Mutex::default() })
    }

    /// The sessions outlast every test, unless their process dies.
    fn options(&self) -> idemkv::SharedOptions {
        let clock = format!("(SELECT now_ms FROM {}.clock)", self.schema);
        let options = self.server.options(&self.schema).policy(policy()).clock(clock).sweep_every(None);
        options.instance("process").session(SESSION).cache_bytes(self.cache_bytes)
    }

    fn opened(&self, engine: Engine) -> Engine {
        self.renewals.lock().unwrap().push(engine.renews_shared());
        engine
    }
}

#[cfg(feature = "postgres")]
impl World for Shared {
    fn open(&self) -> Engine {
        self.opened(self.options().connect().unwrap())
    }

    fn open_told(&self, observer: &Arc<Log>) -> Engine {
        self.opened(self.options().observer(Arc::clone(observer)).connect().unwrap())
    }

    fn is_shared(&self) -> bool {
        true
    }

    /// A clock that jumps counts in memory from the next renewal on. With results in memory it goes in
    /// steps that no session ends in, for that would empty the memory.
    fn advance(&self, span: Duration) {
        let has_memory = self.cache_bytes > 0;
        let mut left = span;
        while !left.is_zero() {
            let step = if has_memory { left.min(SESSION / 2) } else { left };
            self.server.sql(&format!(
                "UPDATE {}.clock SET now_ms = now_ms + {}",
                self.schema,
                step.as_millis()
            ));
            left -= step;
            if has_memory {
                self.renewals.lock().unwrap().iter().for_each(|renews| renews());
            }
        }
    }

    /// What the process held is still with it when the next one takes its name.
    fn kill(&self, engine: Engine, held: Vec<Claim>) -> Engine {
        let next = self.open();
        drop((engine, held));
        next
    }
}

pub fn request() -> Fingerprint {
    Fingerprint::of("request")
}

/// Begins. A claim that was dropped may be on its way out yet: that is waited for.
pub fn begin(scope: &Scope, key: &str) -> Result<Begin, idemkv::BeginError> {
    loop {
        match scope.begin(key, request()) {
            Ok(Begin::InFlight(pending)) => drop(pending.wait().unwrap()),
            other => return other,
        }
    }
}

#[track_caller]
pub fn fresh(scope: &Scope, key: &str) -> Claim {
    match begin(scope, key) {
        Ok(Begin::Fresh(claim)) => claim,
        other => panic!("{key} should be fresh, is {other:?}"),
    }
}

#[track_caller]
pub fn done(scope: &Scope, key: &str) -> Record {
    match begin(scope, key) {
        Ok(Begin::Done(record)) => record,
        other => panic!("{key} should be done, is {other:?}"),
    }
}

#[track_caller]
pub fn pending(scope: &Scope, key: &str) -> Pending {
    match scope.begin(key, request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("{key} should be in flight, is {other:?}"),
    }
}

/// Drops a claim, and waits until its key is interrupted.
#[track_caller]
pub fn lose(scope: &Scope, claim: Claim) {
    let pending = pending(scope, std::str::from_utf8(claim.key()).unwrap());
    drop(claim);
    assert!(matches!(pending.wait().unwrap(), idemkv::Waited::Interrupted));
}
