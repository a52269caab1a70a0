//! `PgBouncer` between the processes and the server.

use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Begin, BeginInTx, Engine, Policy, Pooling, Recovery, SharedOptions, Status, Waited};
use tokio_postgres::NoTls;

use crate::server::{Gate, Server, claim, on_runtime, request, unprivileged, within};

const PROGRAM: &str = "/usr/sbin/pgbouncer";

pub struct Bouncer {
    port: u16,
}

impl Bouncer {
    /// In front of the server, with four connections to it; `None` without the program.
    pub fn start(server: &Server, pooling: &str, more: &str) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            eprintln!("SKIPPED: no {PROGRAM}");
            return None;
        }
        let directory = crate::server::directory().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (users, settings) = (directory.join("users"), directory.join("pgbouncer.ini"));
        std::fs::write(&users, "\"idemkv\" \"\"\n").unwrap();
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {pooling}\ndefault_pool_size = 4\n\
             logfile = {}\n{more}\n",
            server.port,
            users.display(),
            directory.join("pgbouncer.log").display()
        );
        std::fs::write(&settings, text).unwrap();
        // The thread lives as long as the tests, and with it the program.
        thread::spawn(move || {
            let mut program = unprivileged(Path::new(PROGRAM));
            program.arg("-q").arg(&settings).stderr(std::process::Stdio::null());
            program.spawn().unwrap().wait().ok();
        });
        let bouncer = Self { port };
        assert!(
            within(Duration::from_secs(30), || on_runtime(bouncer.client()).is_ok()),
            "it does not start"
        );
        Some(bouncer)
    }

    fn url(&self) -> String {
        format!("postgres://idemkv@127.0.0.1:{}/postgres", self.port)
    }

    pub fn options(&self, schema: &str) -> SharedOptions {
        SharedOptions::new(self.url()).schema(schema).policy(Policy::default().recovery(Recovery::Rerun))
    }

    /// A client of a test's own, on the runtime that calls this.
    async fn client(&self) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

fn is_pooled(store: &Engine) -> bool {
    store.shared_stats().unwrap().is_pooled
}

/// The pooler drops the words with which a connection starts, and the role has by chance what they
/// ask for.
#[test]
fn a_pooler_is_found_though_the_role_has_the_time_limit_that_is_asked_for() {
    let Some(server) = crate::server::another() else { return };
    server.sql("ALTER ROLE idemkv SET statement_timeout = '7s'");
    let more = "ignore_startup_parameters = extra_float_digits, options";
    let Some(bouncer) = Bouncer::start(&server, "transaction", more) else { return };
    let options = bouncer.options("bouncer_role").statement_timeout(Duration::from_secs(7));
    assert!(is_pooled(&options.connect().unwrap()));
}

#[test]
fn a_pooler_in_transaction_mode_is_found_and_calls_work() {
    let server = server!();
    // The second drops the words with which a connection sets what it needs, and so seems to take them.
    for (number, more) in ["", "ignore_startup_parameters = extra_float_digits, options"].iter().enumerate() {
        let Some(bouncer) = Bouncer::start(server, "transaction", more) else { return };
        let schema = format!("bouncer_{number}");
        let (one, two) =
            (bouncer.options(&schema).connect().unwrap(), bouncer.options(&schema).connect().unwrap());
        assert!(is_pooled(&one) && is_pooled(&two));
        let (here, there) = (one.scope("a"), two.scope("a"));
        let held = claim(&here, "key");
        let Ok(Begin::InFlight(pending)) = there.begin("key", request()) else { panic!() };
        let waiting = thread::spawn(move || (pending.wait().unwrap(), Instant::now()));
        let ended = Instant::now();
        held.complete("reply").unwrap();
        // No notification arrives.
        let (waited, told) = waiting.join().unwrap();
        assert!(matches!(waited, Waited::Done(record) if record.body() == b"reply"));
        assert!(told - ended < Duration::from_secs(5), "{:?}", told - ended);
        drop(claim(&there, "dropped"));
        while !matches!(here.get("dropped"), Ok(Status::Interrupted(_))) {}
        let second = claim(&here, "dropped");
        assert_eq!(second.attempt(), 2);
        let strict = one.set_policy("strict", Policy::default().lease(Duration::from_secs(60))).unwrap();
        let token = claim(&strict, "handed over").into_token().unwrap();
        two.scope("strict").resume(&token).unwrap().complete("").unwrap();
        assert!(there.forget("key").unwrap());
        let requests: Vec<_> = (0..300).map(|number| (format!("key {number}"), request())).collect();
        let claims = here.begin_many(&requests).into_iter().map(|begun| match begun {
            Ok(Begin::Fresh(claim)) => (claim, "many"),
            other => panic!("{other:?}"),
        });
        assert!(one.complete_many(claims.collect()).iter().all(Result::is_ok));
        assert_eq!(two.entries().count(), 302);
        let out = two.in_flight().get().unwrap();
        assert_eq!((out.len(), out[0].attempt().fence()), (1, second.fence()));
    }
}

