//! Transfers of money in one database: claim, effect and result in one commit, by several processes
//! that are killed at random.
//!
//! ```text
//! cargo run --example transfer --features postgres -- postgres://postgres@127.0.0.1/postgres
//! ```
//!
//! Three workers each carry out the same list of transfers, in an order of their own, as if every
//! request came three times. One of them is killed again and again, and starts again. At the end
//! every transfer was made once.
//!
//! Copy `transfer`. No key is ever interrupted: a worker that dies leaves no trace of what it had not
//! committed. So nobody has to be asked, as the bank in `payments.rs` has.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example says what it does")]

use std::env;
use std::error::Error;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use idemkv::{BeginInTx, ClaimError, Engine, Fingerprint, Record, Scope, SharedOptions};
use tokio_postgres::{Client, NoTls};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

const WORKERS: usize = 3;
const TRANSFERS: u32 = 300;
const ACCOUNTS: u32 = 10;
const CENTS: i64 = 100_000;
/// Between two looks at the workers.
const PAUSE: Duration = Duration::from_millis(10);
/// A worker is killed after so many looks, and so many times: a slow machine must be able to get on.
const KILL_EVERY: u32 = 30;
const KILLS_MAX: u32 = 15;
/// The tables of this example, and those of the store.
const SCHEMA: &str = "idemkv_transfer";

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        [url] => show(url, |number| worker(url, number)).await,
        [url, "--worker", number] => work(url, number).await,
        _ => Err("usage: transfer postgres://USER@HOST/DATABASE".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("transfer: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- A transfer ----

/// A request, with the key that its client has chosen.
struct Transfer {
    key: String,
    from: u32,
    to: u32,
    cents: i64,
}

impl Transfer {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(format!("{} to {}: {} cents", self.from, self.to, self.cents))
    }
}

enum Answer {
    /// Of this call, or of one before it.
    Made(Record),
    /// Another caller is at it: 409, or try again.
    Busy,
}

/// Makes a transfer once, however often it is asked for.
async fn transfer(scope: &Scope, client: &mut Client, transfer: &Transfer) -> Result<Answer> {
    let mut transaction = client.transaction().await?;
    let begun = scope.begin_in_tx(&mut transaction, &transfer.key, transfer.fingerprint()).await;
    let claim = match begun {
        Ok(BeginInTx::Fresh(claim)) => claim,
        Ok(BeginInTx::Done(record)) => return Ok(Answer::Made(record)),
        Ok(BeginInTx::InFlight(_)) => return Ok(Answer::Busy),
        Err(error) if error.is_retryable() => return Ok(Answer::Busy),
        Err(error) => return Err(error.into()),
    };
    // Accounts are changed in the order of their numbers, so that two transfers do not deadlock.
    let mut steps = [(transfer.from, -transfer.cents), (transfer.to, transfer.cents)];
    steps.sort_unstable();
    for (account, cents) in steps {
        let sql = format!("UPDATE {SCHEMA}.accounts SET cents = cents + $2 WHERE number = $1");
        transaction.execute(&sql, &[&i64::from(account), &cents]).await?;
    }
    // Not unique on purpose: a transfer that is made twice would show.
    let sql = format!("INSERT INTO {SCHEMA}.ledger (key, cents) VALUES ($1, $2)");
    transaction.execute(&sql, &[&transfer.key, &transfer.cents]).await?;
    match claim.complete(&mut transaction, "made").await {
        Ok(stored) => {
            transaction.commit().await?;
            Ok(Answer::Made(stored.committed()))
        }
        // Another caller was faster; the drop of the transaction rolls back.
        Err(ClaimError::Superseded(_)) => Ok(Answer::Busy),
        Err(error) if error.is_retryable() => Ok(Answer::Busy),
        Err(error) => Err(error.into()),
    }
}

// ---- A worker ----

/// Carries out every transfer, and tries those again at which another worker is.
pub(crate) async fn work(url: &str, number: &str) -> Result<()> {
    let engine: Engine =
        SharedOptions::new(url).schema(SCHEMA).instance(format!("worker-{number}")).connect_async().await?;
    let scope = engine.scope("transfers");
    let mut client = connect(url).await?;
    let mut left: Vec<u32> = (0..TRANSFERS).collect();
    let start: usize = number.parse()?;
    left.rotate_left(start * 7);
    while !left.is_empty() {
        let mut busy = Vec::new();
        for n in left {
            if client.is_closed() {
                client = connect(url).await?;
            }
            match transfer(&scope, &mut client, &request(n)).await? {
                Answer::Made(record) => debug_assert_eq!(record.body(), b"made"),
                Answer::Busy => busy.push(n),
            }
        }
        left = busy;
    }
    Ok(())
}

fn request(n: u32) -> Transfer {
    let (from, to) = (n % ACCOUNTS, (n * 7 + 3) % ACCOUNTS);
    Transfer { key: format!("transfer-{n}"), from, to, cents: i64::from(n % 50) + 1 }
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

// ---- The whole ----

/// Starts the workers, kills some of them, and looks at what they have made. `worker` gives the
/// command of one.
pub(crate) async fn show(url: &str, worker: impl Fn(usize) -> Result<Command>) -> Result<()> {
    let client = connect(url).await?;
    let tables = format!(
        "DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}; \
         CREATE TABLE {SCHEMA}.accounts (number bigint PRIMARY KEY, cents bigint NOT NULL); \
         CREATE TABLE {SCHEMA}.ledger (key text NOT NULL, cents bigint NOT NULL); \
         INSERT INTO {SCHEMA}.accounts SELECT n, {CENTS} FROM generate_series(0, {ACCOUNTS} - 1) n"
    );
    client.batch_execute(&tables).await?;
    // Makes the tables of the store before the workers come.
    SharedOptions::new(url).schema(SCHEMA).connect_async().await?.close_async().await?;
    println!(
        "{WORKERS} workers are each asked for the same {TRANSFERS} transfers; one is killed every {:?}",
        PAUSE * KILL_EVERY
    );

    let start = |number| Ok((number, worker(number)?.stdin(Stdio::null()).spawn()?));
    let mut workers = (0..WORKERS).map(start).collect::<Result<Vec<_>>>()?;
    let (mut kills, mut looks) = (0, 0);
    while !workers.is_empty() {
        tokio::time::sleep(PAUSE).await;
        looks += 1;
        if looks % KILL_EVERY == 0 && kills < KILLS_MAX {
            kills += 1;
            // Each in its turn.
            workers.rotate_left(1);
            if let Some((number, worker)) = workers.first_mut() {
                worker.kill()?;
                worker.wait()?;
                *worker = start(*number)?.1;
            }
        }
        let mut running = Vec::new();
        for (number, mut worker) in workers {
            match worker.try_wait()? {
                None => running.push((number, worker)),
                Some(status) if status.success() => println!("worker {number} is done"),
                Some(status) => return Err(format!("worker {number} failed: {status}").into()),
            }
        }
        workers = running;
    }
    check(&client, kills).await
}

fn worker(url: &str, number: usize) -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args([url, "--worker", &number.to_string()]);
    Ok(command)
}

async fn check(client: &Client, kills: u32) -> Result<()> {
    let sql = format!(
        "SELECT (SELECT count(*) FROM {SCHEMA}.ledger), (SELECT count(DISTINCT key) FROM {SCHEMA}.ledger), \
         (SELECT sum(cents)::bigint FROM {SCHEMA}.accounts), \
         (SELECT count(*) FROM {SCHEMA}.keys WHERE state <> 3)"
    );
    let row = client.query_one(&sql, &[]).await?;
    let (made, keys, sum, open): (i64, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
    println!(
        "{kills} kills, {made} transfers made, of {keys} keys; {sum} cents in all; {open} keys are open"
    );
    if (made, keys, sum, open) != (i64::from(TRANSFERS), i64::from(TRANSFERS), CENTS * i64::from(ACCOUNTS), 0)
    {
        return Err("a transfer was lost, or made twice".into());
    }
    Ok(())
}
