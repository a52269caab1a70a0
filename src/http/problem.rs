//! A problem with one request, and its answer.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Uri};
use problem_details::{JsonProblemDetails, ProblemDetails};

use super::problem_kind::ProblemKind;

/// Default of `Retry-After` where a retry runs the operation again.
const RERUN_AFTER_S: u32 = 1;

/// The member `safe_new_key`: whether the client may go on with a new key. Nothing that the server
/// sees of a request proves that no earlier try of it has run.
pub(super) const SAFE_NEW_KEY: bool = false;

/// What clients obey that retry by themselves.
const SHOULD_RETRY: [HeaderName; 2] =
    [HeaderName::from_static("stripe-should-retry"), HeaderName::from_static("x-should-retry")];

/// Says that a retry gets the same answer.
pub(super) fn forbid_retries(headers: &mut HeaderMap) {
    for name in SHOULD_RETRY {
        // Where there is no room for more headers, it stays unsaid.
        if let Ok(header) = headers.try_entry(name) {
            header.or_insert(HeaderValue::from_static("false"));
        }
    }
}

/// Whether clients take a status for one that a retry may change.
pub(super) fn invites_retries(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 425 | 429)
}

/// A problem with a request, as the client is told of it. It is in the extensions of the response,
/// and a [renderer](super::IdempotencyLayer::render) gets it.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: ProblemKind,
    status: StatusCode,
    type_uri: Option<Uri>,
    detail: String,
    is_retryable: bool,
    retry_after: Option<Duration>,
    kept: Option<KeptHead>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// What is kept of a response whose body is not.
#[derive(Clone, Debug)]
pub(super) struct KeptHead {
    pub(super) status: StatusCode,
    pub(super) location: Option<HeaderValue>,
}

impl Problem {
    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The page that explains it.
    #[must_use]
    pub fn type_uri(&self) -> Option<&Uri> {
        self.type_uri.as_ref()
    }

    /// What is wrong with this request, in a sentence for the client. It shows neither the key nor
    /// any internals of the service.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether the same request with the same key can get another answer: if its
    /// [kind](ProblemKind::is_retryable) can, or if a retry runs the operation again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.is_retryable
    }

    /// When a retry is worth while.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// With [`ResultNotKept`](ProblemKind::ResultNotKept): the status of the response that was not
    /// kept, if that is known.
    #[must_use]
    pub fn result_status(&self) -> Option<StatusCode> {
        self.kept.as_ref().map(|kept| kept.status)
    }

    /// What happened in the service, for its own logs.
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.cause.as_deref()
    }
}

/// What went wrong, before it is known how the layer answers such a thing.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: ProblemKind,
    pub(super) detail: String,
    /// A retry runs the operation again, whatever is usual for the kind.
    pub(super) reruns: bool,
    pub(super) kept: Option<KeptHead>,
    pub(super) cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl Fault {
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), reruns: false, kept: None, cause: None }
    }

    pub(super) fn because(self, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { cause: Some(Arc::new(cause)), ..self }
    }

    pub(super) fn reruns_if(self, reruns: bool) -> Self {
        Self { reruns, ..self }
    }

    pub(super) fn with_head(self, kept: KeptHead) -> Self {
        Self { kept: Some(kept), ..self }
    }
}

/// Renders a problem; the layer adds what its headers must say.
pub(super) type Renderer = Arc<dyn Fn(&Problem) -> Response<Bytes> + Send + Sync>;

/// How a layer answers problems.
#[derive(Clone)]
pub(super) struct Answers {
    statuses: Vec<(ProblemKind, StatusCode)>,
    retry_after: Vec<(ProblemKind, Duration)>,
    documentation: String,
    pub(super) renderer: Option<Renderer>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            statuses: Vec::new(),
            retry_after: Vec::new(),
            documentation: "https://docs.rs/idemkv/latest/idemkv/http/problems/".to_owned(),
            renderer: None,
        }
    }
}

impl Answers {
    pub(super) fn set_status(&mut self, kind: ProblemKind, status: StatusCode) {
        self.statuses.retain(|(other, _)| *other != kind);
        self.statuses.push((kind, status));
    }

    pub(super) fn set_retry_after(&mut self, kind: ProblemKind, after: Duration) {
        self.retry_after.retain(|(other, _)| *other != kind);
        self.retry_after.push((kind, after));
    }

    pub(super) fn set_documentation(&mut self, base: String) {
        self.documentation = base;
    }

    fn problem(&self, fault: Fault) -> Problem {
        let Fault { kind, detail, reruns, kept, cause } = fault;
        let chosen = |(other, value): &(_, StatusCode)| (*other == kind).then_some(*value);
        let after = |(other, value): &(_, Duration)| (*other == kind).then_some(*value);
        let default_s = || kind.default_retry_after_s().or_else(|| reruns.then_some(RERUN_AFTER_S));
        let default_after = || default_s().map(|s| Duration::from_secs(s.into()));
        Problem {
            kind,
            status: self.statuses.iter().find_map(chosen).unwrap_or(kind.default_status()),
            type_uri: format!("{}{}", self.documentation, kind.code()).parse().ok(),
            detail,
            is_retryable: kind.is_retryable() || reruns,
            retry_after: self.retry_after.iter().find_map(after).or_else(default_after),
            kept,
            cause,
        }
    }

    /// The answer to a request with such a fault.
    pub(super) fn answer(&self, fault: Fault) -> Response<Bytes> {
        let problem = self.problem(fault);
        let mut response = match &self.renderer {
            Some(render) => render(&problem),
            None => rendered(&problem),
        };
        let headers = response.headers_mut();
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        if let Some(after) = problem.retry_after {
            // In whole seconds, and not too early.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.entry(header::RETRY_AFTER).or_insert(HeaderValue::from(seconds));
        }
        if !problem.is_retryable {
            forbid_retries(headers);
        }
        if let Some(location) = problem.kept.as_ref().and_then(|kept| kept.location.clone()) {
            headers.entry(header::LOCATION).or_insert(location);
        }
        response.extensions_mut().insert(problem);
        response
    }
}

/// The members of a problem that are ours.
#[derive(serde::Serialize)]
struct Members {
    code: &'static str,
    retryable: bool,
    safe_new_key: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_status: Option<u16>,
}

/// RFC 9457.
fn rendered(problem: &Problem) -> Response<Bytes> {
    let kind = problem.kind;
    let members = Members {
        code: kind.code(),
        retryable: problem.is_retryable,
        safe_new_key: SAFE_NEW_KEY,
        result_status: problem.result_status().map(|status| status.as_u16()),
    };
    let mut details = ProblemDetails::new()
        .with_status(problem.status)
        .with_title(kind.title())
        .with_detail(problem.detail.as_str())
        .with_extensions(members);
    if let Some(uri) = &problem.type_uri {
        details = details.with_type(uri.clone());
    }
    // Nothing in it can't be written.
    let body = JsonProblemDetails::from(details).to_body_string().unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = problem.status;
    let content_type = HeaderValue::from_static(JsonProblemDetails::<()>::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"));
    response
}
