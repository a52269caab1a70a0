//! What is shown: progress, and the table at the end.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use crate::Result;
use crate::event::Event;
use crate::journal::Verdict;
use crate::tally::{Count, Counts};

/// Offending events that are named.
const NAMED_MAX: usize = 10;

/// Shows on standard error how far a process got: in one line on a terminal, else line by line.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    events: u64,
}

impl Progress {
    pub(crate) fn new(events: u64) -> Self {
        Self { terminal: io::stderr().is_terminal(), events }
    }

    /// Shows the counts of a process; `before` is the number of effects of the one before it.
    pub(crate) fn show(&self, counts: &Counts, before: u64) {
        let lookups = counts.get(Count::Lookups);
        let text = if lookups > 0 {
            format!("  looking up: {} lookups", grouped(lookups))
        } else {
            format!(
                "  delivering: {} of {} deliveries, {} of {} effects",
                grouped(counts.get(Count::Deliveries).saturating_sub(counts.get(Count::Reused))),
                grouped(counts.get(Count::Planned)),
                grouped(before + counts.get(Count::Effects)),
                grouped(self.events)
            )
        };
        if self.terminal {
            eprint!("\r{text}\x1b[K");
        } else {
            eprintln!("{text}");
        }
    }
}

/// Says something on standard error, on a line of its own; on a terminal it takes the place of the
/// progress.
pub(crate) fn say(text: &str) {
    if io::stderr().is_terminal() {
        eprintln!("\r{text}\x1b[K");
    } else {
        eprintln!("{text}");
    }
}

/// How often each event had its effect.
#[derive(Debug)]
pub(crate) struct Effects {
    by_line: BTreeMap<usize, u64>,
}

impl Effects {
    pub(crate) fn of(events: &[Event], journal: &[(usize, Verdict)]) -> Self {
        let mut by_line: BTreeMap<_, _> = events.iter().map(|event| (event.line, 0)).collect();
        for (line, _) in journal {
            *by_line.entry(*line).or_default() += 1;
        }
        Self { by_line }
    }

    /// Fails where an event had its effect other than once, and names it.
    pub(crate) fn check(&self, events: &[Event]) -> Result<()> {
        let names: BTreeMap<_, _> = events.iter().map(|event| (event.line, event.name.as_str())).collect();
        let mut wrong: Vec<_> = self.by_line.iter().filter(|(_, effects)| **effects != 1).collect();
        // Those that ran twice come first: where a process failed, it is no wonder that others
        // have not run yet.
        wrong.sort_by_key(|(_, effects)| Reverse(**effects));
        if wrong.is_empty() {
            return Ok(());
        }
        let mut text = format!("{} had their effect other than once:", several(wrong.len(), "event"));
        for (line, effects) in wrong.iter().take(NAMED_MAX) {
            let name = names.get(*line).copied().unwrap_or("no event of ours");
            write!(text, "\n  line {line} ({name}): {effects}")?;
        }
        if wrong.len() > NAMED_MAX {
            write!(text, "\n  and {} more", wrong.len() - NAMED_MAX)?;
        }
        Err(text.into())
    }

    fn range(&self) -> String {
        let effects = || self.by_line.values().copied();
        match (effects().min().unwrap_or(0), effects().max().unwrap_or(0)) {
            (min, max) if min == max => min.to_string(),
            (min, max) => format!("{min} to {max}"),
        }
    }
}

/// Prints the table: what the first process got to tell, what the second one counted, and what
/// holds for both.
pub(crate) fn print(first: &Counts, second: &Counts, effects_first: u64, effects: &Effects) -> Result<()> {
    let rows = [
        ("deliveries", Count::Deliveries),
        ("  fresh", Count::Fresh),
        ("    completed", Count::Completed),
        ("    failed, for good", Count::Failed),
        ("    released", Count::Released),
        ("    lost in a panic", Count::Panicked),
        ("  waited", Count::Waited),
        ("  replayed", Count::Replayed),
        ("  reused keys refused", Count::Reused),
        ("  told to come back", Count::ComeBack),
        ("interrupted, and claimed again", Count::Interrupted),
        ("  effect found, and not repeated", Count::Found),
    ];
    let mut table = format!("{:<34}{:>14}{:>14}\n", "", "before abort", "after reopen");
    for (label, count) in rows {
        // The first process could not say goodbye; it has counted at least what it last told.
        let least = format!("\u{2265} {}", grouped(first.get(count)));
        writeln!(table, "{label:<34}{least:>14}{:>14}", grouped(second.get(count)))?;
    }
    let before = grouped(effects_first);
    writeln!(table, "{:<34}{before:>14}{:>14}", "effects", grouped(second.get(Count::Effects)))?;
    let kept = grouped(second.get(Count::Kept));
    let rate = second.get(Count::Lookups).saturating_mul(1_000) / second.get(Count::LookupsMs).max(1);
    let events = grouped(u64::try_from(effects.by_line.len())?);
    writeln!(table)?;
    writeln!(table, "{:<34}{events:>28}", "events")?;
    writeln!(table, "{:<34}{:>28}", "effects per event", effects.range())?;
    writeln!(table, "{:<34}{kept:>28}", "acknowledged before abort, kept")?;
    writeln!(table, "{:<34}{:>28}", "lookups per second", grouped(rate))?;
    io::stdout().lock().write_all(table.as_bytes())?;
    Ok(())
}

/// A number of things: 1 event, 2 events.
pub(crate) fn several(number: usize, thing: &str) -> String {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    format!("{} {thing}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A number with commas: 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
