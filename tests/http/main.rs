//! The layer for the `Idempotency-Key` header: what each request gets, what is stored, what becomes
//! of clients that hang up.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    clippy::needless_pass_by_value,
    reason = "tests"
)]

mod answers;
#[cfg(feature = "axum")]
mod axum_routes;
mod client;
mod conformance;
mod faults_of_others;
mod handler;
mod hanging_up;
mod hostile;
mod kept;
mod keys;
mod loopback;
mod presets;
mod problem_pages;
#[cfg(feature = "postgres")]
#[path = "../shared/proxy.rs"]
#[allow(dead_code, reason = "the tests of the shared store alone use the rest")]
mod proxy;
mod random_requests;
mod readiness;
#[cfg(feature = "postgres")]
#[path = "../shared/server.rs"]
#[allow(dead_code, reason = "the tests of the shared store alone use the rest")]
mod server;
#[cfg(feature = "postgres")]
mod shared_store;
#[cfg(feature = "axum")]
mod shown;
mod signatures;
#[cfg(feature = "axum")]
#[path = "../common/shown.rs"]
mod snippets;
#[cfg(feature = "tracing")]
mod spans;
#[cfg(feature = "standard-webhooks")]
mod standard_webhooks;
mod store;
