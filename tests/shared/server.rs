//! A `PostgreSQL` server for these tests alone: in a directory of its own, with its syncs on.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Begin, Claim, Engine, Fingerprint, Policy, Recovery, Scope, SharedOptions};
use tokio_postgres::NoTls;

pub struct Server {
    pub port: u16,
    database: String,
}

pub fn get() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(start).as_ref()
}

/// A server for one test, which changes its settings.
pub fn another() -> Option<Server> {
    start()
}

fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<_> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    found.sort();
    found.pop().filter(|bin| bin.join("initdb").exists())
}

/// A command as an unprivileged user: the server refuses to run as root.
pub fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    // The server ends with the thread that started it.
    command.arg("--pdeathsig=QUIT");
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(program).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0)
}

fn postgres_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let user = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut numbers = user.split(':').skip(2).filter_map(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory that the server's user owns. Those of earlier runs are removed.
pub fn directory() -> Option<PathBuf> {
    const NAME: &str = "idemkv-postgres-";
    let all = std::env::temp_dir();
    for entry in fs::read_dir(&all).ok()?.flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if let Some(process) = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next())
            && !Path::new("/proc").join(process).exists()
        {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = all.join(format!("{NAME}{}-{number}", std::process::id()));
    fs::create_dir(&directory).ok()?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).ok()?;
    if is_root() {
        let (user, group) = postgres_user()?;
        chown(&directory, Some(user), Some(group)).ok()?;
    }
    Some(directory)
}

/// A server that runs. It ends with these tests at the latest.
pub struct Running {
    process: u32,
    ends: thread::JoinHandle<()>,
}

impl Running {
    /// On a thread of its own that lives as long as the server: without it the server ends. Returns
    /// once the server says that it is ready.
    fn start(mut server: Command, log: PathBuf) -> Option<Self> {
        let (started, is_started) = mpsc::sync_channel(1);
        let ends = thread::spawn(move || {
            let Ok(mut server) = server.stderr(Stdio::piped()).spawn() else { return };
            let (said, mut log) = (server.stderr.take().unwrap(), fs::File::create(log).unwrap());
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                writeln!(log, "{line}").unwrap();
                if line.contains("is ready to accept") {
                    started.try_send(server.id()).ok();
                }
            }
            server.wait().ok();
        });
        Some(Self { process: is_started.recv_timeout(Duration::from_secs(60)).ok()?, ends })
    }

    /// Ends the server by this signal. `KILL` ends all its processes, and none has a last word.
    pub fn end(self, signal: &str) {
        let mut processes = vec![self.process];
        if signal == "KILL" {
            processes.extend(children(self.process));
        }
        let numbers = processes.iter().map(u32::to_string);
        Command::new("kill").arg(format!("-{signal}")).args(numbers).stderr(Stdio::null()).status().ok();
        self.ends.join().ok();
    }
}

fn children(process: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Programs and directory of one server, or of several that copy each other.
pub struct Place {
    bin: PathBuf,
    pub directory: PathBuf,
}

impl Place {
    pub fn find() -> Option<Self> {
        Some(Self { bin: programs()?, directory: directory()? })
    }

    /// One of the programs, as the user that may run them.
    pub fn program(&self, name: &str) -> Command {
        unprivileged(&self.bin.join(name))
    }

    /// Makes the data of a server, with these settings. All that are made so can copy each other.
    pub fn init(&self, data: &str, settings: &str) -> Option<()> {
        static EMPTY: OnceLock<Option<PathBuf>> = OnceLock::new();
        let empty = EMPTY.get_or_init(|| {
            let data = directory()?.join("data");
            let made = self
                .program("initdb")
                .args(["--auth=trust", "--username=idemkv", "--encoding=UTF8", "--no-sync", "-D"])
                .arg(&data)
                .status();
            made.is_ok_and(|made| made.success()).then_some(data)
        });
        let data = self.directory.join(data);
        let copied = Command::new("cp").arg("-a").args([empty.as_ref()?, &data]).status();
        copied.ok().filter(std::process::ExitStatus::success)?;
        let file = data.join("postgresql.conf");
        let before = fs::read_to_string(&file).ok()?;
        let settings = format!(
            "{before}listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nmax_connections = 200\n\
             fsync = on\nlog_lock_waits = on\ndeadlock_timeout = 200ms\nlc_messages = 'C'\n{settings}",
            self.directory.display()
        );
        fs::write(file, settings).ok()
    }

    /// Starts a server over such data.
    pub fn start(&self, data: &str, port: u16) -> Option<(Running, Server)> {
        let mut server = self.program("postgres");
        server.arg("-D").arg(self.directory.join(data)).args(["-p", &port.to_string()]);
        let running = Running::start(server, self.directory.join(format!("{data}.log")))?;
        Some((running, Server { port, database: "postgres".to_owned() }))
    }
}

/// So many ports that nobody uses.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn start() -> Option<Server> {
    let place = Place::find()?;
    place.init("data", "")?;
    let [port] = free_ports();
    // It runs as long as the tests.
    let (_running, server) = place.start("data", port)?;
    Some(server)
}

impl Server {
    pub fn url(&self) -> String {
        format!("postgres://idemkv@127.0.0.1:{}/{}", self.port, self.database)
    }

