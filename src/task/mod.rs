//! How calls wait: threads and tasks, deadlines, and the notifiers of the engine's threads.

pub(crate) mod caller;
pub(crate) mod members;
pub(crate) mod notifier;
pub(crate) mod parker;
#[cfg_attr(
    not(any(feature = "serde", feature = "postgres")),
    allow(dead_code, reason = "for `Scope::run`, and for a shared store")
)]
pub(crate) mod reply;
pub(crate) mod timers;
pub(crate) mod wait_list;
pub(crate) mod wait_queue;
