//! Claim and completion over `PostgreSQL`: groups of this crate's against two statements a
//! lifecycle on a pool of connections, on a server that this bench starts.
//!
//!     cargo bench --features postgres --bench shared [seconds]
//!     cargo bench --features postgres --bench shared transactions [seconds]
//!     cargo bench --features sqlx-0_9 --bench shared transactions [seconds]
//!     cargo bench --features postgres --bench shared 'in_flight=1' [seconds]
//!     cargo bench --features postgres --bench shared copy

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench"
)]

#[path = "../tests/shared/server.rs"]
mod server;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Begin, BeginInTx, CommitMode, Engine};
use server::{Server, claim, request};
use tokio_postgres::NoTls;

const BODY: [u8; 100] = [b'x'; 100];

/// Lifecycles a second, and the processor time of client and server in µs each.
struct Figures {
    rate: f64,
    client_us: f64,
    server_us: f64,
}

/// Ticks of a hundredth of a second that a process has used.
fn ticks(process: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let of = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    of(11) + of(12)
}

/// Of all processes named `postgres`, living and gone.
fn server_ticks() -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let is_server =
            fs::read_to_string(format!("/proc/{name}/comm")).is_ok_and(|comm| comm.trim() == "postgres");
        if name.chars().all(|c| c.is_ascii_digit()) && is_server {
            sum += ticks(&name);
        }
    }
    sum
}