    /// The same server, with a database of this name, which is made.
    pub fn database(&self, name: &str) -> Self {
        self.sql(&format!("CREATE DATABASE \"{name}\""));
        Self { port: self.port, database: name.to_owned() }
    }

    /// Options for the tables of one test.
    pub fn options(&self, schema: &str) -> SharedOptions {
        let policy = Policy::default().ttl(Duration::from_secs(3_600)).recovery(Recovery::Rerun);
        SharedOptions::new(self.url()).schema(schema).policy(policy)
    }

    pub fn connect(&self, schema: &str) -> Engine {
        self.options(schema).connect().unwrap()
    }

    /// A client of a test's own, on the runtime that calls this.
    pub async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs statements as a person would; the rows of the last, as text.
    pub fn sql(&self, script: &str) -> Vec<Vec<Option<String>>> {
        self.try_sql(script).unwrap_or_else(|error| panic!("{script}: {error:?}"))
    }

    pub fn try_sql(&self, script: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
        on_runtime(async {
            let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await?;
            let running = tokio::spawn(connection);
            let messages = client.simple_query(script).await;
            drop(client);
            running.await.unwrap().ok();
            let mut rows = Vec::new();
            for message in messages? {
                if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                    rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
                }
            }
            Ok(rows)
        })
    }

    /// One value.
    pub fn one(&self, query: &str) -> String {
        self.sql(query)[0][0].clone().unwrap_or_default()
    }

    /// Refuses changes of keys with this SQLSTATE, where the condition holds, until it is dropped.
    pub fn refuse_changes(&'static self, schema: &str, code: &str, when: &str) -> Refusals {
        self.sql(&format!(
            "CREATE SEQUENCE {schema}.refusals;
             CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM nextval('{schema}.refusals');
                 RAISE EXCEPTION 'refused as planned' USING ERRCODE = '{code}';
             END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON {schema}.keys FOR EACH ROW WHEN ({when})
                 EXECUTE FUNCTION {schema}.refuse();"
        ));
        Refusals { server: self, schema: schema.to_owned() }
    }
}

/// Changes are refused.
pub struct Refusals {
    server: &'static Server,
    schema: String,
}

impl Refusals {
    /// Waits until so many were.
    pub fn wait_for(&self, refusals: u32) {
        // The number is no part of the transaction that is refused.
        let query =
            format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {}.refusals", self.schema);
        while self.server.one(&query).parse::<u32>().unwrap() < refusals {}
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        let schema = &self.schema;
        self.server.sql(&format!("DROP TRIGGER refuse ON {schema}.keys"));
    }
}

/// On a thread of its own: the caller may be a task itself.
pub fn on_runtime<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    thread::scope(|threads| threads.spawn(run).join().unwrap())
}

pub fn request() -> Fingerprint {
    Fingerprint::of("request")
}

#[track_caller]
pub fn claim(scope: &Scope, key: &str) -> Claim {
    match scope.begin(key, request()) {
        Ok(Begin::Fresh(claim)) => claim,
        other => panic!("{other:?}"),
    }
}

/// A connection of a test's own.
pub struct Client {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
}

impl Client {
    pub fn connect(server: &Server) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(&server.url(), NoTls)).unwrap();
        runtime.spawn(connection);
        Self { runtime, client }
    }

    /// The rows of the last statement, as text.
    pub fn run(&mut self, script: &str) -> Vec<Vec<Option<String>>> {
        let messages = self.runtime.block_on(self.client.simple_query(script));
        let mut rows = Vec::new();
        for message in messages.unwrap_or_else(|error| panic!("{script}: {error:?}")) {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
            }
        }
        rows
    }
}

/// Holds up commits that write certain rows, as a stalled disk or an absent standby does: no time
/// limit of the statement ends that wait.
pub struct Gate<'a> {
    server: &'a Server,
    keeper: Client,
    number: u32,
}

impl<'a> Gate<'a> {
    /// For changes of this table's rows, where `condition` holds for `NEW`.
    pub fn shut(server: &'a Server, schema: &str, on: &str, condition: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) + 1_000;
        let mut keeper = Client::connect(server);
        keeper.run(&format!("SELECT pg_advisory_lock({number})"));
        server.sql(&format!(
            "CREATE FUNCTION {schema}.gate_{number}() RETURNS trigger LANGUAGE plpgsql \
               SET lock_timeout = 0 SET statement_timeout = 0 \
               AS 'BEGIN PERFORM pg_advisory_xact_lock_shared({number}); RETURN NULL; END'; \
             CREATE CONSTRAINT TRIGGER gate_{number} AFTER {on} DEFERRABLE INITIALLY DEFERRED \
               FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {schema}.gate_{number}()"
        ));
        Self { server, keeper, number }
    }

    /// Waits until so many commits are held up.
    pub fn holds(&self, commits: u32) {
        let waiting = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {} AND NOT granted",
            self.number
        );
        let until = Instant::now() + Duration::from_secs(30);
        while self.server.one(&waiting) != commits.to_string() {
            assert!(Instant::now() < until, "no commit came so far");
        }
    }

    /// Lets all commits through from now on.
    pub fn open(mut self) {
        self.keeper.run(&format!("SELECT pg_advisory_unlock({})", self.number));
    }
}

/// Asks until it is so; `false` if it was not within the time.
pub fn within(time: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + time;
    while !is_so() {
        if Instant::now() > until {
            return false;
        }
    }
    true
}
