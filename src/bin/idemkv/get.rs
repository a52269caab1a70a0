//! `idemkv get`: one key and its result.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use idemkv::{Record, Status, Timestamp};

use crate::answer::{Answer, Trouble};
use crate::entry::{Detail, Entry, describe, line};
use crate::format::Plain;
use crate::selection::Selection;
use crate::{names, opening, spans};

#[derive(Debug, Args)]
pub(crate) struct Get {
    file: PathBuf,
    #[command(flatten)]
    key: Selection,
    /// Write the body alone, byte for byte
    #[arg(long, conflicts_with = "format")]
    body: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Plain,
}

/// Bytes of a body or of progress that are shown to people.
const SHOWN: usize = 4_096;

impl Get {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let engine = opening::to_look(&self.file)?;
        let entry = self.key.find(&engine)?;
        if self.body {
            let Status::Done(record) = &entry.status else {
                return Err(Trouble::new(
                    Answer::Absent,
                    format_args!("{} has no result: it is {}", describe(&entry), entry.state.name()),
                ));
            };
            if !record.is_body_kept() {
                return Err(Trouble::new(
                    Answer::Absent,
                    format_args!("{} is done, and its body was not kept", describe(&entry)),
                ));
            }
            if io::stdout().is_terminal() {
                return Err(Trouble::refused(
                    "the body may hold what a terminal obeys: send it to a file or a pipe, or leave --body out",
                ));
            }
            out.write_all(record.body())?;
        } else if self.format == Plain::Json {
            writeln!(out, "{}", line(&entry.to_json(Detail::Full)))?;
        } else {
            show(out, &entry, engine.now())?;
        }
        Ok(Answer::Fine)
    }
}

fn show(out: &mut impl Write, entry: &Entry, now: Timestamp) -> Result<(), Trouble> {
    writeln!(out, "scope    {}", names::escaped(&entry.scope))?;
    writeln!(out, "key      {}", names::escaped(&entry.key))?;
    writeln!(out, "hash     {}", entry.hash)?;
    writeln!(out, "state    {}", entry.state.name())?;
    writeln!(out, "attempt  {}", entry.attempt())?;
    let age = spans::show(now.saturating_since(entry.since()));
    writeln!(out, "since    {} ({age} ago)", spans::date(entry.since()))?;
    match &entry.status {
        Status::Done(record) => show_record(out, record),
        Status::Interrupted(lost) => match lost.last_progress() {
            Some(progress) => show_bytes(out, "progress", progress),
            None => Ok(writeln!(out, "progress none")?),
        },
        Status::Expired(tombstone) => {
            writeln!(out, "outcome  {}, no longer replayed", tombstone.outcome())?;
            Ok(writeln!(out, "until    {}", spans::date(tombstone.remembered_until()))?)
        }
        _ => Ok(()),
    }
}

fn show_record(out: &mut impl Write, record: &Record) -> Result<(), Trouble> {
    writeln!(out, "outcome  {}", record.outcome())?;
    writeln!(out, "expires  {}", spans::date(record.expires()))?;
    if record.is_body_kept() {
        show_bytes(out, "body", record.body())
    } else {
        Ok(writeln!(out, "body     not kept")?)
    }
}

fn show_bytes(out: &mut impl Write, name: &str, bytes: &[u8]) -> Result<(), Trouble> {
    let (shown, rest) = bytes.split_at(bytes.len().min(SHOWN));
    let more = if rest.is_empty() { "" } else { " .. (--body or --format json gives all)" };
    writeln!(out, "{name:<8} {} bytes: {}{more}", bytes.len(), names::escaped(shown))?;
    Ok(())
}