/// Runs `one` in so many tasks for so long.
async fn measure<F: Future<Output = ()> + Send>(
    in_flight: usize,
    time: Duration,
    one: impl Fn(usize, u64) -> F + Clone + Send + 'static,
) -> Figures {
    let done = Arc::new(AtomicU64::new(0));
    let (client, server) = (ticks("self"), server_ticks());
    let started = Instant::now();
    let tasks: Vec<_> = (0..in_flight)
        .map(|task| {
            let (one, done) = (one.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut round = 0;
                while started.elapsed() < time {
                    one(task, round).await;
                    round += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let done = done.load(Ordering::Relaxed) as f64;
    let us = |ticks: u64| ticks as f64 * 10_000.0 / done;
    Figures {
        rate: done / started.elapsed().as_secs_f64(),
        client_us: us(ticks("self") - client),
        server_us: us(server_ticks().saturating_sub(server)),
    }
}

/// Two prepared statements a lifecycle, each on a connection of the pool that it has to itself.
async fn naive(server: &Server, in_flight: usize, connections: usize, time: Duration) -> Figures {
    server.sql("CREATE SCHEMA IF NOT EXISTS naive; DROP TABLE IF EXISTS naive.keys; \
                CREATE TABLE naive.keys (id text PRIMARY KEY, fingerprint bytea, state smallint, body bytea, expires timestamptz)");
    let (put, take) = tokio::sync::mpsc::channel(connections);
    for _ in 0..connections {
        let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let begin = client
            .prepare(
                "INSERT INTO naive.keys (id, fingerprint, state) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING",
            )
            .await
            .unwrap();
        let complete = client
            .prepare("UPDATE naive.keys SET state = 2, body = $2, expires = now() + interval '1 day' WHERE id = $1 AND state = 1")
            .await
            .unwrap();
        put.send((client, begin, complete)).await.unwrap();
    }
    let take = Arc::new(tokio::sync::Mutex::new(take));
    measure(in_flight, time, move |task, round| {
        let (put, take) = (put.clone(), Arc::clone(&take));
        async move {
            let key = format!("key {task} {round}");
            let connection = take.lock().await.recv().await.unwrap();
            let (client, begin, _) = &connection;
            let request = request();
            let rows = client.execute(begin, &[&key, &request.as_bytes().as_slice()]).await.unwrap();
            assert_eq!(rows, 1);
            put.send(connection).await.unwrap();
            let connection = take.lock().await.recv().await.unwrap();
            let (client, _, complete) = &connection;
            client.execute(complete, &[&key, &BODY.as_slice()]).await.unwrap();
            put.send(connection).await.unwrap();
        }
    })
    .await
}

async fn ours(server: &Server, in_flight: usize, connections: usize, time: Duration) -> Figures {
    server.sql("DROP SCHEMA IF EXISTS bench CASCADE");
    let options = server.options("bench").connections(connections);
    let store = options.connect_async().await.unwrap();
    let scope = store.scope("bench");
    let figures = measure(in_flight, time, move |task, round| {
        let scope = scope.clone();
        async move {
            let begun = scope.begin_async(format!("key {task} {round}"), request()).await;
            let Ok(Begin::Fresh(claim)) = begun else { panic!("{begun:?}") };
            claim.complete_async(BODY).await.unwrap();
        }
    })
    .await;
    drop(store.close_async().await);
    figures
}

async fn replays(server: &Server, in_flight: usize, time: Duration) -> Figures {
    let store = server.options("bench_replays").cache_bytes(0).connect_async().await.unwrap();
    let scope = store.scope("bench");
    if let Ok(Begin::Fresh(claim)) = scope.begin_async("key", request()).await {
        claim.complete_async(BODY).await.unwrap();
    }
    measure(in_flight, time, move |_, _| {
        let scope = scope.clone();
        async move {
            assert!(matches!(scope.begin_async("key", request()).await, Ok(Begin::Done(_))));
        }
    })
    .await
}

/// Replays of one key from memory by so many threads.
fn hot_replays(server: &Server, threads: usize, time: Duration) -> Figures {
    let store = server.options("bench_hot").connect().unwrap();
    let scope = store.scope("bench");
    if let Ok(Begin::Fresh(claim)) = scope.begin("key", request()) {
        claim.complete(BODY).unwrap();
    }
    let done = AtomicU64::new(0);
    let (client, ticks_before) = (ticks("self"), server_ticks());
    let started = Instant::now();
    thread::scope(|all| {
        for _ in 0..threads {
            all.spawn(|| {
                while started.elapsed() < time {
                    for _ in 0..1_000 {
                        assert!(matches!(scope.begin("key", request()), Ok(Begin::Done(_))));
                    }
                    done.fetch_add(1_000, Ordering::Relaxed);
                }
            });
        }
    });
    let done = done.into_inner() as f64;
    let us = |ticks: u64| ticks as f64 * 10_000.0 / done;
    Figures {
        rate: done / started.elapsed().as_secs_f64(),
        client_us: us(ticks("self") - client),
        server_us: us(server_ticks().saturating_sub(ticks_before)),
    }
}

/// A prepared select by primary key, on a connection for each task.
async fn selects(server: &Server, in_flight: usize, time: Duration) -> Figures {
    server.sql("CREATE SCHEMA IF NOT EXISTS naive; DROP TABLE IF EXISTS naive.done; \
                CREATE TABLE naive.done (id text PRIMARY KEY, fingerprint bytea, state smallint, body bytea, expires timestamptz); \
                INSERT INTO naive.done VALUES ('key', repeat('x', 32)::bytea, 2, repeat('x', 100)::bytea, now() + interval '1 day')");
    let mut clients = Vec::new();
    for _ in 0..in_flight {
        let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let select =
            client.prepare("SELECT fingerprint, state, body, expires > now() FROM naive.done WHERE id = $1");
        let select = select.await.unwrap();
        clients.push((client, select));
    }
    let clients = Arc::new(clients);
    measure(in_flight, time, move |task, _| {
        let clients = Arc::clone(&clients);
        async move {
            let (client, select) = &clients[task];
            let row = client.query_one(select, &[&"key"]).await.unwrap();
            assert_eq!(row.get::<_, &[u8]>(2), BODY);
        }
    })
    .await
}

/// A transaction with an effect, by itself; with one more statement, as an application would write
/// it; with claim and result; and the same with our statements prepared. In turn, on one connection.
/// The first three by `SQLx` as well, with its feature. Medians in µs.
async fn transactions(server: &Server, time: Duration) -> (Vec<f64>, Vec<f64>) {
    server.sql(
        "DROP SCHEMA IF EXISTS bench_tx CASCADE; CREATE SCHEMA bench_tx; \
         CREATE TABLE bench_tx.seen (key text PRIMARY KEY, fingerprint bytea, body bytea); \
         CREATE TABLE bench_tx.accounts (number int PRIMARY KEY, cents bigint); \
         INSERT INTO bench_tx.accounts SELECT n, 1000 FROM generate_series(0, 99) n",
    );
    let store = server.options("bench_tx").connect_async().await.unwrap();
    let scope = store.scope("bench");
    let mut client = server.client().await;
    let spend = "UPDATE bench_tx.accounts SET cents = cents + $2 WHERE number = $1";
    let spend = client.prepare(spend).await.unwrap();
    let seen =
        "INSERT INTO bench_tx.seen (key, fingerprint, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let seen = client.prepare(seen).await.unwrap();
    let statements = store.prepare_for_tx(&client).await.unwrap();
    #[cfg(feature = "sqlx-0_9")]
    let (mut by_sqlx, mut took_by_sqlx) = (BySqlx::connect(server).await, vec![Vec::new(); 3]);
    #[cfg(not(feature = "sqlx-0_9"))]
    let took_by_sqlx = Vec::new();
    let (started, mut took, mut round) = (Instant::now(), vec![Vec::new(); 4], 0_i32);
    while started.elapsed() < time {
        round += 1;
        for (which, took) in took.iter_mut().enumerate() {
            let (key, one) = (format!("key {which} {round}"), Instant::now());
            let mut transaction = client.transaction().await.unwrap();
            let begun = match which {
                2 => Some(scope.begin_in_tx(&mut transaction, &key, request()).await.unwrap()),
                3 => {
                    let begun = scope.begin_in_tx_with(&statements, &mut transaction, &key, request());
                    Some(begun.await.unwrap())
                }
                _ => None,
            };
            let claim = begun.map(|begun| match begun {
                BeginInTx::Fresh(claim) => claim,
                other @ (BeginInTx::InFlight(_) | BeginInTx::Done(_)) => panic!("{other:?}"),
            });
            transaction.execute(&spend, &[&(round % 100), &-10_i64]).await.unwrap();
            transaction.execute(&spend, &[&((round + 1) % 100), &10_i64]).await.unwrap();
            if which == 1 {
                let request = request();
                let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                    [&key, &request.as_bytes().as_slice(), &BODY.as_slice()];
                assert_eq!(transaction.execute(&seen, &params).await.unwrap(), 1);
            }
            let stored = match claim {
                Some(claim) => Some(claim.complete(&mut transaction, BODY).await.unwrap()),
                None => None,
            };
            transaction.commit().await.unwrap();
            drop(stored.map(idemkv::UncommittedRecord::committed));
            took.push(one.elapsed().as_secs_f64() * 1e6);
        }
        #[cfg(feature = "sqlx-0_9")]
        for (which, took) in took_by_sqlx.iter_mut().enumerate() {
            let one = Instant::now();
            by_sqlx.transaction(&scope, which, round).await.unwrap();
            took.push(one.elapsed().as_secs_f64() * 1e6);
        }
    }
    (medians(took), medians(took_by_sqlx))
}

fn medians(took: Vec<Vec<f64>>) -> Vec<f64> {
    let median = |mut took: Vec<f64>| {
        took.sort_by(f64::total_cmp);
        took[took.len() / 2]
    };
    took.into_iter().map(median).collect()
}

/// A connection of `SQLx`.
#[cfg(feature = "sqlx-0_9")]
struct BySqlx(sqlx_0_9::PgConnection);

#[cfg(feature = "sqlx-0_9")]
impl BySqlx {
    async fn connect(server: &Server) -> Self {
        Self(<sqlx_0_9::PgConnection as sqlx_0_9::Connection>::connect(&server.url()).await.unwrap())
    }

    /// By itself, with one more statement, or with claim and result.
    async fn transaction(&mut self, scope: &idemkv::Scope, which: usize, round: i32) -> sqlx_0_9::Result<()> {
        use sqlx_0_9::{Connection, query};

        let key = format!("key by sqlx {which} {round}");
        let mut transaction = self.0.begin().await?;
        let claim = match which {
            2 => match scope.begin_in_tx(&mut transaction, &key, request()).await.unwrap() {
                BeginInTx::Fresh(claim) => Some(claim),
                other @ (BeginInTx::InFlight(_) | BeginInTx::Done(_)) => panic!("{other:?}"),
            },
            _ => None,
        };
        for (number, cents) in [(round % 100, -10_i64), ((round + 1) % 100, 10)] {
            let spend = query("UPDATE bench_tx.accounts SET cents = cents + $2 WHERE number = $1");
            spend.bind(number).bind(cents).execute(&mut *transaction).await?;
        }
        if which == 1 {
            let seen = "INSERT INTO bench_tx.seen (key, fingerprint, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
            let seen = query(seen).bind(&key).bind(request().as_bytes().as_slice()).bind(BODY.as_slice());
            assert_eq!(seen.execute(&mut *transaction).await?.rows_affected(), 1);
        }
        let stored = match claim {
            Some(claim) => Some(claim.complete(&mut transaction, BODY).await.unwrap()),
            None => None,
        };
        transaction.commit().await?;
        drop(stored.map(idemkv::UncommittedRecord::committed));
        Ok(())
    }
}

/// Keys a second that are copied from a file.
fn copies(server: &Server) -> f64 {
    const KEYS: usize = 100_000;
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::options().commit_mode(CommitMode::Buffered).open(&path).unwrap();
    let scope = engine.scope("bench");
    for number in 0..KEYS {
        claim(&scope, &format!("key {number}")).complete(vec![b'x'; 100]).unwrap();
    }
    engine.close().unwrap();
    let file = Engine::options().read_only().open(&path).unwrap();
    let start = Instant::now();
    file.copy_to(server.options("bench_copy")).unwrap();
    KEYS as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(3);
    let time = Duration::from_secs(seconds);
    let Some(server) = server::get() else {
        println!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    if std::env::args().any(|word| word == "copy") {
        println!("copied from a file: {:.0} keys a second", copies(server));
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let only = std::env::args().find_map(|word| word.strip_prefix("in_flight=")?.parse::<usize>().ok());
    if only.is_none() {
        let (took, by_sqlx) = runtime.block_on(transactions(server, time));
        let (plus_one, names) =
            (took[1], ["effect alone", "with one statement", "with claim and result", "prepared"]);
        for (client, took) in [("tokio-postgres", took), ("SQLx", by_sqlx)] {
            for (name, took) in names.iter().zip(took) {
                println!("a transaction by {client}, {name}: {took:.0} µs ({:.2})", took / plus_one);
            }
        }
    }
    if std::env::args().any(|word| word == "transactions") {
        return;
    }
    println!(
        "| in flight | what | lifecycles/s | client, µs each | server, µs each |\n|---|---|---|---|---|"
    );
    let show = |in_flight: usize, what: &str, figures: &Figures| {
        println!(
            "| {in_flight} | {what} | {:.0} | {:.0} | {:.0} |",
            figures.rate, figures.client_us, figures.server_us
        );
    };
    for in_flight in [1, 2].into_iter().filter(|_| only.is_none()) {
        let figures = runtime.block_on(selects(server, in_flight, time));
        show(in_flight, "select by primary key", &figures);
        show(in_flight, "replay from memory", &hot_replays(server, in_flight, time));
    }
    for in_flight in [1, 64, 256].into_iter().filter(|number| only.is_none_or(|only| *number == only)) {
        // One after the other, twice, so that a noisy moment does not meet one alone.
        for _ in 0..2 {
            for connections in [10, 64] {
                let figures =
                    runtime.block_on(naive(server, in_flight, connections.min(in_flight.max(2)), time));
                show(in_flight, &format!("two statements, pool of {connections}"), &figures);
                if in_flight == 1 {
                    break;
                }
            }
            for connections in [1, 2, 4] {
                let figures = runtime.block_on(ours(server, in_flight, connections, time));
                show(in_flight, &format!("groups, {connections} connections"), &figures);
            }
        }
        let figures = runtime.block_on(replays(server, in_flight, time));
        show(in_flight, "replay from the store", &figures);
    }
}
