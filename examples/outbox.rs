//! Outbox: an effect that lives in the same file as its completion happens exactly once, whenever
//! the process is killed.
//!
//! ```text
//! cargo run --release --example outbox
//! ```
//!
//! A worker takes deposits. Each one raises a balance and puts a message for other services into
//! an outbox: two tables of the application's own, written in one transaction with the completion
//! of the deposit's idempotency key. This process kills the worker at random moments, starts it
//! again, and gives it all deposits again, as clients that retry do. In the end every deposit must
//! have been booked once, its message must lie in the outbox once, and what was answered must be
//! what was booked.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example says what it found")]
#![allow(clippy::disallowed_methods, reason = "this program owns its clock")]

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
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

/// Set for a worker: the directory to work in.
const WORKER_DIR: &str = "IDEMKV_OUTBOX_DIR";
const DEPOSITS: u64 = 2_000;
const ACCOUNTS: u64 = 7;
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

            let mut outbox = tables.open_table(OUTBOX)?;
            let number = outbox.last()?.map_or(1, |(last, _)| last.value() + 1);
            outbox.insert(number, &*self.key)?;
            Ok::<_, Box<dyn Error>>(format!("message {number}"))
        });
        booked.map_err(|error| error.to_string().into())
    }
}

/// Takes every deposit, as after a restart of a service whose clients all retry.
fn work(dir: &Path) -> Result<()> {
    let engine = Engine::open(dir.join("bank.idem"))?;
    // A deposit may run again: an attempt that was interrupted has left nothing, for its booking
    // and its completion are one.
    let deposits = engine.set_policy("POST /deposits", engine.policy().recovery(Recovery::Rerun))?;
    for deposit in (0..DEPOSITS).map(Deposit::new) {
        match deposits.begin(&deposit.key, deposit.fingerprint())? {
            Begin::Fresh(claim) => drop(deposit.book(claim)?),
            Begin::Done(_) => {}
            Begin::InFlight(_) => return Err("nobody else takes deposits".into()),
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

/// Whether every deposit was booked once, with one message, and answered with that.
fn count(dir: &Path, took: Duration) -> Result<()> {
    let engine = Engine::open(dir.join("bank.idem"))?;
    let deposits = engine.scope("POST /deposits");
    let (balances, outbox) = engine.read_tables(|tables| {
        let mut balances = BTreeMap::new();
        for row in tables.open_table(BALANCES)?.iter()? {
            let (account, cents) = row?;
            balances.insert(account.value().to_owned(), cents.value());
        }
        let mut outbox = BTreeMap::new();
        for row in tables.open_table(OUTBOX)?.iter()? {
            let (number, key) = row?;
            outbox.entry(key.value().to_owned()).or_insert_with(Vec::new).push(number.value());
        }
        Ok::<_, Box<dyn Error>>((balances, outbox))
    })??;

    let (mut wrong, mut again) = (0, 0);
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for deposit in (0..DEPOSITS).map(Deposit::new) {
        *expected.entry(deposit.account.clone()).or_default() += deposit.cents;
        let Begin::Done(record) = deposits.begin(&deposit.key, deposit.fingerprint())? else {
            wrong += 1;
            continue;
        };
        again += u64::from(record.attempt() > 1);
        let messages = outbox.get(&deposit.key).map_or(&[][..], Vec::as_slice);
        let answered =
            matches!(messages, [number] if record.body() == format!("message {number}").as_bytes());
        wrong += u64::from(!answered);
    }
    println!();
    println!("  deposits                     {DEPOSITS:>8}");
    println!("  answered by a later attempt  {again:>8}");
    println!("  messages in the outbox       {:>8}", outbox.values().map(Vec::len).sum::<usize>());
    println!("  cents booked                 {:>8}", balances.values().sum::<u64>());
    println!("  cents deposited              {:>8}", expected.values().sum::<u64>());
    println!("  seconds                      {:>8.1}", took.as_secs_f64());
    if wrong > 0 || balances != expected {
        return Err(format!("{wrong} deposits were not booked exactly once").into());
    }
    println!("\nEvery deposit was booked exactly once.");
    Ok(())
}
