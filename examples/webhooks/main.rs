//! Webhooks: every event is delivered several times, from several threads, by senders that don't
//! wait long; handlers fail and panic; and the process is killed half-way. Still every event has
//! its effect exactly once.
//!
//! ```text
//! cargo run --release --example webhooks                # generates its own events
//! cargo run --release --example webhooks -- FILE        # JSON lines: {"event": "push", "payload": {..}}
//! cargo run --release --example webhooks -- -           # the same from standard input
//! ```
//!
//! This process starts a worker that aborts itself in the middle of its work, then a second one
//! that opens the same file and gets all deliveries again, and then counts the effects. What there
//! is to learn is in `handler.rs`: an engine that lives beside the effect can't know whether a
//! handler that died had acted. By default it refuses such a key. Here the policy lets it run
//! again (`Recovery::Rerun` in `worker.rs`): the claim says that it was interrupted, and the
//! handler asks the system that it acts on before it acts again.

mod event;
mod handler;
mod journal;
mod plan;
mod random;
mod report;
mod sender;
mod tally;
mod worker;

use std::env;
use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use event::{Event, Source};
use report::{Effects, Progress, say, several};
use tally::Counts;

/// Errors are only shown here, so one that can be anything will do.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Set for a worker: the directory to work in. Not an argument, for every argument is the name of
/// a file.
const WORKER_DIR: &str = "IDEMKV_WEBHOOKS_DIR";
/// Set for a worker that is to abort: the effect after which it does.
const CRASH_AFTER: &str = "IDEMKV_WEBHOOKS_CRASH_AFTER";
/// Reports of a worker for each that is shown: one in 200 ms.
const REPORTS_PER_SHOW: usize = 20;

fn main() -> ExitCode {
    let result = match env::var_os(WORKER_DIR) {
        Some(dir) => work(Path::new(&dir)),
        None => source().and_then(|source| supervise(&source)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("webhooks: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn work(dir: &Path) -> Result<()> {
    let crash_after = match env::var(CRASH_AFTER) {
        Ok(effect) => Some(effect.parse()?),
        Err(_unset) => None,
    };
    worker::run(dir, crash_after)
}

/// Where the arguments say that events come from.
fn source() -> Result<Source> {
    let mut arguments = env::args_os().skip(1);
    let source = match arguments.next() {
        None => Source::Generated,
        Some(argument) if argument == "-" => Source::Stdin,
        Some(argument) => Source::File(argument.into()),
    };
    match arguments.next() {
        None => Ok(source),
        Some(more) => Err(format!("one file at most, and there is {} too", more.display()).into()),
    }
}

/// Starts the workers, one after the other, and checks what they did.
fn supervise(source: &Source) -> Result<()> {
    let (name, text) = source.read()?;
    let events = event::parse(&name, &text)?;
    let dir = tempfile::Builder::new().prefix("idemkv-webhooks-").tempdir()?;
    // The workers read what was just read: standard input is there only once.
    fs::write(dir.path().join(worker::EVENTS), &text)?;
    let result = crash_and_go_on(dir.path(), &name, &events);
    if result.is_err() {
        let kept = dir.keep();
        say(&format!("webhooks: all files are kept in {}", kept.display()));
    }
    result
}

fn crash_and_go_on(dir: &Path, name: &str, events: &[Event]) -> Result<()> {
    let progress = Progress::new(u64::try_from(events.len())?);
    let crash_after = plan::crash_after(events);
    let all = several(events.len(), "event");
    say(&format!("{name}: {all}; the first process aborts at effect {crash_after}"));
    let (first, status) = run_worker(dir, Some(crash_after), &progress, 0)?;
    if !is_crash(status) {
        return Err(format!("the first process was to abort, and ended with {status}").into());
    }
    let journal = dir.join(worker::EFFECTS);
    let effects_first = journal::read(&journal)?.len();
    let so_far = several(effects_first, "effect");
    say(&format!("aborted ({status}) with {so_far}; opening the file again"));
    let effects_first = u64::try_from(effects_first)?;
    let (second, status) = run_worker(dir, None, &progress, effects_first)?;
    let effects = Effects::of(events, &journal::read(&journal)?);
    if !status.success() {
        say(&format!("webhooks: the second process failed with {status}"));
        effects.check(events)?;
        return Err("every event had its effect once, but not all is well".into());
    }
    say("all done");
    report::print(&first, &second, effects_first, &effects)?;
    effects.check(events)
}

/// Runs this program as a worker, shows its progress, and gives what it last told.
fn run_worker(
    dir: &Path,
    crash_after: Option<u64>,
    progress: &Progress,
    effects_before: u64,
) -> Result<(Counts, ExitStatus)> {
    let mut command = Command::new(env::current_exe()?);
    command.env(WORKER_DIR, dir).env_remove(CRASH_AFTER).stdin(Stdio::null()).stdout(Stdio::piped());
    if let Some(effect) = crash_after {
        command.env(CRASH_AFTER, effect.to_string());
    }
    let mut child = command.spawn()?;
    let mut counts = Counts::default();
    if let Some(reports) = child.stdout.take() {
        for (number, line) in BufReader::new(reports).lines().enumerate() {
            counts = Counts::parse(&line?).ok_or("a worker told what is not understood")?;
            if number % REPORTS_PER_SHOW == 0 {
                progress.show(&counts, effects_before);
            }
        }
    }
    Ok((counts, child.wait()?))
}

/// Whether a process died, instead of ending with a code of its own choice.
fn is_crash(status: ExitStatus) -> bool {
    // No code at all after a signal on Unix, a code out of this range on Windows.
    status.code().is_none_or(|code| !(0..=255).contains(&code))
}