#[test]
fn an_effect_and_its_completion_are_committed_together_through_a_pooler() {
    let server = server!();
    // What SQLx sets when it connects.
    let more = "ignore_startup_parameters = extra_float_digits";
    let Some(bouncer) = Bouncer::start(server, "transaction", more) else { return };
    let store = bouncer.options("bouncer_tx").connect().unwrap();
    assert!(is_pooled(&store));
    server.sql("CREATE TABLE bouncer_tx.effects (n int)");
    for (at, caller) in callers!().iter().enumerate() {
        let scope = store.scope(format!("{:?}", caller.client));
        on_runtime(async {
            // The second connection is served by the session that served the first.
            for is_committed in [true, false] {
                let mut client = caller.client.connect(bouncer.url()).await;
                let held = claim(&scope, if is_committed { "committed" } else { "rolled back" });
                let mut transaction = client.transaction().await;
                transaction.execute("INSERT INTO bouncer_tx.effects VALUES (1)").await.unwrap();
                let completed = transaction.complete_claim(held, "paid").await.unwrap();
                let Ok(BeginInTx::Fresh(whole)) = transaction.begin(&scope, "whole", request()).await else {
                    panic!()
                };
                let stored = transaction.complete(whole, "paid").await.unwrap();
                if is_committed {
                    transaction.commit().await.unwrap();
                    assert_eq!(
                        (completed.committed().body(), stored.committed().body()),
                        (&b"paid"[..], &b"paid"[..])
                    );
                    assert!(scope.forget_async("whole").await.unwrap());
                } else {
                    transaction.rollback().await.unwrap();
                    completed.rolled_back().release().unwrap();
                }
            }
        });
        assert_eq!(server.one("SELECT count(*) FROM bouncer_tx.effects"), (at + 1).to_string());
        assert!(matches!(scope.begin("committed", request()), Ok(Begin::Done(_))));
        for key in ["rolled back", "whole"] {
            assert!(matches!(scope.get(key), Ok(Status::Vacant)), "{key}");
        }
    }
}

/// Others are served by the same connections of the server.
#[test]
fn nothing_that_a_connection_needs_stays_with_a_pooler_for_others() {
    let server = server!();
    let Some(bouncer) = Bouncer::start(server, "transaction", "") else { return };
    let settings = || {
        on_runtime(async {
            let client = bouncer.client().await.unwrap();
            let mut all = Vec::new();
            client.batch_execute("BEGIN").await.unwrap();
            for name in [
                "search_path",
                "enable_seqscan",
                "statement_timeout",
                "lock_timeout",
                "jit",
                "plan_cache_mode",
            ] {
                let row = client.simple_query(&format!("SHOW {name}")).await.unwrap();
                let value = row.iter().find_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                });
                all.push(value);
            }
            client.batch_execute("COMMIT").await.unwrap();
            all
        })
    };
    let before = settings();
    // Other clients keep the pool busy while it is looked at.
    let other = bouncer.options("bouncer_clean").pooling(Pooling::Transaction).connect().unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|threads| {
        for number in 0..3 {
            let (other, is_over) = (&other, &is_over);
            threads.spawn(move || {
                let mut next = 0;
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    next += 1;
                    claim(&other.scope(""), &format!("{number} {next}")).release().unwrap();
                }
            });
        }
        for _ in 0..5 {
            let store = bouncer.options("bouncer_clean").connect().unwrap();
            assert!(is_pooled(&store));
            claim(&store.scope(""), "key").release().unwrap();
            store.close().unwrap();
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // All four connections of the pool.
    on_runtime(async {
        let mut held = Vec::new();
        for _ in 0..4 {
            let client = bouncer.client().await.unwrap();
            client.batch_execute("BEGIN").await.unwrap();
            let row = client.query_typed_one("SELECT current_setting('search_path')", &[]).await.unwrap();
            assert_eq!(Some(row.get::<_, String>(0)), before[0]);
            held.push(client);
        }
    });
    assert_eq!(settings(), before);
}

/// As behind one whose server fails over. The pooler's word for it is also that of other poolers
/// for what they can't do.
#[test]
fn a_connection_that_a_pooler_in_session_mode_loses_says_nothing_of_its_mode() {
    let server = server!();
    let Some(bouncer) = Bouncer::start(server, "session", "default_pool_size = 20") else { return };
    let options = bouncer.options("bouncer_broken").pooling(Pooling::Session).sweep_every(None);
    let store = options.count_every(None).connect().unwrap();
    let gate = Gate::shut(server, "bouncer_broken", "INSERT ON bouncer_broken.keys", "true");
    thread::scope(|threads| {
        let begun = threads.spawn(|| store.scope("").begin("key", request()));
        gate.holds(1);
        let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                     WHERE wait_event = 'advisory' AND query LIKE '%bouncer_broken%'";
        assert_eq!(server.one(ended), "1");
        assert!(within(Duration::from_secs(20), || store.shared_stats().unwrap().lost_connections > 0));
        gate.open();
        assert!(matches!(begun.join().unwrap(), Ok(Begin::Fresh(_))));
    });
    assert!(!is_pooled(&store));
}

#[test]
fn a_pooler_in_session_mode_that_is_named_has_notifications() {
    let server = server!();
    let Some(bouncer) = Bouncer::start(server, "session", "default_pool_size = 20") else { return };
    let options = || bouncer.options("bouncer_session").pooling(Pooling::Session);
    let (one, two) = (options().connect().unwrap(), options().connect().unwrap());
    assert!(!is_pooled(&one) && !is_pooled(&two));
    let held = claim(&one.scope(""), "key");
    let Ok(Begin::InFlight(pending)) = two.scope("").begin("key", request()) else { panic!() };
    let waiting = thread::spawn(move || pending.wait().unwrap());
    let wanted = "SELECT coalesce(bool_or(wanted), false) FROM bouncer_session.keys WHERE state = 1";
    assert!(within(Duration::from_secs(20), || server.one(wanted) == "t"));
    held.complete("reply").unwrap();
    assert!(matches!(waiting.join().unwrap(), Waited::Done(_)));
}
