//! What a layer was told, for all of its requests.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};

use super::fingerprint::RequestFingerprint;
use super::keep::Keep;
use super::key::KeyRules;
use super::problem::Answers;
use super::scope_source::NameOf;
use crate::Timestamp;

type Verify = Arc<dyn Fn(&Parts, &[u8]) -> bool + Send + Sync>;
type KeepRule = Arc<dyn Fn(StatusCode) -> Keep + Send + Sync>;

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// All that a layer was told, but its scope and its spawner.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) keys: KeyRules,
    pub(super) is_required: bool,
    pub(super) methods: Vec<Method>,
    pub(super) tenant_of: Option<NameOf>,
    pub(super) verify: Option<Verify>,
    pub(super) fingerprint: RequestFingerprint,
    pub(super) request_bytes_max: usize,
    pub(super) response_bytes_max: usize,
    pub(super) keeps_streams: bool,
    pub(super) wait: Duration,
    /// For a claim without a lease that a handler has given to a task of its own.
    pub(super) claim_wait: Duration,
    /// For the end of a body that is to be stored.
    pub(super) body_wait: Duration,
    pub(super) keep_rule: Option<KeepRule>,
    pub(super) never_store: Vec<HeaderName>,
    pub(super) answers: Answers,
    pub(super) marks: Marks,
}

/// Headers that responses get.
#[derive(Clone)]
pub(super) struct Marks {
    /// On replays.
    pub(super) replayed: Option<(HeaderName, HeaderValue)>,
    /// The same header on first replies.
    pub(super) first: Option<HeaderValue>,
    pub(super) key: Option<HeaderName>,
    /// When the first request began, in milliseconds since 1970.
    pub(super) started: Option<HeaderName>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keys: KeyRules::default(),
            is_required: true,
            methods: vec![Method::POST, Method::PATCH],
            tenant_of: None,
            verify: None,
            fingerprint: RequestFingerprint::new(),
            request_bytes_max: 2 << 20,
            response_bytes_max: 1 << 20,
            keeps_streams: false,
            wait: Duration::ZERO,
            claim_wait: Duration::from_secs(60),
            body_wait: Duration::from_secs(60),
            keep_rule: None,
            never_store: Vec::new(),
            answers: Answers::default(),
            marks: Marks {
                replayed: Some((REPLAYED, HeaderValue::from_static("true"))),
                first: None,
                key: None,
                started: None,
            },
        }
    }
}

impl Config {
    /// Headers that are not stored, besides those that never are. The layer's own are among them:
    /// a replay has others.
    pub(super) fn never_store(&self) -> Vec<HeaderName> {
        let Marks { replayed, first: _, key, started } = &self.marks;
        let ours = replayed.iter().map(|(name, _)| name).chain(key).chain(started);
        self.never_store.iter().chain(ours).cloned().collect()
    }

    /// What is kept of a response that says nothing itself.
    pub(super) fn keep(&self, status: StatusCode) -> Keep {
        self.keep_rule.as_ref().map_or_else(|| Keep::by_default(status), |rule| rule(status))
    }
}

impl Marks {
    /// As many as there is room for: a map of headers is full at some number of names.
    pub(super) fn put(&self, headers: &mut HeaderMap, is_replay: bool, key: &str, started: Timestamp) {
        if let Some((name, replayed)) = &self.replayed
            && let Some(value) = if is_replay { Some(replayed) } else { self.first.as_ref() }
        {
            headers.try_insert(name.clone(), value.clone()).ok();
        }
        if let Some(name) = &self.key
            && let Ok(value) = HeaderValue::from_str(key)
        {
            headers.try_insert(name.clone(), value).ok();
        }
        if let Some(name) = &self.started {
            headers.try_insert(name.clone(), HeaderValue::from(started.as_millis())).ok();
        }
    }
}
