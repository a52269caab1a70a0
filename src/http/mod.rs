//! A tower layer for the `Idempotency-Key` header: a retried request gets the stored response, and
//! the handler runs once.
//!
//! Start with [`IdempotencyLayer`]. `docs/http.md` has all of it: what each request gets, how the
//! clauses of draft-ietf-httpapi-idempotency-key-header-07 are met, and why.
//!
//! # What is stored
//!
//! Status, headers in their order, body and trailers, as the handler gave them. Never stored are
//! `Set-Cookie`, `WWW-Authenticate`, `Date`, `Content-Length`, and the headers of a connection and
//! of proxies.

mod body;
mod by_hand;
mod claim;
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
