//! `idemkv list`: keys, filtered.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use idemkv::Timestamp;

use crate::answer::{Answer, Trouble};
use crate::entry::{Detail, Entry, State, line};
use crate::format::{Format, csv, table};
use crate::{names, opening, spans};

#[derive(Debug, Args)]
pub(crate) struct List {
    file: PathBuf,
    /// Only keys of this scope
    #[arg(long)]
    scope: Option<String>,
    /// Only keys in one of these states
    #[arg(long, value_enum, value_delimiter = ',')]
    state: Vec<State>,
    /// Only keys that start so
    #[arg(long, default_value = "")]
    prefix: String,
    /// Only keys that are in their state for at least so long, such as 90s or 7d
    #[arg(long, value_parser = spans::parse, value_name = "SPAN")]
    older: Option<Duration>,
    /// Only keys that are in their state for less than so long
    #[arg(long, value_parser = spans::parse, value_name = "SPAN")]
    younger: Option<Duration>,
    /// At most so many keys: of a table the oldest, and 1000 without this
    #[arg(long, value_name = "KEYS")]
    limit: Option<usize>,
    /// As what
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The most keys of a table, unless a person wants more.
const TABLE_KEYS: usize = 1_000;

const COLUMNS: [&str; 8] = ["scope", "key", "hash", "state", "outcome", "attempt", "since", "bytes"];

/// Which keys are wanted.
struct Filter {
    scope: Option<Vec<u8>>,
    prefix: Vec<u8>,
    states: Vec<State>,
    /// Since when at the latest, and after when.
    until: Option<Timestamp>,
    after: Option<Timestamp>,
}

impl Filter {
    fn has(&self, entry: &Entry) -> bool {
        self.scope.as_ref().is_none_or(|scope| *scope == entry.scope)
            && entry.key.starts_with(&self.prefix)
            && (self.states.is_empty() || self.states.contains(&entry.state))
            && self.until.is_none_or(|until| entry.since() <= until)
            && self.after.is_none_or(|after| entry.since() > after)
    }
}

/// A row of the table, without what its key holds: in the order of the table, by age, then by name.
struct Row {
    since: Timestamp,
    scope: Vec<u8>,
    key: Vec<u8>,
    cells: [String; 8],
}

/// What the table is ordered by.
fn rank(entry: &Entry) -> (Timestamp, &[u8], &[u8]) {
    (entry.since(), &entry.scope, &entry.key)
}

impl Row {
    fn of(entry: Entry, now: Timestamp) -> Self {
        let since = entry.since();
        let cells = cells(&entry, format!("{} ago", spans::show(now.saturating_since(since))));
        Self { since, scope: entry.scope, key: entry.key, cells }
    }

    fn rank(&self) -> (Timestamp, &[u8], &[u8]) {
        (self.since, &self.scope, &self.key)
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Row {}

impl List {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let engine = opening::to_look(&self.file)?;
        let now = engine.now();
        let filter = self.filter(now)?;
        let limit = self.limit.unwrap_or(if self.format == Format::Table { TABLE_KEYS } else { usize::MAX });
        let (mut oldest, mut matching, mut unread, mut answer) = (BinaryHeap::new(), 0, 0_u64, Answer::Fine);
        if self.format == Format::Csv {
            writeln!(out, "{}", csv(&COLUMNS.map(str::to_owned)))?;
        }
        for entry in engine.entries() {
            let entry = match entry {
                Ok(entry) => Entry::of(&entry).filter(|entry| filter.has(entry)),
                Err(error) => {
                    unread += 1;
                    answer = answer.and(Trouble::from(error).answer());
                    continue;
                }
            };
            let Some(entry) = entry else { continue };
            matching += 1;
            if self.format == Format::Table {
                let is_full = oldest.len() >= limit;
                if !is_full || oldest.peek().is_some_and(|newest: &Row| rank(&entry) < newest.rank()) {
                    oldest.push(Row::of(entry, now));
                }
                if oldest.len() > limit {
                    drop(oldest.pop());
                }
            } else if matching <= limit {
                write_line(out, &entry, self.format)?;
            }
        }
        if self.format == Format::Table {
            show(out, oldest)?;
        }
        if matching > limit {
            eprintln!("{} keys more; --limit shows more", matching - limit);
        }
        if unread > 0 {
            eprintln!("{unread} keys can't be read: `idemkv verify` says more");
        }
        Ok(answer)
    }

    fn filter(&self, now: Timestamp) -> Result<Filter, Trouble> {
        let parse = |text: &str| names::parse(text).map_err(Trouble::refused);
        let ago = |span: Duration| {
            let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            Timestamp::from_millis(now.as_millis().saturating_sub(span))
        };
        Ok(Filter {
            scope: self.scope.as_deref().map(parse).transpose()?,
            prefix: parse(&self.prefix)?,
            states: self.state.clone(),
            until: self.older.map(ago),
            after: self.younger.map(ago),
        })
    }
}

fn write_line(out: &mut impl Write, entry: &Entry, format: Format) -> Result<(), Trouble> {
    if format == Format::Json {
        writeln!(out, "{}", line(&entry.to_json(Detail::Short)))?;
    } else {
        writeln!(out, "{}", csv(&cells(entry, spans::date(entry.since()))))?;
    }
    Ok(())
}

fn show(out: &mut impl Write, oldest: BinaryHeap<Row>) -> Result<(), Trouble> {
    let mut rows = table(&COLUMNS);
    for row in oldest.into_sorted_vec() {
        rows.add_row(row.cells);
    }
    writeln!(out, "{rows}")?;
    Ok(())
}

fn cells(entry: &Entry, since: String) -> [String; 8] {
    [
        names::escaped(&entry.scope),
        names::escaped(&entry.key),
        entry.hash.to_string(),
        entry.state.name().to_owned(),
        entry.outcome().map(|outcome| outcome.to_string()).unwrap_or_default(),
        entry.attempt().to_string(),
        since,
        entry.bytes().to_string(),
    ]
}
