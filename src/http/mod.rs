//! A tower layer for the `Idempotency-Key` header: a retried request gets the stored response, and
//! the handler runs once.
//!
//! Start with [`IdempotencyLayer`]. `docs/http.md` has all of it: what each request gets, how the
//! clauses of draft-ietf-httpapi-idempotency-key-header-07 are met, and why.
//!
//! # What the layer sees
//!
//! Fingerprint, scope, tenant, signature and keys are taken from the URI that the client sent. With
//! the feature `axum` that is the one that the outermost router got, also for a layer inside of
//! `nest`, where handlers get what is left of it. Put the layer outside of what takes prefixes off
//! around that router; without the feature, outside of all that takes prefixes off.
//!
//! A URI that a middleware behind the router has written counts in the fingerprint too. The layer
//! cannot see a URI that a middleware wrote and a router then stripped. If a middleware makes the
//! path from a header or the login, put the layer outside of the strip, or name that value with
//! [`tenant`](IdempotencyLayer::tenant). A handler that sends a copy of its request on removes
//! `OriginalUri` from the extensions.
//!
//! # What is stored
//!
//! Status, headers in their order, body and trailers, as the handler gave them. Never stored are
//! `Set-Cookie`, `WWW-Authenticate`, `Date`, `Content-Length`, and the headers of a connection and
//! of proxies.

mod body;
mod by_hand;
mod claim;
mod client_uri;
mod config;
#[cfg(feature = "axum")]
mod extractors;
mod fingerprint;
mod headers;
mod keep;
mod key;
mod layer;
mod presets;
mod problem;
mod problem_kind;
pub mod problems;
mod refusal;
mod reply;
mod run;
mod run_attempt;
mod runs;
mod scope_source;
mod service;
mod shared;
#[cfg(feature = "standard-webhooks")]
mod standard_webhooks;
mod stored;
mod waits;

pub use body::LayerBody;
pub use by_hand::{body_of_record, response_of_record};
pub use claim::{ClaimSlot, CompleteHeldError, HeldClaim};
pub use fingerprint::RequestFingerprint;
pub use keep::Keep;
pub use key::is_uuid;
pub use layer::IdempotencyLayer;
pub use problem::Problem;
pub use problem_kind::ProblemKind;
pub use reply::Replayed;
pub use runs::DetachedRun;
pub use service::{Idempotency, ResponseFuture};
#[cfg(feature = "standard-webhooks")]
pub use standard_webhooks::StandardWebhooks;
