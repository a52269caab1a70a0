//! Events: what is to be handled once, however often it is delivered.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;

use idemkv::Fingerprint;
use serde_json::{Value, json};

use crate::Result;
use crate::random::Random;

/// Events that are generated where none are given.
const GENERATED: usize = 2_000;
/// The longest name of an event, which is the engine's limit for the name of a scope.
const NAME_BYTES_MAX: usize = 255;

/// One event of a sender.
#[derive(Debug)]
pub(crate) struct Event {
    /// Its line in the input, from 1. Events may be equal in all else.
    pub(crate) line: usize,
    /// What kind of event it is; the scope of its key.
    pub(crate) name: String,
    /// The idempotency key: what a sender calls the id of a delivery, and sends again with each
    /// retry.
    pub(crate) key: String,
    /// What the sender has to say, as JSON.
    pub(crate) payload: String,
    /// Of the payload.
    pub(crate) fingerprint: Fingerprint,
}

/// Where events come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// They are made up.
    Generated,
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Source {
    /// All lines of the source, and what to call it in messages.
    pub(crate) fn read(&self) -> Result<(String, Vec<u8>)> {
        let name = match self {
            Self::Generated => "generated events".to_owned(),
            Self::Stdin => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
        };
        let text = match self {
            Self::Generated => Ok(generate(GENERATED).into_bytes()),
            Self::Stdin => {
                let mut text = Vec::new();
                io::stdin().lock().read_to_end(&mut text).map(|_| text)
            }
            Self::File(path) => fs::read(path),
        };
        match text {
            Ok(text) => Ok((name, text)),
            Err(error) => Err(format!("reading {name} failed: {error}").into()),
        }
    }
}

/// Reads JSON lines: `{"event": "push", "payload": {..}}`. Empty lines are skipped.
pub(crate) fn parse(name: &str, text: &[u8]) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for (index, bytes) in text.split(|byte| *byte == b'\n').enumerate() {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let line = index + 1;
        let event = parse_line(line, bytes).map_err(|what| format!("{name}, line {line}: {what}"))?;
        events.push(event);
    }
    if events.is_empty() {
        return Err(format!("{name} holds no events; give JSON lines like {EXAMPLE}").into());
    }
    Ok(events)
}

const EXAMPLE: &str = r#"{"event": "push", "payload": {"ref": "main"}}"#;

fn parse_line(line: usize, bytes: &[u8]) -> std::result::Result<Event, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| not_json(&error))?;
    let Some(name) = value.get("event").and_then(Value::as_str) else {
        return Err(format!("no `event` that is a string; a line looks like {EXAMPLE}"));
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(format!("`event` has {} bytes; allowed is 1 to {NAME_BYTES_MAX}", name.len()));
    }
    let Some(payload) = value.get("payload") else {
        return Err(format!("no `payload`; a line looks like {EXAMPLE}"));
    };
    // Printed again, so that two spellings of one payload have one fingerprint. A service that
    // gets its payload as bytes and sees them unchanged in every retry takes the bytes as they
    // came.
    let payload = payload.to_string();
    Ok(Event {
        line,
        name: name.to_owned(),
        key: format!("delivery-{line}"),
        fingerprint: Fingerprint::of(&payload),
        payload,
    })
}

/// What is wrong with a line, with its column. The line that the error itself names is always 1
/// here.
fn not_json(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = error.to_string();
    let what = what.strip_suffix(&place).unwrap_or(&what);
    format!("not JSON at column {}: {what}", error.column())
}

/// Lines with events of a few kinds, and payloads of 200 to 4,000 bytes.
fn generate(count: usize) -> String {
    const NAMES: [&str; 6] = ["push", "issues", "pull_request", "check_run", "release", "star"];
    let mut random = Random::new(0x1de3);
    let mut lines = String::new();
    for (number, name) in (1..=count).zip(NAMES.iter().cycle()) {
        // The fields around the body take about a hundred bytes.
        let body_bytes = 100 + random.below(3_800);
        let mut body = String::with_capacity(body_bytes + 16);
        while body.len() < body_bytes {
            // Writing to a string can't fail.
            write!(body, "{:x} ", random.bits()).unwrap_or(());
        }
        let sender = format!("octocat-{}", random.below(100));
        let payload = json!({ "action": "created", "number": number, "sender": sender, "body": body });
        lines.push_str(&json!({ "event": name, "payload": payload }).to_string());
        lines.push('\n');
    }
    lines
}
