//! What needs axum: scopes by matched path, extractors, parts of responses.

use axum::extract::{FromRequestParts, MatchedPath, OptionalFromRequestParts};
use axum::response::{IntoResponseParts, ResponseParts};
use http::StatusCode;
use http::request::Parts;
use std::convert::Infallible;

use super::claim::{ClaimSlot, HeldClaim};
use super::keep::Keep;
use super::layer::IdempotencyLayer;
use crate::Engine;

impl IdempotencyLayer {
    /// A layer for several routes of an axum router: each has a scope of its own, named by method
    /// and path template, such as `POST /v1/charges/{id}`. With the feature `axum`.
    ///
    /// A layer around `Router::nest_service` does not learn from axum which path is matched
    /// inside. Such requests get [`Misconfigured`](super::ProblemKind::Misconfigured): put the
    /// layer on the routes of the inner router, or give the scope by name. They also get it at
    /// unknown paths if the layer is around the router's fallback: use `Router::route_layer`.
    pub fn matched_path(engine: &Engine) -> Self {
        Self::scope_by(engine, |parts| {
            let path = parts.extensions.get::<MatchedPath>()?;
            Some(format!("{} {}", parts.method, path.as_str()))
        })
    }
}

/// The claim of the request. Refused with 500 on a route without the layer, for a request that has
/// no key, and if another extractor has taken it: ask for an `Option` there.
impl<S: Sync> FromRequestParts<S> for HeldClaim {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        const NO_CLAIM: &str = "the handler asks for a claim that this request does not have";
        let claim = parts.extensions.get::<ClaimSlot>().and_then(ClaimSlot::take);
        claim.ok_or((StatusCode::INTERNAL_SERVER_ERROR, NO_CLAIM))
    }
}

/// `None` where the request has no claim.
impl<S: Sync> OptionalFromRequestParts<S> for HeldClaim {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<ClaimSlot>().and_then(ClaimSlot::take))
    }
}

/// Goes into the extensions of the response.
impl IntoResponseParts for Keep {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        response.extensions_mut().insert(self);
        Ok(response)
    }
}
