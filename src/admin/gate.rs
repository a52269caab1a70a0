//! What every request passes: the service's own decision, the check for forgery, and headers that
//! keep a browser from doing what the page does not.

use std::sync::{Arc, Weak};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use super::access::{Access, Operator};
use super::forgery;
use super::problem::Problem;
use super::samples::{INTERVAL, Sample};
use super::shared::Shared;

/// No script and no style but the two files, nothing from elsewhere, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(super) async fn pass(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    start_sampling(&shared);
    let (mut parts, body) = request.into_parts();
    let mut response = match judge(&shared, &parts) {
        Ok(operator) => {
            if let Some(operator) = operator {
                parts.extensions.insert(operator);
            }
            next.run(Request::from_parts(parts, body)).await
        }
        Err(problem) => problem.into_response(),
    };
    harden(response.headers_mut());
    response
}

fn judge(shared: &Shared, parts: &Parts) -> Result<Option<Operator>, Problem> {
    let operator = match (shared.authorize)(parts) {
        Access::Refused => return Err(Problem::refused()),
        Access::Look => None,
        Access::Change { operator } => Some(Operator(operator.into())),
    };
    if !parts.method.is_safe() {
        forgery::check(parts).map_err(Problem::forged)?;
        if operator.is_none() || shared.is_read_only {
            return Err(Problem::refused());
        }
    }
    Ok(operator)
}

fn harden(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Takes samples on this thread's runtime, until the router is gone.
pub(super) fn start_sampling(shared: &Arc<Shared>) {
    if let Some(runtime) = shared.samples.start_on() {
        drop(runtime.spawn(sample(Arc::downgrade(shared))));
    }
}

async fn sample(shared: Weak<Shared>) {
    while let Some(there) = shared.upgrade() {
        there.samples.note(Sample::of(there.engine.now().as_millis(), &there.engine.stats()));
        drop(there);
        tokio::time::sleep(INTERVAL).await;
    }
}
