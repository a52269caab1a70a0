//! Observers for the crates `metrics` and `tracing`.

#[cfg(feature = "metrics")]
mod catalogue;
#[cfg(feature = "tracing")]
mod events;
#[cfg(feature = "metrics")]
mod metrics_observer;
mod scope_label;
#[cfg(feature = "metrics")]
mod scopes;

#[cfg(feature = "tracing")]
pub use events::TracingObserver;
#[cfg(feature = "metrics")]
pub use metrics_observer::MetricsObserver;
#[cfg(all(feature = "http", feature = "tracing"))]
pub(crate) use scope_label::scope_label;
