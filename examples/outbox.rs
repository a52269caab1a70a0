//! Outbox: an effect that lives in the same file as its completion happens exactly once, whenever
//! the process is killed.
//!
//! ```text
//! cargo run --release --example outbox
//! ```
//!
//! A worker takes deposits. Each one raises a balance and puts a message for other services into
//! an outbox: tables of the application's own, written in one transaction with the completion of
//! the deposit's idempotency key. From time to time it sends the messages, and deletes them. This
//! process kills the worker at random moments, starts it again, and gives it all deposits again,
//! as clients that retry do. In the end every deposit must have been booked once, its message must
//! have one number of its own, and what was answered must be what was booked. A message may come
//! twice, under the same number.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example says what it found")]
#![allow(clippy::disallowed_methods, reason = "this program owns its clock")]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use idemkv::tables::Tables;
use idemkv::tables::redb::{ReadableTable, TableDefinition};
use idemkv::{Begin, Claim, Engine, Fingerprint, Record, Recovery};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Cents by account.
const BALANCES: TableDefinition<'_, &str, u64> = TableDefinition::new("balances");
/// Messages for other services, numbered in the order of the bookings. Their sender deletes them.
const OUTBOX: TableDefinition<'_, u64, &str> = TableDefinition::new("outbox");
/// The number of the last message. It stays when the message is deleted: its receivers take a
/// number that comes again for a duplicate.
const LAST_NUMBER: TableDefinition<'_, (), u64> = TableDefinition::new("last_number");

