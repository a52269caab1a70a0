//! Resume: a payment in three steps, whose process dies in the middle of each step in turn. Every
//! attempt goes on where the one before it got to, and each step has its effect exactly once.
//!
//! ```text
//! cargo run --release --example resume
//! ```
//!
//! What to copy is `pay` and `step`, and the policy in `work`: a payment may run again, which is
//! not the default. A step is a call to another service, with two precautions:
//!
//! - It sends a key that is the same in every attempt: [`Claim::step_key`]. The process may die
//!   when the service has acted and its answer has not come. Then the next attempt has to call
//!   again, and the service knows the key and acts no second time.
//! - It saves the answer as its progress before the next step begins: [`Claim::save_progress`].
//!   Then the next attempt need not call at all.
//!
//! This program starts itself as a worker, again and again, until the payment is made. A worker
//! told to die in a step aborts at the worst moment: between the service's effect and its answer.
//! The service is a file here.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, abort};

use idemkv::{Claim, Engine, Fault, Fingerprint, Recovery, StepKey};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const STEPS: [&str; 3] = ["reserve stock", "charge card", "send receipt"];
const KEY: &str = "order-7";
const REQUEST: &str = "1 lamp, 40.00";

/// Set for a worker: the directory to work in.
const DIR: &str = "IDEMKV_RESUME_DIR";
/// Set for a worker that is to die: the step in which it does.
const DIE_IN: &str = "IDEMKV_RESUME_DIE_IN";

/// What the customer gets, now and in every retry.
#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    charge: String,
    receipt: String,
}

/// Makes a payment, or what is left to do of one.
fn pay(claim: &mut Claim, service: &Service) -> std::result::Result<Receipt, Fault<String>> {
    say("attempt", &claim.attempt().to_string());
    // The answers that earlier attempts got, by step.
    let mut answers = match claim.last_progress() {
        Some(note) => serde_json::from_slice(&note).map_err(unknown)?,
        None => BTreeMap::new(),
    };
    let stock =
        step(claim, &mut answers, "reserve stock", |key| service.call("reserve stock", key, REQUEST))?;
    let charge = step(claim, &mut answers, "charge card", |key| service.call("charge card", key, &stock))?;
    let receipt =
        step(claim, &mut answers, "send receipt", |key| service.call("send receipt", key, &charge))?;
    Ok(Receipt { charge, receipt })
}

/// Makes one step, unless an earlier attempt has its answer already.
fn step(
    claim: &mut Claim,
    answers: &mut BTreeMap<String, String>,
    name: &str,
    call: impl FnOnce(StepKey) -> io::Result<String>,
) -> std::result::Result<String, Fault<String>> {
    if let Some(answer) = answers.get(name) {
        return Ok(answer.clone());
    }
    say("step", name);
    let answer = call(claim.step_key(name)).map_err(unknown)?;
    answers.insert(name.to_owned(), answer.clone());
    claim.save_progress(serde_json::to_vec(answers).map_err(unknown)?).map_err(unknown)?;
    Ok(answer)
}

/// Something failed on the way, and nobody knows what has happened by then: the next attempt goes
/// on from the progress that was saved last.
fn unknown(error: impl Error) -> Fault<String> {
    Fault::Unknown(error.to_string())
}

/// The other side: a service that acts once for each key, and answers the same key the same way
/// again.
struct Service {
    journal: PathBuf,
    die_in: Option<String>,
}

impl Service {
    fn call(&self, step: &str, key: StepKey, what: &str) -> io::Result<String> {
        self.note(&format!("call {step}"))?;
        let effect = format!("effect {step} {key} ");
        let known = fs::read_to_string(&self.journal)?;
        let answer = if let Some(answer) = known.lines().find_map(|line| line.strip_prefix(&effect)) {
            answer.to_owned()
        } else {
            let answer = format!("{step} ({what})");
            self.note(&format!("{effect}{answer}"))?;
            answer
        };
        if self.die_in.as_deref() == Some(step) {
            abort(); // the service has acted, and nobody will ever read its answer
        }
        Ok(answer)
    }

    /// Adds a line, which the operating system keeps when this process dies.
    fn note(&self, line: &str) -> io::Result<()> {
        let mut journal = OpenOptions::new().create(true).append(true).open(&self.journal)?;
        journal.write_all(format!("{line}\n").as_bytes())
    }
}

