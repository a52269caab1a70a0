//! One key as text and as JSON.

use idemkv::{
    AttemptInfo, Fence, Interruption, KeyEntry, KeyHash, Outcome, Record, Status, Timestamp, Tombstone,
};
use serde_json::{Map, Value};

use crate::{hex, names, spans};

/// The state of a key, by the name that `--state` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum State {
    InFlight,
    Interrupted,
    Done,
    Expired,
}

impl State {
    /// The state of a key; `None` if it is vacant.
    pub(crate) fn of(status: &Status) -> Option<Self> {
        match status {
            Status::InFlight(_) => Some(Self::InFlight),
            Status::Interrupted(_) => Some(Self::Interrupted),
            Status::Done(_) => Some(Self::Done),
            Status::Expired(_) => Some(Self::Expired),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InFlight => "in-flight",
            Self::Interrupted => "interrupted",
            Self::Done => "done",
            Self::Expired => "expired",
        }
    }
}

/// How much of a key is shown as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// No body and no progress.
    Short,
    /// Everything.
    Full,
}

/// A key that is not vacant.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) scope: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) hash: KeyHash,
    pub(crate) state: State,
    pub(crate) status: Status,
}

/// What an operator must know before an interrupted key is changed.
pub(crate) const MAY_BE_AT_WORK: &str = "its attempt may still be at work: a worker in another process that has its \
                                         claim, or what a dead process sent last and arrives late. Look at the \
                                         system that it acts on first";

impl Entry {
    /// `None` if the key became vacant since it was listed.
    pub(crate) fn of(entry: &KeyEntry) -> Option<Self> {
        Self::new(entry.scope(), entry.key(), entry.key_hash(), entry.status().clone())
    }

    pub(crate) fn new(scope: &[u8], key: &[u8], hash: KeyHash, status: Status) -> Option<Self> {
        let state = State::of(&status)?;
        Some(Self { scope: scope.to_vec(), key: key.to_vec(), hash, state, status })
    }

    /// Since when the key is in its state; a claim counts from its start.
    pub(crate) fn since(&self) -> Timestamp {
        match &self.status {
            Status::InFlight(attempt) => attempt.started(),
            Status::Interrupted(lost) => lost.interrupted_at(),
            Status::Done(record) => record.completed(),
            Status::Expired(tombstone) => tombstone.completed(),
            _ => Timestamp::default(),
        }
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match &self.status {
            Status::Done(record) => Some(record.outcome()),
            Status::Expired(tombstone) => Some(tombstone.outcome()),
            _ => None,
        }
    }

    pub(crate) fn attempt(&self) -> u32 {
        match &self.status {
            Status::InFlight(attempt) => attempt.attempt(),
            Status::Interrupted(lost) => lost.attempt(),
            Status::Done(record) => record.attempt(),
            Status::Expired(tombstone) => tombstone.attempt(),
            _ => 0,
        }
    }

    /// Of the attempt that it is about.
    pub(crate) fn fence(&self) -> Fence {
        match &self.status {
            Status::InFlight(attempt) => attempt.fence(),
            Status::Interrupted(lost) => lost.fence(),
            Status::Done(record) => record.fence(),
            Status::Expired(tombstone) => tombstone.fence(),
            _ => Fence::default(),
        }
    }

    /// Bytes of the body or of the progress.
    pub(crate) fn bytes(&self) -> usize {
        match &self.status {
            Status::Done(record) => record.body().len(),
            Status::Interrupted(lost) => lost.last_progress().map_or(0, |progress| progress.len()),
            _ => 0,
        }
    }

    pub(crate) fn to_json(&self, detail: Detail) -> Value {
        let mut fields = Map::new();
        text(&mut fields, "scope", &self.scope);
        text(&mut fields, "key", &self.key);
        put(&mut fields, "hash", self.hash.to_string());
        put(&mut fields, "state", self.state.name());
        match &self.status {
            Status::InFlight(attempt) => put_attempt(&mut fields, attempt),
            Status::Interrupted(lost) => put_interruption(&mut fields, lost, detail),
            Status::Done(record) => put_record(&mut fields, record, detail),
            Status::Expired(tombstone) => put_tombstone(&mut fields, tombstone),
            _ => {}
        }
        Value::Object(fields)
    }
}

