//! The process that delivers: opens the engine, delivers from several threads, and tells how far
//! it got.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::panic;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use idemkv::{Begin, Engine, Recovery};

use crate::Result;
use crate::event::{self, Event};
use crate::handler::{Handler, PlannedPanic};
use crate::journal::Journal;
use crate::plan;
use crate::report::{say, several};
use crate::sender::Sender;
use crate::tally::{Count, Counts, Tally};

/// Files in the directory that the processes share.
pub(crate) const EVENTS: &str = "events.jsonl";
pub(crate) const EFFECTS: &str = "effects.log";
const ACKNOWLEDGED: &str = "acknowledged.log";
const ENGINE: &str = "webhooks.idem";

/// Threads that deliver.
const DELIVERING: usize = 8;
/// Threads that look up, at the end.
const LOOKING_UP: usize = 2;
/// How long they do.
const LOOK_UP_FOR: Duration = Duration::from_secs(1);
/// Lookups between two looks at the clock.
const LOOKUPS_PER_STEP: usize = 1_000;
/// Times that everything without an outcome is delivered again before something must be wrong.
const ROUNDS_MAX: usize = 20;
/// How often the process tells how far it got.
const REPORT_EVERY: Duration = Duration::from_millis(10);
/// Reports without a change after which something must be stuck: a minute.
const REPORTS_STUCK: u32 = 6_000;

/// Delivers everything in `dir`, until all is done or until the effect that is the last.
pub(crate) fn run(dir: &Path, crash_after: Option<u64>) -> Result<()> {
    silence_planned_panics();
    let events = event::parse(EVENTS, &fs::read(dir.join(EVENTS))?)?;
    let deliveries = plan::deliveries(&events);
    let handler = Handler {
        effects: Journal::open(&dir.join(EFFECTS))?,
        acknowledged: Journal::open(&dir.join(ACKNOWLEDGED))?,
        tally: Tally::new(),
        crash_after,
    };
    // An interrupted event may be handled again, because the handler asks first whether it has had
    // its effect.
    let engine = Engine::options().recovery(Recovery::Rerun).open(dir.join(ENGINE))?;
    let senders = senders(&engine, events);
    let (stop, stopped) = sync_channel(1);
    let tally = &handler.tally;
    thread::scope(|scope| {
        let reporter = scope.spawn(move || report_until(&stopped, tally));
        let worked = work(&engine, &handler, &senders, &deliveries);
        drop(stop);
        let told = reporter.join().map_err(|_panic| "the thread that reports panicked".into());
        worked.and(told.flatten())
    })?;
    drop(senders);
    let closed = engine.close()?;
    if closed.claims_left > 0 {
        let left = several(closed.claims_left, "claim");
        return Err(format!("{left} out when all was done").into());
    }
    Ok(report(&tally.counts())?)
}

fn work(engine: &Engine, handler: &Handler, senders: &[Sender], deliveries: &[usize]) -> Result<()> {
    check_acknowledged(handler, senders)?;
    let everything: Vec<&Sender> = deliveries.iter().filter_map(|position| senders.get(*position)).collect();
    deliver_all(handler, &everything)?;
    // A sender goes on until it has an answer.
    for round in 0.. {
        let mut left = Vec::new();
        for sender in senders {
            if !sender.is_done()? {
                left.push(sender);
            }
        }
        if left.is_empty() {
            break;
        }
        if round == ROUNDS_MAX {
            let left = several(left.len(), "event");
            return Err(format!("{left} without an outcome after {round} more rounds").into());
        }
        deliver_all(handler, &left)?;
    }
    check_counts(&handler.tally.counts(), engine)?;
    look_up(engine, handler, senders)
}

/// One sender for each event; events of one name share a scope.
fn senders(engine: &Engine, events: Vec<Event>) -> Vec<Sender> {
    let mut scopes = BTreeMap::new();
    let prints: Vec<_> = events.iter().map(|event| event.fingerprint).collect();
    let next = prints.iter().cycle().skip(1).copied();
    events
        .into_iter()
        .zip(next)
        .map(|(event, other)| {
            let scope = scopes.entry(event.name.clone()).or_insert_with(|| engine.scope(&event.name)).clone();
            Sender::new(event, scope, Some(other))
        })
        .collect()
}