fn main() -> ExitCode {
    let result = match env::var_os(DIR) {
        Some(dir) => work(Path::new(&dir)),
        None => supervise(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("resume: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(dir: &Path) -> Result<()> {
    let service = Service { journal: dir.join("service.journal"), die_in: env::var(DIE_IN).ok() };
    let engine = Engine::open(dir.join("payments.idem"))?;
    // A payment may run again: no step of it acts twice.
    let payments = engine.set_policy("payments", engine.policy().recovery(Recovery::Rerun))?;
    let receipt = payments.run(KEY, Fingerprint::of(REQUEST), |claim| pay(claim, &service))??;
    say("paid", &serde_json::to_string(&receipt)?);
    engine.close()?;
    Ok(())
}

/// Tells the parent something.
fn say(what: &str, text: &str) {
    // A parent that does not listen any more keeps no payment from being made.
    drop(writeln!(io::stdout(), "{what}: {text}"));
}

/// What a worker told, and how it ended.
struct Run {
    attempt: Option<String>,
    steps: Vec<String>,
    paid: Option<String>,
    status: ExitStatus,
}

/// Runs the worker until the payment is made, and once more; then shows and checks what happened.
fn supervise() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("idemkv-resume-").tempdir()?;
    let mut runs = Vec::new();
    for die_in in STEPS.map(Some).into_iter().chain([None, None]) {
        let run = run_worker(dir.path(), die_in)?;
        if die_in.is_some() == run.paid.is_some() || run.status.success() == die_in.is_some() {
            return Err(format!("the worker that was to die in {die_in:?} ended with {}", run.status).into());
        }
        runs.push(run);
    }
    let journal = fs::read_to_string(dir.path().join("service.journal"))?;
    print(&runs, &journal)?;
    check(&runs, &journal)
}

fn run_worker(dir: &Path, die_in: Option<&str>) -> Result<Run> {
    let mut command = Command::new(env::current_exe()?);
    command.env(DIR, dir).env_remove(DIE_IN);
    if let Some(step) = die_in {
        command.env(DIE_IN, step);
    }
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    let told = String::from_utf8(output.stdout)?;
    let all = |what: &str| -> Vec<String> {
        let of = |line: &str| line.strip_prefix(what)?.strip_prefix(": ").map(str::to_owned);
        told.lines().filter_map(of).collect()
    };
    Ok(Run {
        attempt: all("attempt").pop(),
        steps: all("step"),
        paid: all("paid").pop(),
        status: output.status,
    })
}

fn print(runs: &[Run], journal: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{:<10}{:<30}ended", "attempt", "steps run")?;
    for run in runs {
        let attempt = run.attempt.as_deref().unwrap_or("none");
        let steps = if run.steps.is_empty() { "none".to_owned() } else { run.steps.join(", ") };
        let ended = match (&run.paid, &run.attempt) {
            (Some(_), Some(_)) => "paid".to_owned(),
            (Some(_), None) => "replayed".to_owned(),
            (None, _) => format!("killed ({})", run.status),
        };
        writeln!(out, "{attempt:<10}{steps:<30}{ended}")?;
    }
    writeln!(out, "\n{:<20}{:>16}{:>10}", "step", "calls received", "effects")?;
    for step in STEPS {
        let (calls, effects) = counts(journal, step);
        writeln!(out, "{step:<20}{calls:>16}{effects:>10}")?;
    }
    Ok(())
}

/// Calls that the service got for a step, and effects that it had.
fn counts(journal: &str, step: &str) -> (usize, usize) {
    let count =
        |what: &str| journal.lines().filter(|line| line.starts_with(&format!("{what} {step}"))).count();
    (count("call"), count("effect"))
}

/// Fails unless every step had its effect once though it was called again, and every caller got
/// the same receipt.
fn check(runs: &[Run], journal: &str) -> Result<()> {
    for step in STEPS {
        match counts(journal, step) {
            (2, 1) => {}
            (calls, effects) => {
                return Err(format!(
                    "{step:?} was called {calls} times and had {effects} effects; 2 and 1 were to be"
                )
                .into());
            }
        }
    }
    let receipts: Vec<_> = runs.iter().filter_map(|run| run.paid.as_ref()).collect();
    match receipts[..] {
        [first, replayed] if first == replayed => Ok(()),
        _ => Err(format!("the receipts are not two that are equal: {receipts:?}").into()),
    }
}