/// Set for a worker: the directory to work in.
const WORKER_DIR: &str = "IDEMKV_OUTBOX_DIR";
const DEPOSITS: u64 = 2_000;
const ACCOUNTS: u64 = 7;
/// The worker sends its messages after so many deposits.
const SEND_EVERY: u64 = 16;
const KILLS: u32 = 25;
/// A worker lives for up to so long before it is killed.
const LIFE_MAX: Duration = Duration::from_millis(120);
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let result = match env::var_os(WORKER_DIR) {
        Some(dir) => work(&PathBuf::from(dir)),
        None => supervise(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outbox: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a client asks for.
struct Deposit {
    key: String,
    account: String,
    cents: u64,
}

impl Deposit {
    fn new(number: u64) -> Self {
        Self {
            key: format!("deposit-{number}"),
            account: format!("account-{}", number % ACCOUNTS),
            cents: 100 + number,
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::builder()
            .field("account", &self.account)
            .field("cents", self.cents.to_le_bytes())
            .finish()
    }

    /// Books the deposit, and answers it, in one transaction.
    fn book(&self, claim: Claim) -> Result<Record> {
        let booked = claim.complete_in(|tables: &Tables<'_>| {
            let mut balances = tables.open_table(BALANCES)?;
            let balance = balances.get(&*self.account)?.map_or(0, |balance| balance.value()) + self.cents;
            balances.insert(&*self.account, balance)?;

            let mut last_number = tables.open_table(LAST_NUMBER)?;
            let number = last_number.get(())?.map_or(0, |last| last.value()) + 1;
            last_number.insert((), number)?;
            tables.open_table(OUTBOX)?.insert(number, &*self.key)?;
            Ok::<_, Box<dyn Error>>(format!("message {number}"))
        });
        booked.map_err(|error| error.to_string().into())
    }
}

/// Sends what is in the outbox, and deletes it. A kill in between sends it again, under the same
/// numbers.
fn send(engine: &Engine, receiver: &mut File) -> Result<()> {
    let messages = engine.read_tables(|tables| {
        let outbox = tables.open_table(OUTBOX)?;
        let rows =
            outbox.iter()?.map(|row| row.map(|(number, key)| (number.value(), key.value().to_owned())));
        Ok::<_, Box<dyn Error>>(rows.collect::<std::result::Result<Vec<_>, _>>()?)
    })??;
    let Some((first, _)) = messages.first() else { return Ok(()) };
    // As the deposits: what was sent twice has the same number.
    let batches = engine.set_policy("outbox", engine.policy().recovery(Recovery::Rerun))?;
    let Begin::Fresh(claim) = batches.begin(first.to_string(), Fingerprint::of("send"))? else {
        return Err(format!("message {first} was sent and deleted before").into());
    };
    for (number, key) in &messages {
        receiver.write_all(format!("{number} {key}\n").as_bytes())?;
    }
    let deleted = claim.complete_in(|tables| {
        let mut outbox = tables.open_table(OUTBOX)?;
        for (number, _) in &messages {
            outbox.remove(number)?;
        }
        Ok::<_, Box<dyn Error>>("")
    });
    deleted.map(drop).map_err(|error| error.to_string().into())
}

/// Takes every deposit, as after a restart of a service whose clients all retry.
fn work(dir: &Path) -> Result<()> {
    let engine = Engine::open(dir.join("bank.idem"))?;
    // A deposit may run again: an attempt that was interrupted has left nothing, for its booking
    // and its completion are one.
    let deposits = engine.set_policy("POST /deposits", engine.policy().recovery(Recovery::Rerun))?;
    let mut receiver = OpenOptions::new().create(true).append(true).open(dir.join("received"))?;
    for (count, deposit) in (1..).zip((0..DEPOSITS).map(Deposit::new)) {
        match deposits.begin(&deposit.key, deposit.fingerprint())? {
            Begin::Fresh(claim) => drop(deposit.book(claim)?),
            Begin::Done(_) => {}
            Begin::InFlight(_) => return Err("nobody else takes deposits".into()),
        }
        if count % SEND_EVERY == 0 {
            send(&engine, &mut receiver)?;
        }
    }
    engine.close()?;
    Ok(())
}

/// Kills workers until one is through, then counts.
fn supervise() -> Result<()> {
    let dir = env::temp_dir().join(format!("idemkv-outbox-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let outcome = kill_and_count(&dir);
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn kill_and_count(dir: &Path) -> Result<()> {
    let seed = RandomState::new().hash_one(0);
    println!("{DEPOSITS} deposits, a worker that is killed {KILLS} times; seed {seed:016x}");
    let started = Instant::now();
    let mut state = seed;
    for kill in 1..=KILLS {
        let mut worker = worker(dir)?;
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        sleep(LIFE_MAX * u32::from(u16::try_from(state >> 48)?) / u32::from(u16::MAX));
        worker.kill()?;
        worker.wait()?;
        if kill % 5 == 0 {
            println!("  killed {kill} times");
        }
    }
    let mut last = worker(dir)?;
    while last.try_wait()?.is_none() {
        if started.elapsed() > GIVE_UP_AFTER {
            last.kill()?;
            return Err("the last worker takes too long".into());
        }
        sleep(Duration::from_millis(20));
    }
    if !last.wait()?.success() {
        return Err("the last worker failed".into());
    }
    count(dir, started.elapsed())
}

fn worker(dir: &Path) -> Result<std::process::Child> {
    let mut command = Command::new(env::current_exe()?);
    Ok(command.env(WORKER_DIR, dir).stdin(Stdio::null()).spawn()?)
}

/// Every message that its receiver got, by deposit. A message that comes again changes nothing.
fn received(dir: &Path) -> Result<BTreeMap<String, BTreeSet<u64>>> {
    let mut messages: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for line in std::fs::read_to_string(dir.join("received"))?.lines() {
        let (number, key) = line.split_once(' ').ok_or("a line of the receiver is cut off")?;
        messages.entry(key.to_owned()).or_default().insert(number.parse()?);
    }
    Ok(messages)
}

/// Whether every deposit was booked once, with one message, and answered with that.
fn count(dir: &Path, took: Duration) -> Result<()> {
    let engine = Engine::open(dir.join("bank.idem"))?;
    let deposits = engine.scope("POST /deposits");
    let (balances, left) = engine.read_tables(|tables| {
        let mut balances = BTreeMap::new();
        for row in tables.open_table(BALANCES)?.iter()? {
            let (account, cents) = row?;
            balances.insert(account.value().to_owned(), cents.value());
        }
        Ok::<_, Box<dyn Error>>((balances, tables.open_table(OUTBOX)?.iter()?.count()))
    })??;
    let messages = received(dir)?;
    let numbers: BTreeSet<u64> = messages.values().flatten().copied().collect();

    let (mut wrong, mut again) = (0, 0);
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for deposit in (0..DEPOSITS).map(Deposit::new) {
        *expected.entry(deposit.account.clone()).or_default() += deposit.cents;
        let Begin::Done(record) = deposits.begin(&deposit.key, deposit.fingerprint())? else {
            wrong += 1;
            continue;
        };
        again += u64::from(record.attempt() > 1);
        let sent = messages.get(&deposit.key);
        let answered = sent.is_some_and(|numbers| {
            numbers.len() == 1 && numbers.iter().all(|it| record.body() == format!("message {it}").as_bytes())
        });
        wrong += u64::from(!answered);
    }
    println!();
    println!("  deposits                     {DEPOSITS:>8}");
    println!("  answered by a later attempt  {again:>8}");
    println!("  numbers of messages sent     {:>8}", numbers.len());
    println!("  messages in the outbox       {left:>8}");
    println!("  cents booked                 {:>8}", balances.values().sum::<u64>());
    println!("  cents deposited              {:>8}", expected.values().sum::<u64>());
    println!("  seconds                      {:>8.1}", took.as_secs_f64());
    if wrong > 0 || balances != expected || numbers.len() != messages.len() || left > 0 {
        return Err(format!("{wrong} deposits were not booked exactly once").into());
    }
    println!("\nEvery deposit was booked exactly once.");
    Ok(())
}
