//! Keys and results as JSON. Clients choose keys and may have a say in results, so all of it is
//! written in the notation of [`names`](super::names): nothing in it is invisible or turns text
//! around.

use bytes::Bytes;
use http::Response;
use serde::Serialize;

use super::journal::Change;
use super::names::escaped;
use super::problem::Problem;
use crate::http::response_of_record;
use crate::{Engine, OpenKey, Record, Status};

/// Bytes of a body or of progress that are shown.
const SHOWN: usize = 16 << 10;

/// A key in a list.
#[derive(Debug, Serialize)]
pub(super) struct ListedKey {
    scope: String,
    key: String,
    hash: String,
    state: &'static str,
    attempt: u32,
    fence: u64,
    started_ms: u64,
    since_ms: u64,
    lease_until_ms: Option<u64>,
    progress_bytes: Option<usize>,
}

impl ListedKey {
    pub(super) fn of(engine: &Engine, key: &OpenKey) -> Result<Self, Problem> {
        let attempt = key.attempt();
        let hash = engine.scope(key.scope()).key_hash(key.key()).map_err(Problem::bad)?;
        let interrupted = key.interrupted_at();
        Ok(Self {
            scope: escaped(key.scope()),
            key: escaped(key.key()),
            hash: hash.to_string(),
            state: if interrupted.is_some() { "interrupted" } else { "in-flight" },
            attempt: attempt.attempt(),
            fence: attempt.fence().get(),
            started_ms: attempt.started().as_millis(),
            since_ms: interrupted.unwrap_or(attempt.started()).as_millis(),
            lease_until_ms: key.lease_until().map(crate::Timestamp::as_millis),
            progress_bytes: key.last_progress().map(<[u8]>::len),
        })
    }

    pub(super) fn has_hash(&self, hash: &str) -> bool {
        self.hash == hash
    }
}

/// Bytes as text.
#[derive(Debug, Serialize)]
struct Shown {
    bytes: usize,
    text: String,
    /// The text is the start alone.
    is_cut: bool,
}

impl Shown {
    fn of(bytes: &[u8]) -> Self {
        let (shown, rest) = bytes.split_at(bytes.len().min(SHOWN));
        let lines: Vec<String> = shown.split(|byte| *byte == b'\n').map(escaped).collect();
        Self { bytes: bytes.len(), text: lines.join("\n"), is_cut: !rest.is_empty() }
    }
}

/// A response that the layer stored.
#[derive(Debug, Serialize)]
struct ShownResponse {
    status: u16,
    headers: Vec<(String, String)>,
    /// `None` if it was not kept.
    body: Option<Shown>,
}

impl ShownResponse {
    fn of(response: &Response<Option<Bytes>>) -> Self {
        let shown = |value: &http::HeaderValue| {
            // Such as secrets.
            if value.is_sensitive() { "(not shown)".to_owned() } else { escaped(value.as_bytes()) }
        };
        let headers = response.headers().iter();
        Self {
            status: response.status().as_u16(),
            headers: headers.map(|(name, value)| (name.to_string(), shown(value))).collect(),
            body: response.body().as_ref().map(|body| Shown::of(body)),
        }
    }
}

/// All of one key. What its state does not have is left out.
#[derive(Debug, Default, Serialize)]
pub(super) struct KeyDetails {
    scope: String,
    key: String,
    hash: String,
    state: &'static str,
    /// For how long a result given now is replayed.
    ttl_ms: u64,
    /// The last changes that operators made, the last first.
    changes: Vec<Change>,
    #[serde(flatten)]
    facts: Facts,
}

#[derive(Debug, Default, Serialize)]
struct Facts {
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remembered_until_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Shown>,
    /// The result, if it is no response of the layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<ShownResponse>,
}

impl KeyDetails {
    pub(super) fn of(
        engine: &Engine,
        scope: &[u8],
        key: &[u8],
        status: &Status,
        changes: Vec<Change>,
    ) -> Result<Self, Problem> {
        let handle = engine.scope(scope);
        let facts = facts(status)?;
        let ttl_ms = u64::try_from(handle.policy().get_ttl().as_millis()).unwrap_or(u64::MAX);
        Ok(Self {
            scope: escaped(scope),
            key: escaped(key),
            hash: handle.key_hash(key).map_err(Problem::bad)?.to_string(),
            state: state(status),
            ttl_ms,
            changes,
            facts,
        })
    }
}

/// The name of a key's state.
pub(super) fn state(status: &Status) -> &'static str {
    match status {
        Status::Vacant => "vacant",
        Status::InFlight(_) => "in-flight",
        Status::Interrupted(_) => "interrupted",
        Status::Done(_) => "done",
        Status::Expired(_) => "expired",
        Status::Unreadable(_) => "unreadable",
    }
}

fn facts(status: &Status) -> Result<Facts, Problem> {
    Ok(match status {
        Status::Vacant => Facts::default(),
        Status::InFlight(attempt) => {
            let started = Some(attempt.started().as_millis());
            let (number, fence) = (Some(attempt.attempt()), Some(attempt.fence().get()));
            Facts { attempt: number, fence, started_ms: started, since_ms: started, ..Facts::default() }
        }
        Status::Interrupted(lost) => Facts {
            attempt: Some(lost.attempt()),
            fence: Some(lost.fence().get()),
            started_ms: Some(lost.started().as_millis()),
            since_ms: Some(lost.interrupted_at().as_millis()),
            progress: lost.last_progress().map(|progress| Shown::of(progress)),
            ..Facts::default()
        },
        Status::Done(record) => of_record(record),
        Status::Expired(tombstone) => Facts {
            attempt: Some(tombstone.attempt()),
            fence: Some(tombstone.fence().get()),
            since_ms: Some(tombstone.completed().as_millis()),
            expires_ms: Some(tombstone.expired().as_millis()),
            remembered_until_ms: Some(tombstone.remembered_until().as_millis()),
            outcome: Some(tombstone.outcome().to_string()),
            ..Facts::default()
        },
        Status::Unreadable(error) => return Err(Problem::of_read(error.clone())),
    })
}

fn of_record(record: &Record) -> Facts {
    let response = response_of_record(record);
    let is_bytes = response.is_none() && record.is_body_kept();
    Facts {
        attempt: Some(record.attempt()),
        fence: Some(record.fence().get()),
        started_ms: Some(record.started().as_millis()),
        since_ms: Some(record.completed().as_millis()),
        expires_ms: Some(record.expires().as_millis()),
        remembered_until_ms: Some(record.remembered_until().as_millis()),
        outcome: Some(record.outcome().to_string()),
        progress: None,
        body: is_bytes.then(|| Shown::of(record.body())),
        response: response.as_ref().map(ShownResponse::of),
    }
}