/// Looks for every outcome that an earlier process was told is durable.
fn check_acknowledged(handler: &Handler, senders: &[Sender]) -> Result<()> {
    let acknowledged = handler.acknowledged.known();
    for sender in senders.iter().filter(|sender| acknowledged.contains_key(&sender.event.line)) {
        if !sender.is_done()? {
            let Event { line, name, .. } = &sender.event;
            return Err(format!("the outcome of line {line} ({name}) was acknowledged, and is lost").into());
        }
        handler.tally.add(Count::Kept, 1);
    }
    Ok(())
}

/// Makes these deliveries from several threads, each of which takes the next one.
fn deliver_all(handler: &Handler, deliveries: &[&Sender]) -> Result<()> {
    handler.tally.add(Count::Planned, u64::try_from(deliveries.len())?);
    let next = AtomicUsize::new(0);
    in_threads(DELIVERING, |_| {
        while let Some(sender) = deliveries.get(next.fetch_add(1, Ordering::Relaxed)) {
            sender.deliver(handler)?;
        }
        Ok(())
    })
}

/// Runs `body` in several threads at once, and gives the first error.
fn in_threads(count: usize, body: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || body(number))).collect();
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_panic) => Err("a thread that delivers panicked".into()),
        });
        // All are waited for before the first error is given.
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Checks that every delivery got one answer, and that the engine counted what the senders saw.
fn check_counts(counts: &Counts, engine: &Engine) -> Result<()> {
    use Count::{ComeBack, Completed, Deliveries, Failed, Fresh, Interrupted};
    use Count::{Panicked, Planned, Released, Replayed, Reused, Waited};
    let stats = engine.stats();
    let sum = |of: &[Count]| of.iter().map(|count| counts.get(*count)).sum();
    let pairs = [
        ("answers", counts.get(Deliveries), sum(&[Fresh, Waited, Replayed, Reused, ComeBack])),
        ("claims", counts.get(Fresh), sum(&[Completed, Failed, Released, Panicked])),
        ("deliveries", counts.get(Deliveries), counts.get(Planned) + counts.get(Reused)),
        ("fresh", counts.get(Fresh), stats.fresh),
        ("interrupted", counts.get(Interrupted), stats.rerun),
        ("replayed", counts.get(Replayed), stats.replayed),
        ("reused", counts.get(Reused), stats.reused),
    ];
    match pairs.into_iter().find(|(_, seen, counted)| seen != counted) {
        Some((name, seen, counted)) => {
            Err(format!("{name} don't add up: there are {seen}, and {counted}").into())
        }
        None => Ok(()),
    }
}

/// Replays outcomes for a while, as fast as it goes.
fn look_up(engine: &Engine, handler: &Handler, senders: &[Sender]) -> Result<()> {
    let started = engine.now();
    in_threads(LOOKING_UP, |number| {
        // The threads start far from each other.
        let mut turn = senders.iter().cycle().skip(number * senders.len() / LOOKING_UP);
        while engine.now().saturating_since(started) < LOOK_UP_FOR {
            for sender in turn.by_ref().take(LOOKUPS_PER_STEP) {
                let answer = sender.scope.begin(&sender.event.key, sender.event.fingerprint)?;
                if !matches!(answer, Begin::Done(_)) {
                    return Err(format!("line {} was done, and is {answer:?}", sender.event.line).into());
                }
            }
            handler.tally.add(Count::Lookups, u64::try_from(LOOKUPS_PER_STEP)?);
        }
        Ok(())
    })?;
    let took = engine.now().saturating_since(started);
    handler.tally.add(Count::LookupsMs, u64::try_from(took.as_millis())?);
    Ok(())
}

/// Tells how far the process got, again and again, until the other end of `stopped` is dropped.
fn report_until(stopped: &Receiver<()>, tally: &Tally) -> Result<()> {
    let (mut last, mut unchanged) = (Counts::default(), 0);
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(REPORT_EVERY) {
        let counts = tally.counts();
        report(&counts)?;
        unchanged = if counts == last { unchanged + 1 } else { 0 };
        last = counts;
        if unchanged == REPORTS_STUCK {
            // Threads that are stuck can't be joined.
            say(&format!("webhooks: nothing has moved for a minute at {last}"));
            process::exit(1);
        }
    }
    Ok(())
}

/// Hands the counts to the process that started this one.
fn report(counts: &Counts) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{counts}")
}

/// Keeps planned panics off the screen; all others are shown as ever.
fn silence_planned_panics() {
    let shown = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<PlannedPanic>() {
            shown(info);
        }
    }));
}
