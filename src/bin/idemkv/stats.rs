//! `idemkv stats`: keys by state and scope, and sizes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use idemkv::{Engine, Timestamp};
use serde_json::{Map, Value, json};

use crate::answer::{Answer, Trouble};
use crate::entry::{Entry, State, line, text};
use crate::format::{Plain, bytes, table};
use crate::{names, opening, spans};

#[derive(Debug, Args)]
pub(crate) struct Stats {
    file: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    format: Plain,
}

/// The keys of one scope.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    in_flight: u64,
    interrupted: u64,
    done: u64,
    expired: u64,
    body_bytes: u64,
    oldest_interruption: Option<Timestamp>,
}

impl Counts {
    fn add(&mut self, entry: &Entry) {
        match entry.state {
            State::InFlight => self.in_flight += 1,
            State::Interrupted => {
                self.interrupted += 1;
                let since = entry.since();
                self.oldest_interruption =
                    Some(self.oldest_interruption.map_or(since, |oldest| oldest.min(since)));
            }
            State::Done => {
                self.done += 1;
                self.body_bytes += entry.bytes() as u64;
            }
            State::Expired => self.expired += 1,
        }
    }
}

impl Stats {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let engine = opening::to_look(&self.file)?;
        let (mut scopes, mut answer, mut unread) = (BTreeMap::<Vec<u8>, Counts>::new(), Answer::Fine, 0_u64);
        for entry in engine.entries() {
            match entry {
                Ok(entry) => {
                    if let Some(entry) = Entry::of(&entry) {
                        scopes.entry(entry.scope.clone()).or_default().add(&entry);
                    }
                }
                Err(error) => {
                    unread += 1;
                    answer = answer.and(Trouble::from(error).answer());
                }
            }
        }
        match self.format {
            Plain::Text => show(out, &engine, &scopes, unread)?,
            Plain::Json => writeln!(out, "{}", line(&to_json(&engine, &scopes, unread)))?,
        }
        Ok(answer)
    }
}

fn show(
    out: &mut impl Write,
    engine: &Engine,
    scopes: &BTreeMap<Vec<u8>, Counts>,
    unread: u64,
) -> Result<(), Trouble> {
    let (stats, now) = (engine.stats(), engine.now());
    let mut rows =
        table(&["scope", "done", "expired", "in flight", "interrupted", "oldest interruption", "bodies"]);
    for (scope, counts) in scopes {
        let oldest =
            counts.oldest_interruption.map(|at| format!("{} ago", spans::show(now.saturating_since(at))));
        rows.add_row([
            format!("\"{}\"", names::escaped(scope)),
            counts.done.to_string(),
            counts.expired.to_string(),
            counts.in_flight.to_string(),
            counts.interrupted.to_string(),
            oldest.unwrap_or_default(),
            bytes(counts.body_bytes),
        ]);
    }
    writeln!(out, "{rows}")?;
    if unread > 0 {
        writeln!(out, "{unread} keys can't be read: `idemkv verify` says more")?;
    }
    writeln!(out, "the file has {}", bytes(stats.file_bytes))?;
    writeln!(out, "scopes with policies of their own: {}", engine.policies().len())?;
    if stats.found_interrupted > 0 {
        writeln!(out, "{} keys were in flight when the last process died", stats.found_interrupted)?;
    }
    writeln!(out, "the engine's time: {}", spans::date(now))?;
    Ok(())
}

fn to_json(engine: &Engine, scopes: &BTreeMap<Vec<u8>, Counts>, unread: u64) -> serde_json::Value {
    let stats = engine.stats();
    let scopes = scopes.iter().map(|(scope, counts)| {
        let mut fields = Map::new();
        text(&mut fields, "scope", scope);
        for (name, value) in [
            ("done", json!(counts.done)),
            ("expired", json!(counts.expired)),
            ("in_flight", json!(counts.in_flight)),
            ("interrupted", json!(counts.interrupted)),
            ("oldest_interruption_ms", json!(counts.oldest_interruption.map(Timestamp::as_millis))),
            ("body_bytes", json!(counts.body_bytes)),
        ] {
            fields.insert(name.to_owned(), value);
        }
        Value::Object(fields)
    });
    json!({
        "scopes": scopes.collect::<Vec<_>>(),
        "unread": unread,
        "file_bytes": stats.file_bytes,
        "policies": engine.policies().len(),
        "found_interrupted": stats.found_interrupted,
        "now_ms": engine.now().as_millis(),
    })
}