fn put(fields: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    fields.insert(name.to_owned(), value.into());
}

/// A field of bytes: as text if it is text, else in hexadecimal under a name with `_hex` behind.
pub(crate) fn text(fields: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => put(fields, name, text),
        Err(_not_text) => put(fields, &format!("{name}_hex"), hex::encode(bytes)),
    }
}

fn put_attempt(fields: &mut Map<String, Value>, attempt: &AttemptInfo) {
    put(fields, "attempt", attempt.attempt());
    put(fields, "fence", attempt.fence().get());
    put(fields, "started_ms", attempt.started().as_millis());
}

fn put_interruption(fields: &mut Map<String, Value>, lost: &Interruption, detail: Detail) {
    put(fields, "attempt", lost.attempt());
    put(fields, "fence", lost.fence().get());
    put(fields, "started_ms", lost.started().as_millis());
    put(fields, "interrupted_ms", lost.interrupted_at().as_millis());
    put(fields, "fingerprint", hex::encode(lost.fingerprint().as_bytes()));
    if let Some(progress) = lost.last_progress() {
        put(fields, "progress_bytes", progress.len());
        if detail == Detail::Full {
            text(fields, "progress", progress);
        }
    }
}

fn put_record(fields: &mut Map<String, Value>, record: &Record, detail: Detail) {
    put(fields, "attempt", record.attempt());
    put(fields, "fence", record.fence().get());
    put(fields, "started_ms", record.started().as_millis());
    put(fields, "completed_ms", record.completed().as_millis());
    put(fields, "expires_ms", record.expires().as_millis());
    put(fields, "remembered_until_ms", record.remembered_until().as_millis());
    put(fields, "fingerprint", hex::encode(record.fingerprint().as_bytes()));
    put(fields, "outcome", record.outcome().to_string());
    put(fields, "body_kept", record.is_body_kept());
    put(fields, "body_bytes", record.body().len());
    if detail == Detail::Full && record.is_body_kept() {
        text(fields, "body", record.body());
    }
}

fn put_tombstone(fields: &mut Map<String, Value>, tombstone: &Tombstone) {
    put(fields, "attempt", tombstone.attempt());
    put(fields, "fence", tombstone.fence().get());
    put(fields, "completed_ms", tombstone.completed().as_millis());
    put(fields, "expires_ms", tombstone.expired().as_millis());
    put(fields, "remembered_until_ms", tombstone.remembered_until().as_millis());
    put(fields, "fingerprint", hex::encode(tombstone.fingerprint().as_bytes()));
    put(fields, "outcome", tombstone.outcome().to_string());
}

/// A JSON value in one line of ASCII: no key and no body reaches a terminal as a command.
pub(crate) fn line(value: &Value) -> String {
    let mut text = String::new();
    for letter in value.to_string().chars() {
        // All but ASCII is inside of strings.
        if letter.is_ascii() && !letter.is_ascii_control() {
            text.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                text.push_str("\\u");
                text.push_str(&hex::encode(&unit.to_be_bytes()));
            }
        }
    }
    text
}

/// What a person reads of a key before a change.
pub(crate) fn describe(entry: &Entry) -> String {
    let (scope, key) = (names::escaped(&entry.scope), names::escaped(&entry.key));
    format!("key \"{key}\" (hash {}) of scope \"{scope}\"", entry.hash)
}

/// What a person should know of its state before a change.
pub(crate) fn summary(entry: &Entry) -> String {
    let (state, since, attempt) = (entry.state.name(), spans::date(entry.since()), entry.attempt());
    let more = match (entry.state, entry.outcome()) {
        (State::Interrupted, _) => format!(", progress of {} bytes", entry.bytes()),
        (State::Done, Some(outcome)) => format!(", {outcome} of {} bytes", entry.bytes()),
        _ => String::new(),
    };
    format!("{state} since {since}: attempt {attempt}{more}")
}
